"""What the notebooks show: turns as coloured text, and plots of who speaks when."""

import html
from collections import Counter
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from jax_switchgen.generation.trace import CUE, Response, Segment
from jax_switchgen.rollouts.records import MARKS, Rollout
from jax_switchgen.tasks.confidence import reliability

# Okabe and Ito's, told apart by the colour-blind; a cue is grey.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
CUE_COLOUR = "#8a8a8a"

# White ground and dark text whatever the notebook's theme is.
_PAGE = (
    "background:#fff;color:#111;padding:10px 14px;max-width:62em;"
    "font:14px/1.75 system-ui,sans-serif"
)


def colour_of(speaker: str, names: Sequence[str]) -> str:
    if speaker == CUE:
        return CUE_COLOUR
    return COLOURS[list(names).index(speaker) % len(COLOURS)]


def turns_html(question: str, segments: Sequence[Segment], names: Sequence[str]) -> str:
    """A response, each segment on its speaker's colour, in front of it the
    probabilities that the policy gave the candidates, in the order of the legend."""
    legend = " ".join(_on_colour(n, n, names) for n in names)
    turns = "".join(
        _probabilities(s, names) + _on_colour(s.text, s.speaker, names)
        for s in segments
    )
    return (
        f'<div style="{_PAGE}"><div style="font-size:12px">{legend}</div>'
        f'<div style="margin:4px 0 2px"><b>{html.escape(question)}</b></div>'
        f'<div style="white-space:pre-wrap">{turns}</div></div>'
    )


def _on_colour(text: str, speaker: str, names: Sequence[str]) -> str:
    colour = colour_of(speaker, names)
    # Isolated: a segment that is written from right to left stays in its place.
    style = (
        f"background:{colour}33;border-bottom:2px solid {colour};padding:1px 0;"
        "unicode-bidi:isolate"
    )
    title = html.escape(speaker, quote=True)
    return f'<span title="{title}" style="{style}">{html.escape(text)}</span>'


def _probabilities(segment: Segment, names: Sequence[str]) -> str:
    if segment.probs is None:
        return ""
    shown = " ".join(f"{segment.probs[n]:.2f}".lstrip("0") for n in names)
    return f'<sub style="color:#666;font-size:10px"> {shown} </sub>'


def legend(axes: Axes, names: Sequence[str]) -> None:
    """The speakers' colours, above the plot."""
    patches = [Patch(color=colour_of(name, names), label=name) for name in names]
    axes.legend(
        handles=patches,
        loc="lower right",
        bbox_to_anchor=(1, 1.01),
        ncols=len(patches),
        frameon=False,
    )


def plot_shares(axes: Axes, responses: Sequence[Response], names: Sequence[str]):
    """Who writes the first segment, the second, …: a bar for each, and how many
    responses have got so far."""
    turns = [[s.speaker for s in r.segments if s.speaker != CUE] for r in responses]
    longest = max(map(len, turns))
    for place in range(longest):
        counts = Counter(t[place] for t in turns if place < len(t))
        bottom, total = 0.0, counts.total()
        for name in names:
            share = counts[name] / total
            axes.bar(place + 1, share, bottom=bottom, color=colour_of(name, names))
            bottom += share
        axes.text(place + 1, 1.02, str(total), ha="center", fontsize=8, color="#555")
    axes.set(xlabel="segment", ylabel="share of responses", ylim=(0, 1.1))
    axes.set_xticks(range(1, longest + 1))
    axes.set_yticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])


def plot_timeline(axes: Axes, responses: Sequence[Response], names: Sequence[str]):
    """Each response as a line of turns, as long as it has tokens."""
    for row, response in enumerate(responses):
        start = 0
        for segment in response.segments:
            width = len(segment.token_ids)
            colour = colour_of(segment.speaker, names)
            axes.barh(row, width, left=start, color=colour, edgecolor="white")
            start += width
        if response.finish_reason == "stop":
            axes.text(start, row, " stop", va="center", fontsize=8, color="#555")
    queries = [response.request.query for response in responses]
    axes.set_yticks(range(len(queries)), [_short(query, 34) for query in queries])
    axes.invert_yaxis()
    axes.set(xlabel="tokens", xlim=(0, None))
    axes.margins(x=0.12)


def plot_utilities(axes: Axes, rollouts: Sequence[Rollout]):
    """The utility of every branch. Places stand in groups: ties, labels within chance
    and clear ones; a line joins the branches of a place, the label's is filled."""
    names = rollouts[0].pool.candidates
    ordered = sorted(rollouts, key=lambda r: (MARKS.index(r.mark), max(r.utilities)))
    for x, rollout in enumerate(ordered):
        low, high = min(rollout.utilities), max(rollout.utilities)
        axes.plot([x, x], [low, high], color="#bbbbbb", linewidth=1, zorder=1)
        for i, utility in enumerate(rollout.utilities):
            colour = colour_of(names[i], names)
            chosen = i == rollout.label and rollout.mark != "tie"
            # Side by side, so that equal ones are seen both.
            shift = (i - (len(names) - 1) / 2) * 0.3
            axes.scatter(
                x + shift,
                utility,
                s=32,
                zorder=2,
                edgecolors=colour,
                facecolors=colour if chosen else "white",
            )
    counts = Counter(rollout.mark for rollout in rollouts)
    start = -0.5
    for k, mark in enumerate(MARKS):
        end = start + counts[mark]
        if counts[mark]:
            axes.axvspan(start, end, color=("#f2f2f2", "#fafafa", "#ffffff")[k])
            middle = (start + end) / 2
            axes.text(middle, 1.02, f"{mark}: {counts[mark]}", ha="center", va="bottom")
        start = end
    axes.set(xlabel="labelled places", ylabel="utility", xlim=(-0.5, start))
    axes.set(xticks=[], ylim=(-0.06, 1.14))


def plot_calibration(
    axes: Axes, confidence_I: np.ndarray, right_I: np.ndarray, label: str, colour: str
):
    """How often a choice is right, against the probability it was given. Bins hold
    equally many choices, at least four each where there are as many."""
    bins = max(1, min(10, len(confidence_I) // 4))
    found = reliability(confidence_I, right_I, bins=bins)
    axes.plot([0, 1], [0, 1], color="#bbbbbb", linestyle="--", linewidth=1, zorder=0)
    axes.plot(found.confidence_B, found.accuracy_B, color=colour, alpha=0.5)
    axes.scatter(
        found.confidence_B, found.accuracy_B, s=20 + 8 * found.count_B, color=colour,
        label=f"{label} ({len(confidence_I)} choices)",
    )  # fmt: skip
    axes.set(xlabel="probability of the choice", ylabel="share that is right")
    axes.set(xlim=(0, 1.03), ylim=(-0.05, 1.05))
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, 1.18))


def _short(text: str, length: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"
