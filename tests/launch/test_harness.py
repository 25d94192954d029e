"""harness.py as users run it: real processes, tiny real models, a folder of tasks."""

import copy
import json
import os

import pytest

from tests.launch.conftest import WITHOUT

QUESTIONS = ["What is wet?", "Why?", "Who wrote what, and when?"]
TASKS = {
    "choose": {
        "output_type": "multiple_choice",
        "doc_to_choice": ["rain", "the sun", "no"],
        "doc_to_target": 0,
        "metric_list": [{"metric": "acc"}],
    },
    "write": {
        "output_type": "generate_until",
        "doc_to_target": "x",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 20},
        "metric_list": [{"metric": "exact_match"}],
    },
    "read": {
        "output_type": "loglikelihood_rolling",
        "doc_to_target": "{{question}}",
        "metric_list": [{"metric": "bits_per_byte"}],
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three tasks on three records."""
    folder = tmp_path_factory.mktemp("tasks")
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps({"question": q}) + "\n" for q in QUESTIONS))
    for name, task in TASKS.items():
        kwargs = {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")}
        whole = {"task": name, "dataset_path": "json", "dataset_kwargs": kwargs}
        whole |= {"test_split": "test", "doc_to_text": "Q: {{question}}\nA:"}
        (folder / f"{name}.yaml").write_text(json.dumps(whole | task))
    return folder


def without(launch, package: str, folder):
    """The launcher where a package is not installed."""
    (folder / "sitecustomize.py").write_text(WITHOUT.format(name=package))
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    other = copy.copy(launch)
    other.environment = launch.environment | {"PYTHONPATH": path}
    return other


def arguments(pool, *more: str) -> tuple[str, ...]:
    return f"--config={pool}/config.py", "--config.policy.name=switcher", *more


@pytest.mark.parametrize("system", ["switcher", "single:aligned"])
def test_a_folder_of_tasks(pool, launch, folder, tmp_path, system):
    output = tmp_path / "new" / "results.json"
    code, out, err = launch(
        *arguments(pool, f"--system={system}", f"--tasks={folder}", "--limit=2"),
        f"--output={output}",
        name="harness.py",
    )
    assert code == 0, err
    assert "loading" in err and "generate_until: 2 of 2" in err
    results = json.loads(output.read_text())
    assert set(results["results"]) == set(TASKS)
    assert 0 <= results["results"]["choose"]["acc,none"] <= 1
    assert results["results"]["read"]["bits_per_byte,none"] > 1
    assert results["config"]["system"] == system
    assert results["config"]["generation"]["segment_length"] == 8
    assert results["config"]["shortened_contexts"] == 0
    for name in TASKS:
        assert name in out
        assert len(results["samples"][name]) == 2
    for sample in results["samples"]["write"]:
        assert "\n" not in sample["resps"][0][0]


def test_what_can_be_mended_is_one_line(pool, launch, folder, tmp_path):
    tasks = f"--tasks={folder}"
    for flags, words in (
        ((tasks, "--system=swticher"), "none of single:NAME"),
        ((tasks, "--system=single:nobody"), "candidates: pretrained, aligned"),
        ((tasks, "--system=vote"), "chooses among responses"),
        ((tasks, "--system=switcher@1.3"), "--gen_kwargs=do_sample=True"),
        ((tasks,), "--system is missing"),
        ((f"--tasks={tmp_path}", "--system=switcher"), "no .yaml file of a task"),
        (
            (tasks, "--system=single:aligned", "--gen_kwargs=num_beams=4"),
            "'num_beams' is not supported",
        ),
    ):
        code, _, err = launch(*arguments(pool, *flags), name="harness.py")
        assert code == 2 and words in err.splitlines()[-1], err
        assert "Traceback" not in err


def test_names_of_tasks_are_those_of_the_harness(pool, launch):
    code, _, err = launch(
        *arguments(pool, "--system=random", "--tasks=arc_esy"), name="harness.py"
    )
    assert code == 2 and "did you mean 'arc_easy'?" in err.splitlines()[-1], err


def test_without_the_package_it_says_how_to_install_it(pool, launch, folder, tmp_path):
    code, _, err = without(launch, "lm_eval", tmp_path)(
        *arguments(pool, "--system=switcher", f"--tasks={folder}"), name="harness.py"
    )
    assert code == 2 and 'pip install "lm_eval>=' in err.splitlines()[-1], err
