"""One HTML file that shows an evaluation: scores, costs, calibration, and traces.

The file opens from disk and loads nothing. Model output is untrusted: it is embedded
as JSON without any `<`, or compressed, put in the page as text nodes only, and a
content security policy lets no script run but the page's own, by its hash.

Answers are far larger than everything else, so they lie compressed in one block per
task, which the page unpacks when it shows the task, and all blocks together stay
within `TRACE_BYTES`. What does not fit is left out by one rule, that of
`_Packer._queue`, and the page says how much that is.
"""

import base64
import bisect
import gzip
import hashlib
import itertools
import json
import math
import zlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from jax_switchgen.generation.trace import CUE

TRACE_BYTES = 16_000_000  # of the file, which is to stay below 20 MB
MAX_PROMPT = 6_000  # characters kept
MAX_OUTPUT = 8_000
MAX_GOLD = 300
MAX_GOLDS = 12
MAX_TRIES = 6  # of fitting a block into its share of the bytes
MAX_POSITIONS = 20  # segment indices in the plot of speakers
VERSUS = (None, "gained", "lost", "same")  # stored by index
NUMERIC = frozenset("0123456789+−–<")  # what cells of numbers begin with

Row = Mapping[str, Any]


def write_report(
    path: Path,
    title: str,
    summary: Sequence[Row],
    traces: Sequence[Row],
    curves: Sequence[Row],
    tables: Sequence[Row] = (),
) -> None:
    """Writes the page.

    Args:
      summary: a row for each system and task. Scores, rates, shares and differences
        are fractions, and any number may be None. The reference is the system none
        of whose rows has a `p_holm`.
      traces: a row for each answered record.
      curves: calibration, for the systems and tasks that have it.
      tables: further measures, each of `title`, `note`, `columns` and `rows` of cells,
        which are text, numbers or None; the first of a row names it. One may have a
        `plot` of two measures: their names `x` and `y`, and `dots` of `system`, `x`,
        `left`, `right`, `y`, `low` and `high`, of which more is better.
    """
    rows = (*summary, *traces, *curves)
    systems = list(dict.fromkeys(row["system"] for row in rows))
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    speakers = _speakers(summary, traces)
    reference = _reference(summary)
    packer = _Packer(systems, speakers, reference)
    blocks, kept = packer.pack(tasks, traces)
    data = {
        "systems": systems,
        "tasks": tasks,
        "speakers": speakers,
        "cue": CUE,
        "reference": reference,
        "summary": summary,
        "curves": curves,
        "plots": [table.get("plot") for table in tables],
        "positions": _positions(traces, speakers),
        "counts": _counts(traces, kept),
        "caps": {"prompt": MAX_PROMPT, "output": MAX_OUTPUT, "bytes": TRACE_BYTES},
    }
    folder = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = ("report.js", "report_plots.js", "report_scatter.js", "report_traces.js")
    scripts = [Markup((folder / name).read_text("utf-8")) for name in names]
    style = Markup((folder / "report.css").read_text("utf-8"))
    page = environment.get_template("report.html.jinja").render(
        title=title,
        data=_finite(data),
        blocks=blocks,
        tables=[_written(table) for table in tables],
        scripts=scripts,
        script_hashes=[_csp_hash(script) for script in scripts],
        style=style,
        style_hash=_csp_hash(style),
    )
    # Bytes: a hash in the policy fails where a platform rewrites line ends.
    path.write_bytes(page.encode("utf-8", errors="replace"))


def _csp_hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def _written(table: Row) -> dict[str, Any]:
    """A table as text; each heading and cell with its style, that of numbers or none.

    A column is of numbers where all its cells begin as numbers do.
    """
    rows = [[_cell(value) for value in row] for row in table["rows"]]
    styles = [
        "number" if all(cell[:1] in NUMERIC for cell in column if cell) else ""
        for column in zip(*rows, strict=True)
    ] or [""] * len(table["columns"])
    return {
        "title": table["title"],
        "note": table["note"],
        "columns": list(zip(table["columns"], styles, strict=True)),
        "rows": [list(zip(row, styles, strict=True)) for row in rows],
    }


def _cell(value: str | float | None) -> str:
    """In: 1234, 0.25, None. Out: "1,234", "0.25" and a dash."""
    if value is None or value != value:  # NaN
        return "–"
    if isinstance(value, str):
        return value
    return f"{value:,.6g}".replace("-", "−")


def _finite(value: Any) -> Any:
    """JSON has no NaN: what is not finite becomes None, like what is missing."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _reference(summary: Sequence[Row]) -> str | None:
    compared = {row["system"] for row in summary if row.get("p_holm") is not None}
    others = [row["system"] for row in summary if row["system"] not in compared]
    return others[0] if others else None


def _speakers(summary: Sequence[Row], traces: Sequence[Row]) -> list[str]:
    """Everyone who spoke or could have, in order of appearance; cues come last."""
    names: dict[str, None] = {}
    for row in summary:
        names.update(dict.fromkeys(row.get("shares") or ()))
    for trace in traces:
        for segment in trace["segments"]:
            names[segment["speaker"]] = None
            if segment["probs"]:
                names.update(dict.fromkeys(segment["probs"]))
    return [name for name in names if name != CUE] + [CUE] * (CUE in names)


def _positions(traces: Sequence[Row], speakers: Sequence[str]) -> list[Row]:
    """How often each speaker wrote the i-th segment; cues are no segments here."""
    index = {name: i for i, name in enumerate(speakers)}
    counts: dict[tuple[str, str], list[list[int]]] = defaultdict(list)
    for trace in traces:
        table = counts[trace["system"], trace["task"]]
        spoken = [s["speaker"] for s in trace["segments"] if s["speaker"] != CUE]
        for position, name in enumerate(spoken[:MAX_POSITIONS]):
            if position == len(table):
                table.append([0] * len(speakers))
            table[position][index[name]] += 1
    return [
        {"system": system, "task": task, "counts": table}
        for (system, task), table in counts.items()
    ]


def _counts(traces: Sequence[Row], kept: Sequence[Row]) -> list[Row]:
    """By system and task: how many answers there are of each kind, and were kept."""
    tallies: dict[tuple[str, str], tuple[Counter[str], Counter[str]]]
    tallies = defaultdict(lambda: (Counter(), Counter()))
    for which, rows in enumerate((traces, kept)):
        for trace in rows:
            tally = tallies[trace["system"], trace["task"]][which]
            tally["all"] += 1
            tally["unparsed"] += not trace["parsed"]
            if trace["versus"] in ("gained", "lost"):
                tally[trace["versus"]] += 1
    kinds = ("all", "gained", "lost", "unparsed")
    return [
        {"system": system, "task": task}
        | {kind: [total[kind], some[kind]] for kind in kinds}
        for (system, task), (total, some) in tallies.items()
    ]


class _Packer:
    """Chooses the traces that fit, and writes them as one block for each task."""

    def __init__(
        self, systems: Sequence[str], speakers: Sequence[str], reference: str | None
    ):
        self.systems = {name: i for i, name in enumerate(systems)}
        self.speakers = {name: i for i, name in enumerate(speakers)}
        self.reference = reference
        # Characters per byte of a block: gzip and base64 leave about half of English
        # text; what they leave of this run's is known after the first block.
        self.ratio = 2.0

    def pack(
        self, tasks: Sequence[str], traces: Sequence[Row]
    ) -> tuple[list[str], list[Row]]:
        """Returns a block for each task, and the traces in the blocks."""
        by_task: dict[str, list[Row]] = defaultdict(list)
        for trace in traces:
            by_task[trace["task"]].append(trace)
        # From the smallest: what a task leaves of its share passes to the larger.
        order = sorted(tasks, key=lambda task: sum(map(_size, by_task[task])))
        blocks: dict[str, str] = {}
        kept: list[Row] = []
        left = TRACE_BYTES
        for done, task in enumerate(order):
            blocks[task], chosen = self._fit(by_task[task], left // (len(order) - done))
            left -= len(blocks[task])
            kept += chosen
        return [blocks[task] for task in tasks], kept

    def _fit(self, traces: Sequence[Row], budget: int) -> tuple[str, list[Row]]:
        """A block within the budget, and the traces in it."""
        queue = self._queue(traces)
        if not queue:
            return self._block([]), []
        sizes = list(itertools.accumulate(map(_size, queue)))
        best = self._block([])
        low, high = 0, len(queue)  # so many fit for certain; more cannot
        for _ in range(MAX_TRIES):
            guess = bisect.bisect_right(sizes, budget * self.ratio)
            count = min(max(guess, low + 1), high)
            block = self._block(queue[:count])
            if len(block) > budget:
                high = count - 1
            else:
                best, low = block, count
            if low == high or 0.85 * budget < len(best):
                break
            # Aims below the budget: a miss costs another try.
            self.ratio = 0.95 * sizes[count - 1] / len(block)
        return best, queue[:low]

    def _queue(self, traces: Sequence[Row]) -> list[Row]:
        """The order in which traces are kept: the n-th of every system together.

        Changes against the reference tell most, then answers without a parse. Among
        equals the order is by a hash of id and seed, so that all systems keep the
        same records as far as they can. The reference's answer to the same question
        comes right before an answer.
        """
        ranked: dict[str, list[Row]] = defaultdict(list)
        answers: dict[tuple, dict[Any, Row]] = defaultdict(dict)
        for trace in sorted(traces, key=_rank):
            ranked[trace["system"]].append(trace)
            if trace["system"] == self.reference:
                answers[_question(trace)].setdefault(trace["seed"], trace)
        place: dict[int, int] = {}
        for rows in ranked.values():
            for i, trace in enumerate(rows):
                place[id(trace)] = min(i, place.get(id(trace), i))
                by_seed = answers.get(_question(trace))
                if by_seed:
                    first = next(iter(by_seed.values()))
                    beside = id(by_seed.get(trace["seed"], first))
                    place[beside] = min(i, place.get(beside, i))
        return sorted(
            traces, key=lambda t: (place[id(t)], t["system"] != self.reference)
        )

    def _block(self, traces: Sequence[Row]) -> str:
        """Base64 of gzip of JSON; report_traces.js reads the fields by position."""
        records: dict[tuple, int] = {}
        questions: list[list[Any]] = []
        rows: list[list[Any]] = []
        for trace in traces:
            key = _question(trace)
            if key not in records:
                records[key] = len(questions)
                prompt, left = _cap(trace["prompt"], MAX_PROMPT)
                golds = [_cap(str(g), MAX_GOLD)[0] for g in trace["golds"][:MAX_GOLDS]]
                more = len(trace["golds"]) - len(golds)
                questions.append(
                    [trace["id"], trace["category"], prompt, left, golds, more]
                )
            rows.append(self._row(trace, records[key]))
        # Answers to one question are alike, and gzip looks back 32 kB only.
        rows.sort(key=lambda row: row[1])
        text = json.dumps([questions, rows], separators=(",", ":"))
        packed = gzip.compress(text.encode(), compresslevel=6, mtime=0)
        return base64.b64encode(packed).decode()

    def _row(self, trace: Row, record: int) -> list[Any]:
        segments = []
        room = MAX_OUTPUT
        for segment in trace["segments"]:
            text, _ = _cap(segment["text"], room)
            room -= len(text)
            probs = segment["probs"]
            segments.append(
                [
                    self.speakers[segment["speaker"]],
                    text,
                    segment["tokens"],
                    probs and [_short(probs.get(name)) for name in self.speakers],
                ]
            )
        joined = "".join(segment["text"] for segment in trace["segments"])
        # Some systems answer with other text than their segments, as by a vote.
        output = None if joined == trace["output"] else trace["output"]
        return [
            self.systems[trace["system"]],
            record,
            trace["seed"],
            _short(trace["value"]),
            int(bool(trace["parsed"])),
            VERSUS.index(trace["versus"]),
            trace["finish_reason"],
            segments,
            len(joined) - MAX_OUTPUT + room,
            output and _cap(output, MAX_OUTPUT),
        ]


def _question(trace: Row) -> tuple[str, str]:
    """Ids alone are not unique in every data set (MATH repeats some)."""
    return str(trace["id"]), trace["prompt"]


def _rank(trace: Row) -> tuple[int, int]:
    changed = trace["versus"] in ("gained", "lost")
    kind = 0 if changed else 1 if not trace["parsed"] else 2
    return kind, zlib.crc32(f"{trace['id']} {trace['seed']}".encode("utf-8", "replace"))


def _size(trace: Row) -> int:
    """Characters that a trace takes, roughly; its question counts as half shared."""
    text = min(len(trace["output"]), MAX_OUTPUT)
    return (
        text
        + 30 * len(trace["segments"])
        + min(len(trace["prompt"]), MAX_PROMPT) // 2
        + 100
    )


def _cap(text: str, limit: int) -> tuple[str, int]:
    """The text as far as the limit, and how many characters that leaves out."""
    return text[:limit], max(0, len(text) - limit)


def _short(number: float | None) -> float | None:
    if number is None or not math.isfinite(number):
        return None
    return round(float(number), 3)
