"""Every benchmark runs from the command line, and its numbers mean what they say."""

import json

import pytest

from jax_switchgen.generation.engine import Engine
from jax_switchgen.policies.switcher import Switcher, SwitcherOptions
from tests import tiny

NAMES = (
    *("switch_vs_reference", "decode_vs_transformers", "switch_overhead", "memory"),
    *("collect_vs_alone", "evaluate_vs_engine", "quantization", "placement"),
)


@pytest.fixture(scope="module")
def outputs(start):
    """What each prints with --quick; run side by side, each imports for seconds."""
    running = {name: start(name, "--quick") for name in NAMES}
    for each in running.values():  # all, before one of them fails the rest
        each.finish()
    return {name: each.lines() for name, each in running.items()}


def record(outputs, name):
    return json.loads(outputs[name][-1])


@pytest.mark.parametrize("name", NAMES)
def test_prints_a_table_and_one_json_line(outputs, name):
    *table, last = outputs[name]
    assert any(set(line) <= {"-", " "} for line in table), "no table"
    found = json.loads(last)
    assert found["benchmark"] == name
    assert found["machine"]["cores"] >= 1 and found["machine"]["jax"]
    assert found["settings"]["shape"] == "tiny"


def test_reference_reads_its_context_again_and_ours_does_not(outputs):
    (result,) = record(outputs, "switch_vs_reference")["results"]
    # 2 prompts of 32 words, 2 segments of 8. The second segment reads all of the prompt
    # again, for the switcher and where its speaker spoke before.
    assert result["ours_read"] < 0.85 * result["reference_read"]
    assert result["decisions"] == 2 * 2
    assert result["reference_answer_tokens"] == 2 * 2 * 5
    quotient = result["reference_seconds"]["median"] / result["ours_seconds"]["median"]
    # Seconds are printed in milliseconds, so their quotient is coarse.
    assert result["ratio"]["median"] == pytest.approx(quotient, rel=0.2)


def test_decoding_writes_the_tokens_of_transformers(outputs):
    for result in record(outputs, "decode_vs_transformers")["results"]:
        assert result["equal_rows"] == 1


def test_phases_and_reading_add_up(outputs):
    results = record(outputs, "switch_overhead")["results"]
    fixed, switching = results["fixed"], results["switching"]
    for each in (fixed, switching):
        assert sum(each["share"].values()) == pytest.approx(1, abs=0.01)
        assert each["passes"] * each["rows_per_pass"] == pytest.approx(16, rel=0.01)
    # One speaker reads the 8 prompts, all but the last of 32 tokens, and no more.
    assert fixed["candidates_read"] == 8 * 31 and fixed["switcher_read"] == 0
    assert switching["candidates_read"] > fixed["candidates_read"]
    assert switching["switcher_read"] > 8 * 32 and switching["decisions"] == 16


def test_evaluation_and_engine_write_the_same_number_of_tokens(outputs):
    results = record(outputs, "evaluate_vs_engine")["results"]
    assert results["tokens"] == {"engine": 4 * 3 * 16, "evaluation": 4 * 3 * 16}


def test_memory_counts_parameters_and_caches(outputs):
    results = record(outputs, "memory")["results"]
    # 3 candidates and a switcher: embedding, head and final norm; q and o, k and v,
    # the MLP and two norms of one layer.
    parameters = 2 * 512 * 32 + 32 + 2 * 32 * 32 + 2 * 16 * 32 + 3 * 64 * 32 + 2 * 32
    assert results["parameter_bytes"] == 4 * 4 * parameters
    # Keys and values of 2 heads x 8 for each of 4 slots x 256 positions.
    assert results["cache_bytes"] == 4 * 4 * (4 * 256) * (2 * 2 * 8)
    assert results["peak_bytes"] > results["before_models_bytes"]


def test_quantized_bytes_and_loss(outputs):
    """One byte a weight and 4 an output; norms of 32 keep 2 bytes a number."""
    layers, all_of_it = record(outputs, "quantization")["results"]
    embeddings = 2 * 512 * 32
    assert layers["bytes"] - all_of_it["bytes"] == embeddings - 4 * 2 * 512
    weights = embeddings + 2 * 32 * 32 + 2 * 16 * 32 + 3 * 64 * 32
    outs = 2 * 512 + 2 * 32 + 2 * 16 + 2 * 64 + 32
    assert all_of_it["bytes"] == weights + 4 * outs + 2 * 3 * 32
    assert 0 < layers["kl"] < all_of_it["kl"] < 0.01
    assert 0.9 < all_of_it["same_token"] <= 1


def test_made_up_text_is_read_as_the_ids_that_wrote_it(benchmark_modules):
    """Else a loop that re-reads its text would have more or less to read."""
    import pools

    tokenizer = pools.synthetic_tokenizer(512)
    ids = [5 * i % 400 + 97 for i in range(300)]
    assert tokenizer.encode(tokenizer.decode(ids)) == ids
    assert [len(tokenizer.encode(digit)) for digit in "012"] == [1, 1, 1]


def test_speakers_of_the_schedule_are_equally_likely(benchmark_modules):
    import pools

    chosen = [pools.scheduled_speaker(f"query {i}", i % 16, 3) for i in range(3000)]
    assert all(abs(chosen.count(s) - 1000) < 100 for s in range(3))


def test_the_floor_is_of_the_forwards_that_an_engine_makes(benchmark_modules):
    """Four requests of 16 tokens in two segments, by one speaker and a switcher."""
    import floor

    speakers = [tiny.speaker("a", tiny.random_model(0))]
    model = tiny.random_model(1)
    policy = Switcher(model, speakers[0].vocabulary, 1, SwitcherOptions())
    options = tiny.generation(max_new_tokens=16, ignore_stop=True)
    with floor.recorded() as forwards:
        Engine(speakers, policy, options).generate(["one", "two", "six", "ten"])
    kinds = {"decode": 0, "read": 0, "probe": 0}
    for work, count in forwards.items():
        kind = "decode" if work.head_rows else "probe" if work.last_rows else "read"
        kinds[kind] += count
        assert work.last_rows in (0, 4) and work.rows % 4 == 0
    assert kinds["decode"] == 16 and kinds["probe"] == 2 and kinds["read"] >= 1
    seconds = floor.seconds_of(forwards, model)
    assert seconds["decode"] > 0 and seconds["read"] > 0


def test_contenders_alternate(benchmark_modules):
    import harness

    order = []
    contenders = {name: lambda name=name: order.append(name) for name in "ab"}
    seconds = harness.interleave(contenders, 2)
    assert order == ["a", "b", "b", "a"]
    assert {name: len(s) for name, s in seconds.items()} == {"a": 2, "b": 2}


def test_collected_together_is_the_same_and_reads_less(outputs):
    results = record(outputs, "collect_vs_alone")["results"]
    assert results["same"]
    together, query = results["together"], results["query"]
    assert together["tokens"] == query["tokens"] == results["response"]["tokens"]
    # Prompts of 32 words; 2 branches of 2 completions read them again and again.
    assert together["read"] < 0.5 * query["read"] == 0.5 * results["response"]["read"]


def test_labels_of_rollouts_find_the_known_truth(start, tmp_path):
    """Candidates trained here; labels that are no ties name the right speaker."""
    lines = start("known_truth", "--quick", f"--folder={tmp_path}").lines()
    results = json.loads(lines[-1])["results"]
    found = [label for label in results["labels"] if label["mark"] != "tie"]
    places = sum(label["places"] for label in found)
    assert places >= 20
    assert sum(label["right"] for label in found) >= 0.95 * places
    for tests in results["tests"].values():
        assert tests["segments"]["oracle"][0] > tests["segments"]["random"][0] + 0.3


def test_a_trained_switcher_is_compared_record_by_record(start, tmp_path):
    """Two seeds of two records; by hand: 3/4 right, 1/2 of it untuned, and in hindsight
    each candidate is right about one of the records."""

    def write(folder, system, first, second):
        cell = tmp_path / folder / "cells" / system.replace(":", "-") / "task"
        cell.mkdir(parents=True)
        for seed, values in enumerate(zip(first, second, strict=True)):
            rows = [
                dict(system=system, task="task", id=str(i), value=value)
                for i, value in enumerate(values)
            ]
            lines = [json.dumps(row) for row in ({}, *rows)]
            (cell / f"seed-{seed}.jsonl").write_text("\n".join(lines))

    write("trained", "switcher", (1.0, 1.0), (1.0, 0.0))
    write("untuned", "switcher", (1.0, 0.0), (0.0, 0.0))
    write("untuned", "single:a", (1.0, 1.0), (0.0, 0.0))
    write("untuned", "single:b", (0.0, 0.0), (1.0, 1.0))
    write("untuned", "single:b@1.3", (1.0, 1.0), (1.0, 1.0))
    write("untuned", "segments:b", (0.0, 0.0), (1.0, 1.0))
    folders = [f"--{name}={tmp_path / name}" for name in ("untuned", "trained")]
    found = json.loads(start("trained_switcher", *folders).lines()[-1])["results"]
    assert found["all"] == found["task"] and found["all"]["records"] == 2
    ahead = {
        k: v["trained_ahead"][0] for k, v in found["all"].items() if k != "records"
    }
    assert ahead == {
        **{"trained switcher": 0, "untuned switcher": 0.5, "best in hindsight": -0.25},
        **{"single:a": 0.25, "single:b": 0.25, "single:b@1.3": -0.25},
        "segments:b": 0.25,
    }
    assert found["all"]["trained switcher"]["score"][0] == 0.75
