"""The report is one inert file, small, and says what it leaves out."""

import base64
import gzip
import html.parser
import json
import random
import re

import pytest

from jax_switchgen.evaluation import report

HOSTILE = (
    "</script><script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "<!--<script>",
    "\"'`${document.title='owned'}&amp;<b>bold</b>",
    "emoji 🦜 e\u0301, line \u2028 and paragraph \u2029, null \x00, half \ud83e",
    "]]>{{ 7*7 }}{% raw %}",
)
SPEAKERS = ("pretrained", "finetuned", "aligned")
WORDS = [
    "".join(random.Random(i).choices("etaoinshrdlu", k=2 + i % 9)) for i in range(900)
]


def make_run(num_tasks, num_systems, num_records, seed=0, text=None):
    """Summary, traces and curves of a made-up run, with English-like text."""
    rng = random.Random(seed)
    tasks = [f"task_{i:02}" for i in range(num_tasks)]
    systems = ["aligned", "pretrained", *(f"switch {i}" for i in range(2, num_systems))]
    words = random.Random(1).choices(
        WORDS, [1 / (i + 5) for i in range(900)], k=400_000
    )

    def prose(count):
        start = rng.randrange(len(words) - count)
        return " ".join(words[start : start + count]) + " "

    def segments(system):
        names = [system] if system in SPEAKERS else rng.choices(SPEAKERS, k=6)
        return [
            {
                "speaker": name,
                "text": text or prose(50),
                "tokens": 50,
                "probs": None if len(names) == 1 else dict.fromkeys(SPEAKERS, 1 / 3),
            }
            for name in names
        ]

    bodies = {system: [segments(system) for _ in range(400)] for system in systems}
    outputs = {
        system: ["".join(s["text"] for s in body) for body in bodies[system]]
        for system in systems
    }
    summary, traces, curves = [], [], []
    for task in tasks:
        prompts = [prose(60) for _ in range(num_records)]
        for system in systems:
            self = system == "aligned"
            score, gap = rng.uniform(0.2, 0.7), rng.uniform(-0.1, 0.2)
            summary.append(
                {"system": system, "task": task, "n": num_records, "seeds": 1}
                | {"score": score, "low": score - 0.03, "high": score + 0.03}
                | {"difference": None if self else gap, "calls": 2.0}
                | {"difference_low": None if self else gap - 0.02}
                | {"difference_high": None if self else gap + 0.02}
                | {"p_holm": None if self else 0.001 if gap > 0.05 else 0.7}
                | {"parse_rate": 0.9, "stop_rate": 0.8, "mean_tokens": 200.0}
                | {"tokens_per_s": None, "shares": {SPEAKERS[1]: 0.5, "aligned": 0.5}}
            )
            points = [[i / 10, i / 12, 10 + i] for i in range(10)]
            scores = dict.fromkeys(("ece", "ece_debiased", "brier", "auroc"), 0.1)
            curves.append(
                {"system": system, "task": task, "kind": "calibration"}
                | {"points": points, **scores, "brier": float("nan")}
            )
            for i, prompt in enumerate(prompts):
                body = rng.randrange(400)
                traces.append(
                    {"system": system, "task": task, "seed": 0, "id": i}
                    | {"category": None, "prompt": prompt, "golds": ["B", "b"]}
                    | {"output": outputs[system][body], "value": i % 2}
                    | {"parsed": i % 7 > 0, "finish_reason": "stop"}
                    | {"versus": None if self else report.VERSUS[1 + (i + body) % 3]}
                    | {"segments": bodies[system][body]}
                )
    return summary, traces, curves


def write(folder, run, title="A report"):
    path = folder / "report.html"
    report.write_report(path, title, *run)
    return path


class Elements(html.parser.HTMLParser):
    """The elements that a browser sees before any script runs."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.scripts = [], []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] == "script":
            self.scripts[-1] += data


def blocks_of(path):
    """The unpacked blocks: (questions, rows) of each task."""
    page = Elements(path)
    attributes = [attrs for tag, attrs in page.tags if tag == "script"]
    packed = [
        text
        for attrs, text in zip(attributes, page.scripts, strict=True)
        if attrs.get("class") == "block"
    ]
    return [json.loads(gzip.decompress(base64.b64decode(text))) for text in packed]


def data_of(path):
    """The embedded data, without the answers."""
    return json.loads(Elements(path).scripts[0])


def hostile_run():
    """A run where every text is an attack."""
    summary, traces, curves = make_run(1, 3, len(HOSTILE))
    for trace, text in zip(traces, HOSTILE * 3, strict=True):
        trace |= {"id": text, "prompt": text, "golds": [text], "output": text}
        trace |= {"category": text, "finish_reason": text}
        trace["segments"] = [
            {"speaker": "aligned", "text": text, "tokens": 5, "probs": None}
        ]
    for row in (*summary, *traces, *curves):
        row["task"] = HOSTILE[0]
        row["system"] = row["system"].replace("switch 2", HOSTILE[1])
    return summary, traces, curves


def test_untrusted_text_adds_no_element_and_survives(tmp_path):
    """Attacks change no tag of the page, and come back letter by letter."""
    harmless = Elements(write(tmp_path, make_run(1, 3, 6))).tags
    path = write(tmp_path, hostile_run(), title=HOSTILE[0])
    found = Elements(path).tags
    assert [tag for tag, _ in found] == [tag for tag, _ in harmless]
    [[questions, rows]] = blocks_of(path)
    assert {q[2] for q in questions} == set(HOSTILE)
    assert {row[7][0][1] for row in rows} == set(HOSTILE)
    assert data_of(path)["tasks"] == [HOSTILE[0]]


def test_page_loads_nothing(tmp_path):
    """No address to load from, no sink for HTML, and a policy against both."""
    path = write(tmp_path, make_run(2, 3, 4))
    page = Elements(path)
    for tag, attrs in page.tags:
        assert tag not in {"link", "iframe", "img", "object", "embed", "base"}
        assert not {"src", "srcset", "style"} & attrs.keys()
        assert attrs.get("href", "#").startswith("#")
        assert not any(name.startswith("on") for name in attrs)
    [policy] = [a["content"] for _, a in page.tags if "http-equiv" in a]
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy
    text = path.read_text("utf-8")
    namespaces = {"http://www.w3.org/1999/xhtml", "http://www.w3.org/2000/svg"}
    assert set(re.findall(r"https?://[^\s\"']+", text)) == namespaces
    assert not re.search(r"innerHTML|insertAdjacent|document\.write|eval\(|url\(", text)


def test_everything_is_kept_where_it_fits(tmp_path):
    """A small run loses no answer; counts tell gained, lost and unparsed."""
    run = make_run(2, 3, 30)
    path = write(tmp_path, run)
    assert sum(len(rows) for _, rows in blocks_of(path)) == len(run[1])
    for count in data_of(path)["counts"]:
        mine = [
            t
            for t in run[1]
            if (t["system"], t["task"]) == (count["system"], count["task"])
        ]
        gained = sum(t["versus"] == "gained" for t in mine)
        unparsed = sum(not t["parsed"] for t in mine)
        assert count["all"] == [30, 30]
        assert count["gained"] == [gained, gained]
        assert count["unparsed"] == [unparsed, unparsed]


@pytest.mark.parametrize("text", [None, "incompressible"])
def test_budget_holds_and_changes_are_kept_first(tmp_path, monkeypatch, text):
    """What is left out is what changed nothing, also where text packs badly."""
    monkeypatch.setattr(report, "TRACE_BYTES", 60_000)
    run = make_run(2, 3, 100)
    if text:
        for trace in run[1]:
            noise = random.Random(f"{trace['id']} {trace['system']}").choices(
                range(0x4E00, 0x9FFF), k=2000
            )
            trace["output"] = "".join(map(chr, noise))
            trace["segments"] = [trace["segments"][0] | {"text": trace["output"]}]
    path = write(tmp_path, run)
    blocks = re.findall(r'class="block">([^<]*)<', path.read_text("utf-8"))
    assert 20_000 < sum(map(len, blocks)) <= 60_000
    for count in data_of(path)["counts"]:
        assert 0 < count["all"][1] < count["all"][0]
        if count["system"] != "aligned" and not text:
            changed = count["gained"][1] + count["lost"][1]
            assert changed in (count["all"][1], count["gained"][0] + count["lost"][0])


def test_the_reference_stands_beside_every_answer(tmp_path, monkeypatch):
    """An answer that is kept keeps the reference's answer to its question."""
    monkeypatch.setattr(report, "TRACE_BYTES", 60_000)
    for _, rows in blocks_of(write(tmp_path, make_run(2, 4, 100))):
        answered = {(row[1], row[2]) for row in rows if row[0] == 0}
        assert all((row[1], row[2]) in answered for row in rows)


def test_long_texts_are_cut_with_a_count(tmp_path):
    """A cut text says how many characters it lost; what was cut is not in the file."""
    run = make_run(1, 2, 1)
    for trace in run[1]:
        trace["prompt"] = "p" * (report.MAX_PROMPT + 7)
        trace["segments"] = [trace["segments"][0] | {"text": "s" * 5_000}] * 3
        trace["output"] = "o" * (report.MAX_OUTPUT + 11)
    [[[question], rows]] = blocks_of(write(tmp_path, run))
    assert (len(question[2]), question[3]) == (report.MAX_PROMPT, 7)
    for row in rows:
        assert sum(len(s[1]) for s in row[7]) == report.MAX_OUTPUT
        assert row[8] == 15_000 - report.MAX_OUTPUT
        assert row[9][1] == 11


def test_positions_count_candidates_and_not_cues(tmp_path):
    """The i-th segment is the i-th that a candidate wrote."""
    run = make_run(1, 2, 1)
    cue = {"speaker": "cue", "text": "So: ", "tokens": 2, "probs": None}
    for trace in run[1]:
        trace["segments"] = [cue, *trace["segments"]]
    data = data_of(write(tmp_path, run))
    assert data["speakers"] == ["finetuned", "aligned", "pretrained", "cue"]
    counts = {row["system"]: row["counts"] for row in data["positions"]}
    assert counts == {"aligned": [[0, 1, 0, 0]], "pretrained": [[0, 0, 1, 0]]}


def test_an_empty_run_gives_a_page(tmp_path):
    assert data_of(write(tmp_path, ([], [], [])))["systems"] == []
