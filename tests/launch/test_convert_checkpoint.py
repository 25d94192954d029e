"""Conversion from the command line: there and back again is the same file."""

import runpy
import sys

import jax
import pytest
from absl import flags

from jax_switchgen.checkpoints.hf import load_transformer
from jax_switchgen.checkpoints.peft import export_lora, load_lora, merge
from jax_switchgen.models.lora import Lora, LoraPair
from jax_switchgen.models.params import layer_specs
from tests import tiny
from tests.launch.conftest import ROOT


@pytest.fixture(scope="module")
def main():
    """The launcher's `main`, given flags, in this process."""
    sys.path.insert(0, str(ROOT / "launch"))
    launcher = runpy.run_path(str(ROOT / "launch" / "convert_checkpoint.py"))

    def call(*arguments: str) -> int:
        flags.FLAGS.unparse_flags()
        for name in ("adapter", "dtype", "input", "output", "format"):
            flags.FLAGS[name].value = None
        flags.FLAGS(["convert_checkpoint.py", *arguments])
        return launcher["main"]()

    return call


def convert(main, source, output, form, *more) -> int:
    return main(f"--input={source}", f"--output={output}", f"--format={form}", *more)


def test_hf_to_orbax_to_hf_is_bit_exact(main, pool, tmp_path):
    store, back = tmp_path / "store", tmp_path / "back"
    assert convert(main, pool / "p", store, "orbax") == 0
    assert convert(main, store, back, "hf") == 0
    for name in ("model.safetensors", "tokenizer.json"):
        assert (back / name).read_bytes() == (pool / "p" / name).read_bytes()


def test_an_adapter_is_merged_and_written_again(main, pool, tmp_path):
    shape = layer_specs(tiny.CONFIG)["q"].shape
    keys = iter(jax.random.split(jax.random.key(0), 4))
    pairs = [
        LoraPair(
            a_RI=jax.random.normal(next(keys), (2, shape[1])),
            b_OR=jax.random.normal(next(keys), (shape[0], 2)),
            scale=2.0,
        )
        for _ in range(2)
    ]
    lora = Lora(tuple({"q": pair} for pair in pairs))
    export_lora(lora, tmp_path / "lora", tiny.CONFIG, "base")
    adapter = f"--adapter={tmp_path}/lora"
    assert convert(main, pool / "p", tmp_path / "merged", "hf", adapter) == 0
    base = load_transformer(pool / "p", dtype=jax.numpy.float32)
    merged = load_transformer(tmp_path / "merged", dtype=jax.numpy.float32)
    expected = merge(base, lora)
    leaves = zip(*map(jax.tree.leaves, (merged, expected)), strict=True)
    assert all((got == want).all() for got, want in leaves)
    assert not (merged.arrays()["layers.0.q"] == base.arrays()["layers.0.q"]).all()
    assert convert(main, pool / "p", tmp_path / "again", "peft", adapter) == 0
    again = load_lora(tmp_path / "again", tiny.CONFIG, jax.numpy.float32)
    assert (again.layers[1]["q"].a_RI == pairs[1].a_RI).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("--format=gguf",), "--format=gguf is not one of hf, orbax, peft"),
        (("--format=peft",), "--adapter is missing"),
        (("--format=hf", "--dtype=int8"), "--dtype=int8 is not one of"),
        (("--format=hf", "--output="), "--output is missing"),
        (("--format=hf", "--input=/nowhere"), "'/nowhere': no such folder"),
    ],
)
def test_wrong_flags_are_named(main, pool, tmp_path, changes, message):
    arguments = (f"--input={pool}/p", f"--output={tmp_path}/out", *changes)
    with pytest.raises(ValueError, match="(?s).+") as error:
        main(*arguments)
    assert message in str(error.value)
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(main, pool, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").touch()
    with pytest.raises(ValueError, match="exists already"):
        convert(main, pool / "p", tmp_path / "out", "hf")
