"""Loss and regret of a run as one SVG, which needs nothing to be looked at."""

import html
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Points = list[tuple[float, float]]

WIDTH, HEIGHT = 420, 300  # of a panel, with its margins
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 36, 44
TEXT_HEIGHT = 12
TRAINED, HELD_OUT, BASELINES = "#9db7d5", "#1f5fa8", "#8a8a8a"


def write_plot(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    """Draws the lines of a metrics file."""
    losses = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    evaluations = [line for line in lines if "held_out" in line]
    held_out = [(line["step"], line["held_out"]["loss"]) for line in evaluations]
    regrets = [(line["step"], line["held_out"]["regret"]) for line in evaluations]
    baselines: dict[str, Any] = next(
        (line["baselines"] for line in lines if "baselines" in line), {}
    )
    levels = {name: scores["regret"] for name, scores in baselines.items()}
    panels = [
        _panel("loss", [(losses, TRAINED), (held_out, HELD_OUT)], {}),
        _panel("regret of held-out choices", [(regrets, HELD_OUT)], levels),
    ]
    placed = "".join(
        f'<g transform="translate({i * WIDTH},0)">{panel}</g>'
        for i, panel in enumerate(panels)
    )
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * WIDTH} {HEIGHT}" '
        f'width="{2 * WIDTH}" font-family="sans-serif" font-size="11">'
        f'<rect width="100%" height="100%" fill="white"/>{placed}</svg>\n',
        encoding="utf-8",
    )


def _panel(
    title: str, curves: list[tuple[Points, str]], levels: dict[str, float]
) -> str:
    """Axes from 0, curves, and named horizontal lines."""
    points = [point for curve, _ in curves for point in curve]
    if not points:
        return _text(LEFT, TOP - 14, f"{title}: nothing was measured", "start")
    right = max(step for step, _ in points) or 1
    top = max(*(value for _, value in points), *levels.values(), 1e-9, 0)

    def x(step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * step / right

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / top

    parts = [_text(LEFT, TOP - 14, title, "start", weight="bold")]
    for value in _ticks(top):
        parts.append(_line([(x(0), y(value)), (x(right), y(value))], "#e6e6e6"))
        parts.append(_text(LEFT - 6, y(value) + 4, f"{value:g}", "end"))
    for step in _ticks(right):
        parts.append(_text(x(step), HEIGHT - BOTTOM + 16, f"{step:g}", "middle"))
    parts.append(_text(x(right), HEIGHT - 10, "step", "end"))
    for value in levels.values():
        ends = [(x(0), y(value)), (x(right), y(value))]
        parts.append(_line(ends, BASELINES, dashes="4 3"))
    for names, place in _labels({name: y(value) for name, value in levels.items()}):
        parts.append(_text(x(right), place - 3, names, "end"))
    for curve, colour in curves:
        places = [(x(step), y(value)) for step, value in curve]
        parts.append(_line(places, colour, width=1.6))
        if colour == HELD_OUT:
            parts += [
                f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2.5" fill="{colour}"/>'
                for a, b in places
            ]
    if len(curves) > 1:
        parts.append(_text(x(right), TOP - 14, "held out", "end", colour=HELD_OUT))
        parts.append(_text(x(right) - 54, TOP - 14, "trained on", "end", TRAINED))
    return "".join(parts)


def _labels(places: dict[str, float]) -> list[tuple[str, float]]:
    """Names at heights; those that would lie on each other become one."""
    groups: list[tuple[str, float]] = []
    for name, place in sorted(places.items(), key=lambda item: item[1]):
        if groups and place - groups[-1][1] < TEXT_HEIGHT:
            groups[-1] = f"{groups[-1][0]}, {name}", groups[-1][1]
        else:
            groups.append((name, place))
    return groups


def _ticks(top: float) -> list[float]:
    """Round numbers from 0 to `top`, three to seven of them."""
    power = 10 ** math.floor(math.log10(top))
    step = next(s * power for s in (0.2, 0.5, 1, 2) if top / (s * power) <= 6)
    return [round(i * step, 12) for i in range(int(top / step + 1e-9) + 1)]


def _line(points: Points, colour: str, width: float = 1, dashes: str = "none") -> str:
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return (
        f'<polyline points="{joined}" fill="none" stroke="{colour}" '
        f'stroke-width="{width}" stroke-dasharray="{dashes}"/>'
    )


def _text(
    x: float,
    y: float,
    text: str,
    anchor: str,
    colour: str = "#333333",
    weight: str = "normal",
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" '
        f'font-weight="{weight}">{html.escape(text)}</text>'
    )
