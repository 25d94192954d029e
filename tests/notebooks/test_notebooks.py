"""The notebooks run from the first cell to the last, on tiny models, and show what
their texts say; as committed they show nothing."""

import json
import os
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

from tests.launch.conftest import CHOICES, CONFIG_FILE, save_checkpoint

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("switch_generation_tpu", "train_switcher")
# Of one cell: a limit for what hangs, far above what a slow machine needs.
SECONDS = 1200

# The untuned switcher chooses, flattened so that both speak.
FURTHER = """
_pool = get_config


def get_config(variant=""):
    config = _pool(variant)
    config.policy.name = "switcher"
    config.generation.batch_size = 1  # half as many programs
    config.switcher.temperature = 3.0
    config.switcher.top_p = 1.0
    config.training = presets.training(("none",), "none", compute_dtype="float32")
    config.training.lora_rank = 4
    config.training.remat = False
    return config
"""


def read(name):
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """A folder with two checkpoints, questions, and the config of their pool."""
    folder = tmp_path_factory.mktemp("pool")
    save_checkpoint(folder / "p", seed=0)
    save_checkpoint(folder / "a", seed=1)
    content = CONFIG_FILE.format(folder=str(folder)) + FURTHER
    (folder / "config.py").write_text(content)
    questions = [
        {
            "id": i,
            "question": f"Colour {i}?",
            "choices": CHOICES,
            "answer": "ABC"[i % 3],
        }
        for i in range(12)
    ]
    (folder / "mine.jsonl").write_text("\n".join(map(json.dumps, questions)) + "\n")
    return folder


@pytest.fixture(scope="module")
def executed(pool, tmp_path_factory):
    """Runs a notebook with other parameters; its cells by id, and its output folder."""

    def execute(name, **parameters):
        notebook, folder = read(name), tmp_path_factory.mktemp(name)
        known = set(re.findall(r"^([A-Z_]+) =", cell_of(notebook, "parameters"), re.M))
        parameters |= {"CONFIG": f"{pool}/config.py", "OUTPUT": f"{folder}/output"}
        assert set(parameters) <= known
        place = next(
            i
            for i, cell in enumerate(notebook.cells)
            if "parameters" in cell.metadata.get("tags", ())
        )
        lines = "\n".join(f"{key} = {value!r}" for key, value in parameters.items())
        notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(lines))
        environment = os.environ | {
            "JAX_SWITCHGEN_CACHE": str(pool / "cache"),  # programs of both notebooks
            "HF_HUB_OFFLINE": "1",
            "IPYTHONDIR": str(folder / "ipython"),
            "PYTHONPATH": str(ROOT),
            # One device, and fast to compile.
            "XLA_FLAGS": "--xla_backend_optimization_level=0 "
            "--xla_llvm_disable_expensive_passes=true",
        }
        client = NotebookClient(
            notebook,
            timeout=SECONDS,
            startup_timeout=SECONDS,
            resources={"metadata": {"path": str(ROOT / "notebooks")}},
        )
        client.execute(env=environment)
        return {cell.id: cell for cell in notebook.cells}, folder / "output"

    return execute


def cell_of(notebook, name):
    return next(cell.source for cell in notebook.cells if cell.id == name)


def shown(cell, kind):
    """All of one kind that a cell shows: text, or a MIME type."""
    if kind == "text":
        return "".join(o.text for o in cell.outputs if o.output_type == "stream")
    return [o.data[kind] for o in cell.outputs if kind in o.get("data", {})]


def lines(cell):
    """How many lines of text it shows: of a launcher's progress, few."""
    return shown(cell, "text").count("\n")


def speakers(html):
    """Who wrote the turns that stand behind probabilities."""
    return set(re.findall(r'</sub><span title="(\w+)"', html))


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_are_kept_without_outputs(name):
    """And with nothing that changes when somebody runs them."""
    notebook = read(name)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.language_info == {"name": "python"}
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    for cell in notebook.cells:
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", cell.id), cell.id
        tags = {"tags": ["parameters"]} if cell.id == "parameters" else {}
        assert cell.metadata == tags, cell.id
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None, cell.id


def test_switch_generation(executed):
    cells, output = executed(
        "switch_generation_tpu",
        QUESTIONS=("Why is <b>it</b> so?", "And why not?"),
        SEGMENT_LENGTH=8,
        MAX_NEW_TOKENS=32,
        ROLLOUT_TASKS=(),
        RECORDS=8,
        COMPLETIONS=2,
        ROLLOUT_TOKENS=24,
        EPOCHS=2,
    )
    assert "config.py" in shown(cells["backend"], "text")
    for name in ("generate", "compare"):
        (html,) = shown(cells[name], "text/html")
        assert "Why is &lt;b&gt;it&lt;/b&gt; so?" in html and "And why not?" in html
        if name == "generate":
            assert speakers(html) == {"pretrained", "aligned"}
    for name in ("who", "compare-numbers"):
        assert len(shown(cells[name], "image/png")) == 1, name
    assert "16 places" in shown(cells["collect"], "text")
    (svg,) = shown(cells["train"], "image/svg+xml")
    assert "regret of held-out choices" in svg
    assert (output / "training/switcher/adapter_model.safetensors").is_file()
    numbers = shown(cells["compare-numbers"], "text")
    for title in ("untuned: mean", "trained: mean", "untrained: loss", "trained: loss"):
        assert title in numbers
    stores = [p for p in (output / "checkpoints").iterdir()]
    assert len(stores) == 2  # the switcher is one of the candidates


def test_train_switcher(executed):
    cells, output = executed(
        "train_switcher",
        TASKS=(),
        RECORDS=12,
        COMPLETIONS=2,
        SEGMENT_LENGTH=8,
        MAX_NEW_TOKENS=24,
        EPOCHS=2,
        QUESTIONS=("Why?", "How?", "Who?"),
    )
    assert "24 places" in shown(cells["collect"], "text")
    assert max(lines(cells[name]) for name in ("collect", "train", "use")) < 80
    for name in ("labels", "calibration"):
        assert len(shown(cells[name], "image/png")) == 1, name
    assert "Colour" in shown(cells["example"], "text/html")[0]
    assert "The answer is model" in shown(cells["example"], "text")
    (svg,) = shown(cells["train"], "image/svg+xml")
    assert "regret of held-out choices" in svg
    results = json.loads((output / "training/results.json").read_text())
    table = shown(cells["results"], "text")
    assert f"{results['trained']['loss']:.3f}" in table and "always aligned" in table
    calibration = shown(cells["calibration"], "text")
    assert "untrained: mean probability" in calibration
    assert (output / "training/switcher/adapter_model.safetensors").is_file()
    found = shown(cells["answers"], "text/html")
    assert len(found) == 3
    assert speakers("".join(found)) == {"pretrained", "aligned"}


def test_the_machine_decides_on_the_pool(capsys):
    """And where it is the demo's, the output says so."""
    from notebooks import support

    assert support.choose_config(None, "tpu") == "configs/colab_tpu.py"
    assert "demo" not in capsys.readouterr().out
    assert support.choose_config(None, "cpu") == "configs/demo.py"
    assert "No TPU was found" in (said := capsys.readouterr().out)
    assert "demo weights" in said
    assert support.choose_config("mine.py", "tpu") == "mine.py"


def test_a_launcher_that_fails_stops_the_notebook(monkeypatch):
    from notebooks import support

    monkeypatch.chdir(ROOT)
    with pytest.raises(RuntimeError, match="launch/generate.py: error: .*nowhere.py"):
        support.launch("generate", "--config=nowhere.py", "--prompt=Why?")


def test_text_of_models_is_inert():
    """And each segment stands on its speaker's colour."""
    from jax_switchgen.generation.trace import Segment
    from notebooks import pictures

    names = ("a", 'b"')
    segments = [
        Segment("a", [1], "<script>x</script>", {"a": 0.25, 'b"': 0.75}),
        Segment('b"', [2], "& more", None),
    ]
    html = pictures.turns_html("<i>?</i>", segments, names)
    assert "<script" not in html and "<i>" not in html and 'title="b""' not in html
    assert ".25 .75" in html and "&amp; more" in html
    for colour in pictures.COLOURS[:2]:
        assert html.count(f"border-bottom:2px solid {colour}") == 2  # with the legend's


def test_calibration_groups_hold_several_choices():
    from matplotlib.figure import Figure

    from notebooks import pictures

    axes = Figure().add_subplot()
    confidence_I, right_I = np.linspace(0.5, 1, 40), np.arange(40) % 2 == 0
    pictures.plot_calibration(axes, confidence_I, right_I, "x", "#000000")
    (points,) = axes.collections
    assert len(points.get_offsets()) == 10
