"""The plot is one valid file that shows every number."""

import xml.etree.ElementTree as ElementTree

from jax_switchgen.training.plot import write_plot

SVG = "{http://www.w3.org/2000/svg}"
LINES = [
    {
        "step": 0,
        "baselines": {
            "always <b>": {"accuracy": 0.5, "regret": 0.4},
            "random": {"accuracy": 0.5, "regret": 0.2},
            "majority": {"accuracy": 0.5, "regret": 0.4},
        },
    },
    {"step": 0, "held_out": {"loss": 2.0, "regret": 0.3}},
    *({"step": i, "loss": 2.0 / i} for i in range(1, 11)),
    {"step": 10, "held_out": {"loss": 0.5, "regret": 0.1}},
]


def drawn(path):
    root = ElementTree.fromstring(path.read_text())
    assert root.tag == f"{SVG}svg"
    left, right = root.findall(f"{SVG}g")
    return [
        (
            [text.text for text in panel.iter(f"{SVG}text")],
            [line.get("points").split() for line in panel.iter(f"{SVG}polyline")],
        )
        for panel in (left, right)
    ]


def test_loss_and_regret_are_drawn(tmp_path):
    write_plot(tmp_path / "plot.svg", LINES)
    (left_texts, left_lines), (right_texts, right_lines) = drawn(tmp_path / "plot.svg")
    assert "loss" in left_texts and "random" in right_texts
    assert "always <b>, majority" in right_texts, "not one on the other"
    assert len(left_lines[-2]) == 10 and len(left_lines[-1]) == 2
    regrets = [tuple(map(float, p.split(","))) for p in right_lines[-1]]
    assert regrets[0][0] < regrets[1][0], "later is further right"
    assert regrets[0][1] < regrets[1][1], "less regret is further down"
    # Axes begin at 0: a third of the regret is a third of the height.
    bottom = max(float(p.split(",")[1]) for line in right_lines for p in line)
    heights = [bottom - y for _, y in regrets]
    assert abs(heights[0] / heights[1] - 3) < 0.02


def test_runs_without_evaluation_or_loss_are_drawn_too(tmp_path):
    write_plot(tmp_path / "plot.svg", [{"step": 1, "loss": 1e-3}])
    (_, lines), (texts, _) = drawn(tmp_path / "plot.svg")
    assert any(len(line) == 1 for line in lines)
    assert "nothing was measured" in texts[0]
    flat = {"step": 0, "held_out": {"loss": 0.0, "regret": 0.0}}
    write_plot(tmp_path / "flat.svg", [flat])
    assert "nan" not in (tmp_path / "flat.svg").read_text()
