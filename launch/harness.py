"""Runs tasks of EleutherAI's lm-evaluation-harness on one of our systems.

    pip install "lm_eval>=0.4.13"

A folder of task files; with data on disk it needs no network:
  python launch/harness.py --config=configs/demo.py --system=switcher \\
      --tasks=FOLDER --output=results.json

The harness's own tasks by name, group or pattern, whose data come from the Hugging Face
hub; --limit takes the first records of each task:
  python launch/harness.py --config=configs/demo.py --system=single:aligned \\
      --tasks=arc_easy,gsm8k --limit=20 --num_fewshot=2

Systems: single:NAME, segments:NAME, switcher, random, round_robin.

Prints the harness's table; OUTPUT has the scores, and every request with its answer.
Tasks say how they generate: greedily if they say nothing, and then as long as the
config's generation.max_new_tokens. --gen_kwargs=do_sample=True,temperature=0.7 changes
what they say.

Continuations begin with a space, as a base model writes them after "Answer:";
with --apply_chat_template they do not, as a chat model begins its answer. Either way
each candidate reads the question in its own prompt_format. Examples (--num_fewshot)
stand in the question.
"""

import difflib
import importlib.util
import json
import time
from pathlib import Path
from typing import Any

from absl import flags
from command_line import EXIT_OK, as_json, define_config, read_pool, required, run

PACKAGE = "lm_eval>=0.4.13"
SECONDS_BETWEEN_LINES = 2.0

CONFIG = define_config()
SYSTEM = flags.DEFINE_string("system", None, "The system that is asked.")
TASKS = flags.DEFINE_list("tasks", None, "Folders of tasks, or names of tasks.")
LIMIT = flags.DEFINE_integer("limit", None, "The first records of each task.", 1)
NUM_FEWSHOT = flags.DEFINE_integer("num_fewshot", None, "Examples in a question.", 0)
GEN_KWARGS = flags.DEFINE_string("gen_kwargs", None, "As in max_gen_toks=64,top_p=0.9.")
CHAT = flags.DEFINE_bool("apply_chat_template", False, "No space before answers.")
OUTPUT = flags.DEFINE_string("output", None, "A JSON file of results.")


def main() -> int:
    asked, system = required(TASKS), required(SYSTEM)
    if importlib.util.find_spec("lm_eval") is None:
        raise ValueError(f'the harness is not installed: pip install "{PACKAGE}"')
    # Imported late: these take seconds, and help and wrong flags need none of them.
    from lm_eval.utils import handle_non_serializable, make_table

    from jax_switchgen.generation.display import Notes

    config = read_pool(required(CONFIG))
    check_system(system, config)
    manager, names = find_tasks(asked)
    if OUTPUT.value:
        Path(OUTPUT.value).parent.mkdir(parents=True, exist_ok=True)
    with Notes() as notes:
        results = evaluate(config, system, manager, names, notes)
    if OUTPUT.value:
        results["config"] |= {"system": system, **as_json(config)}
        text = json.dumps(results, default=handle_non_serializable, ensure_ascii=False)
        Path(OUTPUT.value).write_text(text, encoding="utf-8")
    print(make_table(results))
    if results.get("groups"):
        print(make_table(results, "groups"))
    return EXIT_OK


def check_system(system: str, config: dict[str, Any]) -> None:
    """Raises ValueError for a system that cannot be asked, before models are loaded."""
    from jax_switchgen.evaluation.systems import check_systems

    check_systems([system], [candidate.name for candidate in config["candidates"]])
    if system == "switcher" and config["policy"].name != "switcher":
        raise ValueError(
            f"system 'switcher' needs policy.name='switcher', which is "
            f"{config['policy'].name!r}"
        )
    if system.startswith(("vote", "self_consistency")):
        raise ValueError(
            f"system {system!r} chooses among responses; the harness needs one that "
            "writes them: a single candidate or a switching policy"
        )
    if "@" in system:
        raise ValueError(
            f"system {system!r}: tasks say how they sample; give "
            "--gen_kwargs=do_sample=True,temperature=…"
        )


def find_tasks(asked: list[str]) -> tuple[Any, list[str]]:
    """The harness's list of tasks, and the names of those that are asked for."""
    from lm_eval.tasks import TaskManager

    folders = [Path(name) for name in asked if Path(name).is_dir()]
    patterns = [name for name in asked if not Path(name).is_dir()]
    # Reading its fourteen thousand own tasks takes seconds.
    manager = TaskManager(include_path=folders, include_defaults=bool(patterns))
    names = manager.match_tasks(patterns)
    for pattern in patterns:
        if not manager.match_tasks([pattern]):
            near = difflib.get_close_matches(pattern, manager.all_tasks, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "nor such a folder"
            raise ValueError(f"--tasks: there is no task {pattern!r}; {hint}")
    for folder in folders:
        own = TaskManager(include_path=folder, include_defaults=False).all_subtasks
        if not own:
            raise ValueError(f"--tasks={folder}: it has no .yaml file of a task")
        names += [name for name in own if name not in names]
    return manager, names


def evaluate(
    config: dict[str, Any], system: str, manager: Any, names: list[str], notes: Any
) -> dict[str, Any]:
    """What the harness's runner finds out about a system."""
    from lm_eval import simple_evaluate

    from jax_switchgen.evaluation.harness import harness_model
    from jax_switchgen.evaluation.systems import make_systems
    from jax_switchgen.policies.build import build_engine

    next_line = time.perf_counter()

    def progress(kind: str, done: int, total: int) -> None:
        nonlocal next_line
        if time.perf_counter() >= next_line or done == total:
            next_line = time.perf_counter() + SECONDS_BETWEEN_LINES
            notes.progress(f"{kind}: {done} of {total}")

    engine = build_engine(**config, progress=notes.progress)
    (made,) = make_systems([system], engine.speakers, engine.policy, engine.options)
    model = harness_model(made, seed=engine.options.seed, progress=progress)
    results = simple_evaluate(
        model,
        tasks=names,
        task_manager=manager,
        num_fewshot=NUM_FEWSHOT.value,
        limit=LIMIT.value,
        gen_kwargs=GEN_KWARGS.value,
        apply_chat_template=CHAT.value,
        fewshot_as_multiturn=False,
    )
    results["config"]["shortened_contexts"] = model.num_shortened
    if model.num_shortened:
        notes.line(
            f"{model.num_shortened} contexts were longer than the models' positions, "
            "and lost their beginning"
        )
    return results


if __name__ == "__main__":
    run(main, __doc__)
