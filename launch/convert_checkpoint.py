"""Checkpoints from one form into another.

A GGUF file, or a name on the hub, as a Hugging Face folder:
  python launch/convert_checkpoint.py --input=model.gguf --output=model --format=hf

Any checkpoint as an Orbax folder, which loads onto any mesh, and back again:
  python launch/convert_checkpoint.py --input=model --output=store --format=orbax
  python launch/convert_checkpoint.py --input=store --output=model --format=hf

A PEFT adapter added into the weights of its base; any of the two formats above:
  python launch/convert_checkpoint.py --input=base --adapter=lora --output=merged \\
      --format=hf

An adapter written again, checked against its base, in another dtype:
  python launch/convert_checkpoint.py --input=base --adapter=lora --output=lora16 \\
      --format=peft --dtype=bfloat16

--dtype is float32 or bfloat16; without it, weights keep the dtype of the input.
The output must not exist yet, and appears only when it is complete.
"""

import os
import time
from pathlib import Path

from absl import flags
from command_line import EXIT_OK, required, run

FORMATS = ("hf", "orbax", "peft")
DTYPES = ("float32", "bfloat16")

INPUT = flags.DEFINE_string("input", None, "The checkpoint, or an adapter's base.")
ADAPTER = flags.DEFINE_string("adapter", None, "A PEFT adapter over it.")
OUTPUT = flags.DEFINE_string("output", None, "The folder to write.")
FORMAT = flags.DEFINE_string("format", None, ", ".join(FORMATS))
DTYPE = flags.DEFINE_string("dtype", None, ", ".join(DTYPES))


def main() -> int:
    started = time.perf_counter()
    source, output, form = required(INPUT), Path(required(OUTPUT)), required(FORMAT)
    check_choice("format", form, FORMATS)
    if DTYPE.value is not None:
        check_choice("dtype", DTYPE.value, DTYPES)
    if form == "peft":
        required(ADAPTER)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{output}: exists already; delete it or name another folder")
    # Nothing is computed, and not every model fits on one accelerator.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    # Imported late: these take seconds, and help and wrong flags need none of them.
    from jax_switchgen.checkpoints import hf, hf_config, peft, store
    from jax_switchgen.checkpoints.resolve import resolve_checkpoint
    from jax_switchgen.generation.display import Notes

    with Notes() as notes:
        folder = resolve_checkpoint(source, notes.progress)
        adapter = None
        if ADAPTER.value is not None:
            adapter = resolve_checkpoint(ADAPTER.value, notes.progress)
        dtype = dtype_of(folder)
        if form == "peft":
            assert adapter is not None, "checked above"
            config = hf_config.read_config(folder)
            lora = peft.load_lora(adapter, config, dtype)
            notes.progress(f"writing {output}")
            peft.export_lora(lora, output, config, source)
        else:
            notes.progress(f"reading {source}")
            if store.is_store(folder):
                model = store.restore_transformer(
                    folder, dtype=dtype if DTYPE.value else None
                )
            else:
                model = hf.load_transformer(folder, dtype=dtype)
            if adapter is not None:
                model = peft.merge(
                    model, peft.load_lora(adapter, model.config, model.dtype)
                )
            dtype = model.dtype
            notes.progress(f"writing {output}")
            if form == "hf":
                hf.export_transformer(model, output, folder)
            else:
                store.save_checkpoint(model, folder, output)
    size = sum(p.stat().st_size for p in output.rglob("*") if p.is_file())
    seconds = time.perf_counter() - started
    notes.line(f"{output}: {size / 2**20:,.1f} MiB of {dtype} in {seconds:.1f} s")
    return EXIT_OK


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"--{name}={value} is not one of {', '.join(choices)}")


def dtype_of(folder: Path):
    """What --dtype says, or else the dtype that the checkpoint names."""
    import jax.numpy as jnp

    from jax_switchgen.checkpoints.hf_config import read_json

    config = read_json(folder / "config.json")
    stored = config.get("dtype") or config.get("torch_dtype") or "float32"
    try:
        return jnp.dtype(DTYPE.value or stored)
    except TypeError:
        raise ValueError(
            f"{folder / 'config.json'}: dtype {stored!r} is none; give --dtype=float32 "
            "or --dtype=bfloat16"
        ) from None


if __name__ == "__main__":
    run(main, __doc__)
