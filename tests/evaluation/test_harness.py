"""The harness asks our systems: parity with its `hf` model, and its own runner."""

import bisect
import itertools
import json
import math
import socket
import subprocess
import sys

import lm_eval
import numpy as np
import pytest
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager

from jax_switchgen.evaluation.harness import cut_before, harness_model
from jax_switchgen.evaluation.systems import Vote, Written
from jax_switchgen.generation.engine import Engine
from jax_switchgen.generation.likelihood import Likelihood
from jax_switchgen.generation.text import Vocabulary
from jax_switchgen.models.transformer import Transformer
from jax_switchgen.policies.simple import Fixed, Random, Schedule
from jax_switchgen.policies.switcher import Switcher, SwitcherOptions
from tests import tiny

MODELS = [tiny.letters_model(seed) for seed in range(3)]
QUESTIONS = ["What is wet?", "Why?", "A longer one: who wrote what, and when?", "x"]
CHOICES = ["rain", "the sun and the moon", "no", "Köln"]

DOCS = {
    "choose": [
        {"question": question, "choices": CHOICES, "gold": gold}
        for question, gold in itertools.product(QUESTIONS, range(4))
    ],
    "write": [
        {"question": "a", "gold": "bcde"},
        {"question": "Say c", "gold": "de"},
        {"question": "b", "gold": "cdef"},
    ],
    "read": [
        {"text": "A text of two lines,\nas they come."},
        {"text": "Köln"},
        {
            "text": "A text beyond 1024 tokens, which is all that these models read. "
            * 20
        },
    ],
}
TASKS = {
    "choose": {
        "output_type": "multiple_choice",
        "doc_to_text": "Q: {{question}}\nA:",
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
        "metric_list": [{"metric": "acc"}],
    },
    "write": {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{gold}}",
        "generation_kwargs": {"until": ["f"], "max_gen_toks": 9},
        "metric_list": [{"metric": "exact_match"}],
    },
    "read": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "bits_per_byte"}],
    },
}


def chain(text: str) -> Transformer:
    """Writes, after each character of the text, the next one, and then stops."""
    arrays = {path: 0 * x for path, x in tiny.random_model(0).arrays().items()}
    # Nothing but the last token counts: attention and feed-forward add zero.
    arrays |= {path: 1 + x for path, x in arrays.items() if path.endswith("norm")}
    ids = [*tiny.byte_tokenizer().encode(text), tiny.STOP]
    for axis, (now, after) in enumerate(itertools.pairwise(ids)):
        arrays["embed"] = arrays["embed"].at[now, axis].set(1)
        arrays["head"] = arrays["head"].at[after, axis].set(9)
    return Transformer(tiny.CONFIG, arrays)


def written(*models: Transformer, policy=None, **options) -> Written:
    speakers = [tiny.speaker(f"m{i}", model) for i, model in enumerate(models)]
    return Written("tiny", speakers, policy or Fixed(0), tiny.generation(**options))


def switching(**options) -> Written:
    """Two candidates, and a third model that chooses."""
    vocabulary = Vocabulary(tiny.byte_tokenizer())
    policy = Switcher(MODELS[2], vocabulary, 2, SwitcherOptions(top_p=1.0))
    return written(*MODELS[:2], policy=policy, **options)


def ask(kind: str, *arguments: tuple) -> list[Instance]:
    return [
        Instance(kind, {}, args, 0, ("task", number, 1))
        for number, args in enumerate(arguments)
    ]


def generate(system, *arguments: tuple) -> list[str]:
    return harness_model(system).generate_until(ask("generate_until", *arguments))


def test_likelihoods_come_in_the_order_of_the_requests():
    pairs = list(itertools.product(QUESTIONS, [f" {choice}" for choice in CHOICES]))
    texts = [(f"{question} {choice}",) for question, choice in pairs]
    told = []
    system = written(*MODELS[:2], policy=Random(2))
    model = harness_model(system, progress=lambda *line: told.append(line))
    judge = Likelihood(system.speakers, system.policy, system.options)
    found = model.loglikelihood(ask("loglikelihood", *pairs))
    np.testing.assert_allclose(found, list(judge.log_likelihoods(pairs)), rtol=1e-4)
    assert told[-1] == ("loglikelihood", 16, 16) and len(told) == 16
    rolling = model.loglikelihood_rolling(ask("loglikelihood_rolling", *texts))
    expected = list(judge.text_log_likelihoods([text for (text,) in texts]))
    np.testing.assert_allclose(rolling, expected, rtol=1e-4)
    assert all(type(value) is float for value in [*rolling, *(p for p, _ in found)])
    assert all(type(is_greedy) is bool for _, is_greedy in found)


def test_outputs_end_before_the_first_stop_string_or_at_the_budget():
    system = written(chain("abcdefgh"), max_new_tokens=40)
    outputs = generate(
        system,
        ("a", {"until": ["gh", "de", "f"]}),
        ("b", {"until": "e", "max_gen_toks": 10}),
        ("a", {"until": ["x", ""], "max_gen_toks": 3}),
        ("c", {}),
        ("a", {"until": ["b"]}),
    )
    assert outputs == ["bc", "cd", "bcd", "defgh", ""]


def test_a_stop_string_changes_nothing_before_it():
    """Whoever writes, and in whatever pieces the response is written."""
    for system in (
        switching(max_new_tokens=48),
        written(*MODELS[:2], segment_length=48, max_new_tokens=48),
    ):
        contexts = ["hello", "a question", "x"]
        sampled = {"do_sample": True, "temperature": 1.2, "top_p": 0.5}
        whole = generate(system, *((context, sampled) for context in contexts))
        until = [whole[0][3:6], whole[1][35:37]]
        ended = generate(system, *((c, sampled | {"until": until}) for c in contexts))
        assert ended == [cut_before(output, until) for output in whole]
        assert len(ended[0]) <= 3


def test_sampling_is_what_the_request_says():
    """Greedy unless it asks; each repetition is drawn anew, in any company alike."""
    system = written(MODELS[0], temperature=0.9, max_new_tokens=12)
    greedy, again, off = generate(
        system,
        ("hello", {}),
        ("hello", {}),
        ("hello", {"do_sample": False, "temperature": 0.7}),
    )
    ids = tiny.greedy(MODELS[0], tiny.byte_tokenizer().encode("hello"), 12)
    assert greedy == again == off == tiny.byte_tokenizer().decode(ids)
    sampled = ask("generate_until", ("hello", {"do_sample": True, "temperature": 1.5}))
    model = harness_model(system)
    first, second = model.generate_until(sampled * 2)
    assert len({greedy, first, second}) == 3
    others = ask("generate_until", ("x", {}), ("y", {"temperature": 1.5}))
    for number, request in enumerate(others, 7):
        request.doc_id = number
    assert model.generate_until([*others, *sampled])[-1] == first
    assert harness_model(system, seed=1).generate_until(sampled) != [first]
    # Of the nucleus of a hair's breadth, one token is left.
    narrow = {"do_sample": True, "temperature": 1.5, "top_p": 1e-6}
    assert generate(system, ("hello", narrow)) == [greedy]


def test_what_cannot_be_asked_is_refused():
    system = written(MODELS[0])
    with pytest.raises(ValueError, match="'num_beams' is not supported; there are"):
        generate(system, ("hello", {"num_beams": 4}))
    with pytest.raises(ValueError, match="'vote' chooses among responses"):
        harness_model(Vote("vote", [system]))
    examples = [{"role": role, "content": "x"} for role in ("user", "assistant")]
    with pytest.raises(ValueError, match="fewshot_as_multiturn=False"):
        harness_model(system).apply_chat_template(examples)


def test_a_context_beyond_the_positions_loses_its_beginning():
    """So that there is room for what follows, in every speaker and in the switcher."""
    long = "".join(f"{number:4}" for number in range(700))
    for system, reader in ((written(MODELS[0]), 1024), (switching(), None)):
        model = harness_model(system)
        asked = ask("loglikelihood", (long, " yes"), ("short", " yes"))
        found, short = model.loglikelihood(asked)
        assert model.num_shortened == 1
        judge = Likelihood(system.speakers, system.policy, system.options)
        lengths = range(len(long))
        kept = bisect.bisect(lengths, 0, key=lambda n: too_long(judge, long[-n - 1 :]))
        # The last token of " yes" is not read.
        assert reader in (None, kept + 3)
        expected = judge.log_likelihoods([(long[-kept:], " yes"), ("short", " yes")])
        np.testing.assert_allclose([found, short], list(expected), rtol=1e-4)
        (output,) = model.generate_until(ask("generate_until", (long, {})))
        assert model.num_shortened == 2 and 0 < len(output) <= 40
    with pytest.raises(ValueError, match="max_new_tokens=2000 is more than the 1024"):
        generate(written(MODELS[0]), (long, {"max_gen_toks": 2000}))


def too_long(judge: Likelihood, query: str) -> bool:
    try:
        judge.check(query, " yes")
    except ValueError:
        return True
    return False


@pytest.fixture
def tasks(tmp_path, monkeypatch) -> TaskManager:
    """A folder of tasks, and no network."""
    import datasets
    import huggingface_hub.constants

    def refuse(self, address):
        assert self.family not in (socket.AF_INET, socket.AF_INET6), address

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for name, task in TASKS.items():
        data = tmp_path / f"{name}.jsonl"
        data.write_text("".join(json.dumps(doc) + "\n" for doc in DOCS[name]))
        kwargs = {"data_files": {"test": str(data)}, "cache_dir": str(tmp_path / "c")}
        whole = {"task": name, "dataset_path": "json", "dataset_kwargs": kwargs}
        whole |= {"test_split": "test", **task}
        (tmp_path / f"{name}.yaml").write_text(json.dumps(whole))
    return TaskManager(include_path=str(tmp_path), include_defaults=False)


def run(model, manager: TaskManager, *names: str) -> tuple[dict, dict]:
    """Scores and samples, by task."""
    found = lm_eval.simple_evaluate(
        model, tasks=list(names), task_manager=manager, bootstrap_iters=0
    )
    return found["results"], found["samples"]


@pytest.mark.parametrize("system", [written(MODELS[0]), switching()])
def test_their_runner_scores_as_we_do_by_hand(tasks, system):
    judge = Likelihood(system.speakers, system.policy, system.options)
    right = 0
    for doc in DOCS["choose"]:
        pairs = [(f"Q: {doc['question']}\nA:", f" {c}") for c in CHOICES]
        log_probs = [log_prob for log_prob, _ in judge.log_likelihoods(pairs)]
        right += int(np.argmax(log_probs)) == doc["gold"]
    texts = [doc["text"] for doc in DOCS["read"]]
    nats = -sum(judge.text_log_likelihoods(texts))
    scores, samples = run(harness_model(system), tasks, *TASKS)
    assert 0 < right < len(DOCS["choose"])
    assert scores["choose"]["acc,none"] == right / len(DOCS["choose"])
    bits = nats / math.log(2) / sum(len(text.encode()) for text in texts)
    assert scores["read"]["bits_per_byte,none"] == pytest.approx(bits, rel=1e-4)
    assert len(samples["write"]) == len(DOCS["write"])


def test_their_runner_scores_what_we_write(tasks):
    """Two of three golds of `write` are what the chain says."""
    scores, samples = run(harness_model(written(chain("abcdefgh"))), tasks, "write")
    assert [sample["resps"] for sample in samples["write"]] == [
        [["bcde"]],
        [["de"]],
        [["cde"]],
    ]
    assert scores["write"]["exact_match,none"] == pytest.approx(2 / 3)


def test_a_switching_system_writes_as_its_engine_does():
    system = written(*MODELS[:2], policy=Schedule((0, 1)))
    engine = Engine(system.speakers, system.policy, system.options)
    whole = engine.generate(QUESTIONS)
    assert all(len(response.segments) == 5 for response in whole)
    until = whole[0].output[10:12]  # by the second speaker
    outputs = generate(
        system, *((question, {"until": until}) for question in QUESTIONS)
    )
    assert outputs == [cut_before(response.output, [until]) for response in whole]
    assert len(outputs[0]) == 10


def test_the_package_can_be_imported_without_the_harness():
    program = (
        "import sys; sys.modules['lm_eval'] = None\n"
        "import jax_switchgen.evaluation.harness\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
