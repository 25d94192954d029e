"""What a run shows: segments as they are written, progress of a job, and a summary.

Text that others may read on (a response, when stdout is no terminal) goes to stdout;
everything else goes to stderr, in colour in a terminal, as plain lines elsewhere.
"""

import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Self

from rich.console import Console, Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from jax_switchgen.decoding.programs import num_compiled
from jax_switchgen.generation.engine import Engine, Event
from jax_switchgen.generation.jobs import Job, Problem
from jax_switchgen.generation.trace import CUE, Response, Segment

# Told apart on dark and light grounds, the first three also by the colour-blind.
COLOURS = ("cyan", "yellow", "magenta", "green", "blue", "red")
CUE_COLOUR = "bright_black"
SECONDS_BETWEEN_LINES = 5.0
WIDTH_OF_LOGS = 160  # a log has none; tables need 110 to 150


class Tally:
    """Counts what the engine writes.

    Attributes:
      tokens, segments: by speaker.
      finished: responses by their finish reason.
      written: tokens by request, of those in flight.
    """

    def __init__(self, started: float):
        """Begins to count; loading took from `started` until now (perf_counter)."""
        self.tokens: Counter[str] = Counter()
        self.segments: Counter[str] = Counter()
        self.finished: Counter[str] = Counter()
        self.switches = 0
        self.written: Counter[int] = Counter()
        self.first_segment: float | None = None
        self._last_speaker: dict[int, str] = {}
        self._ready = time.perf_counter()
        self.loading = self._ready - started

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._ready

    @property
    def rate(self) -> float:
        """Tokens per second."""
        return sum(self.tokens.values()) / max(self.seconds, 1e-9)

    def add(self, event: Event) -> None:
        request, speaker = id(event.request), event.segment.speaker
        if self.first_segment is None:
            self.first_segment = self.seconds
        if speaker != CUE:
            self.tokens[speaker] += len(event.segment.token_ids)
            self.segments[speaker] += 1
            self.written[request] += len(event.segment.token_ids)
            self.switches += self._last_speaker.get(request, speaker) != speaker
            self._last_speaker[request] = speaker
        if event.response is not None:
            self.finished[event.response.finish_reason] += 1
            del self.written[request], self._last_speaker[request]


class Notes:
    """Lines on stderr; in a terminal, those of progress replace each other."""

    def __init__(self) -> None:
        width = None if sys.stderr.isatty() else WIDTH_OF_LOGS
        self.console = Console(
            stderr=True, highlight=False, soft_wrap=True, width=width
        )
        self._status = self.console.status("")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Takes the progress off the screen."""
        self._status.stop()

    def progress(self, line: str) -> None:
        if not self.console.is_terminal:
            self.line(line)
            return
        self._status.update(Text(line, style="dim"))
        self._status.start()

    def line(self, text: str) -> None:
        self.console.print(Text(text))

    def problems(self, source: str, problems: Iterable[Problem]) -> None:
        """Reports lines of a job's input that get no record."""
        for problem in problems:
            self.console.print(Text(f"{source}: {problem}", style="red"))


def show_response(
    events: Iterable[Event], names: Sequence[str], tally: Tally, notes: Notes
) -> None:
    """Shows one response; where stdout is no terminal, only its text is written."""
    out = Console(highlight=False)
    if out.is_terminal:
        out.print(_legend(names))
    response: Response | None = None
    for event in events:
        tally.add(event)
        response = event.response
        if out.is_terminal:
            out.print(_row(event.segment, names))
    assert response is not None, "the last event holds the response"
    if not out.is_terminal:
        sys.stdout.write(response.output + "\n")
    (out if out.is_terminal else notes.console).print(summary(names, tally))


def show_job(job: Job, engine: Engine, tally: Tally, notes: Notes) -> None:
    """Runs a job and shows its progress; ETA by tokens: a record counts in parts."""
    kept, total = job.num_kept, len(job.requests)
    bar = Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("records · {task.fields[speed]}"),
        console=notes.console,
        disable=not notes.console.is_terminal,
        refresh_per_second=4,
    )
    task = bar.add_task("", total=total, completed=kept, speed="")
    next_line = 0.0
    with bar:
        for event in job.run(engine):
            tally.add(event)
            done = tally.finished.total()
            parts = tally.written.total() / engine.options.max_new_tokens
            left = tally.seconds / (done + parts) * (total - kept - done - parts)
            speed = f"{tally.rate:.1f} tokens/s · {_clock(left)} left"
            bar.update(task, completed=kept + done, speed=speed)
            now = time.perf_counter()
            if bar.disable and (now >= next_line or kept + done == total):
                notes.line(f"{kept + done}/{total} records · {speed}")
                next_line = now + SECONDS_BETWEEN_LINES
    if kept < total:
        names = [speaker.name for speaker in engine.speakers]
        notes.console.print(summary(names, tally))


def summary(names: Sequence[str], tally: Tally) -> Group:
    """The table at the end: who wrote how much, how fast, with what programs."""
    total = max(1, tally.tokens.total())
    table = Table("speaker", box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("tokens", "share", "segments"):
        table.add_column(column, justify="right")
    for name in names:
        tokens = tally.tokens[name]
        table.add_row(
            Text(name, style=_colour(name, names)),
            str(tokens),
            f"{tokens / total:.0%}",
            str(tally.segments[name]),
        )
    first = tally.first_segment or 0.0
    finished = ", ".join(f"{n} x {reason}" for reason, n in tally.finished.items())
    compiled = ", ".join(f"{name} {n}" for name, n in num_compiled().items())
    facts = Text(
        f"{tally.tokens.total()} tokens in {tally.seconds:.1f} s, "
        f"{tally.rate:.1f} tokens/s · {tally.switches} switches · {finished}\n"
        f"first segment {tally.loading + first:.1f} s after the start "
        f"({tally.loading:.1f} s of it loading)\n"
        f"programs: {compiled}",
        style="dim",
    )
    return Group("", table, facts)


def _legend(names: Sequence[str]) -> Text:
    legend = Text("candidates ", style="dim")
    for name in names:
        legend.append(f" {name} ", style=_colour(name, names))
    return legend.append("  probabilities in this order\n", style="dim")


def _row(segment: Segment, names: Sequence[str]) -> Table:
    """A segment beside its speaker and the decision's probabilities."""
    probs = (
        ""
        if segment.probs is None
        else " ".join(f"{segment.probs[name]:.2f}".lstrip("0") for name in names)
    )
    colour = _colour(segment.speaker, names)
    row = Table.grid(padding=(0, 2, 0, 0), expand=True)
    row.add_column(width=max(map(len, (*names, CUE))), no_wrap=True)
    row.add_column(width=4 * len(names), no_wrap=True)
    row.add_column(ratio=1)
    row.add_row(
        Text(segment.speaker, style=f"bold {colour}"),
        Text(probs, style="dim"),
        Text(segment.text, style=colour),
    )
    return row


def _colour(name: str, names: Sequence[str]) -> str:
    return CUE_COLOUR if name == CUE else COLOURS[names.index(name) % len(COLOURS)]


def _clock(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
