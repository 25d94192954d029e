"""Plans memory and time of a config on TPUs, on a machine that has none.

  pip install -r requirements-plan.txt        (the TPU's compiler)
  python launch/plan.py --config=configs/tpu_v4.py
  python launch/plan.py --config=configs/tpu_v5e.py:v5e-8 --json=plan.json

Every program of generation, rollouts and training is compiled for the chips of
config.mesh.slice; weights are not needed, a config.json is, or a name whose sizes are
known (jax_switchgen/checkpoints/known_shapes.py). Any pool, on any slice:
  … --config.mesh.slice=v6e-4 --config.mesh.tensor=4

Prompts of another length, or some programs only, by the beginnings of their names:
  … --prompt_tokens=2048 --only=decode,train

A program of 8B takes a minute or two and 2 GB of memory, training 4 minutes and 5 GB.
Exit codes: 0 it fits, 1 it does not (the last lines say what to change), 2
an error.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from absl import flags
from command_line import (
    EXIT_OK,
    EXIT_SOME_FAILED,
    define_config,
    read_pool,
    required,
    run,
)

CONFIG = define_config()
PROMPT_TOKENS = flags.DEFINE_integer(
    "prompt_tokens", 512, "The longest prompt.", lower_bound=1
)
ONLY = flags.DEFINE_list("only", [], "Beginnings of programs' names.")
JSON = flags.DEFINE_string("json", None, "A file to write the plan to.")

# The compiler would look for the machine that it runs on; what is planned for is said
# by the config. It would let one process at a time in, as a chip does; no chip is
# opened here. A compiled program that only is looked at need not be kept.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "JAX_ENABLE_COMPILATION_CACHE": "false",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v4-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_LOG_DIR": "disabled",
}


def main() -> int:
    source = required(CONFIG)
    os.environ.update(ENVIRONMENT)
    # Imported late: these take seconds, and help and wrong flags need none of them.
    from rich.console import Console

    from jax_switchgen.generation.display import WIDTH_OF_LOGS, Notes
    from jax_switchgen.planning import report
    from jax_switchgen.planning.chips import slice_called
    from jax_switchgen.planning.plan import make_plan
    from jax_switchgen.training.options import TrainingOptions

    further = {"training": TrainingOptions} if "training" in source else {}
    config = read_pool(source, **further)
    mesh = config["mesh"]
    if mesh.slice is None:
        raise ValueError(
            "config.mesh.slice is None; say what to plan for: --config.mesh.slice=v4-8"
        )
    if JSON.value:  # before minutes of compiling, in case it cannot be written
        Path(JSON.value).parent.mkdir(parents=True, exist_ok=True)
    with Notes() as notes:
        pool, training = shapes(config, notes)
        plan = make_plan(
            slice_called(mesh.slice),
            mesh,
            pool,
            training,
            only=ONLY.value,
            progress=notes.progress,
        )
    out = Console(width=None if sys.stdout.isatty() else WIDTH_OF_LOGS)
    out.print(report.phase_table(plan), report.memory_table(plan))
    print(*report.lines(plan), sep="\n")
    if JSON.value:
        Path(JSON.value).write_text(json.dumps(report.as_json(plan), indent=1) + "\n")
    return EXIT_OK if plan.fits else EXIT_SOME_FAILED


def shapes(config: dict[str, Any], notes: Any) -> tuple[Any, Any]:
    """The pool and the training that a config describes, without weights."""
    from jax_switchgen.checkpoints.known_shapes import model_shape
    from jax_switchgen.planning.phases import Member, Pool
    from jax_switchgen.planning.plan import Training
    from jax_switchgen.policies.build import check_quantizations, with_shared_shapes

    check_quantizations(config["candidates"], config["switcher"])
    has_switcher = config["policy"].name == "switcher"
    options = config.get("training")
    generating = list(config["candidates"])
    if has_switcher:
        generating.append(config["switcher"])
    found = {c.path: model_shape(c.path, notes.progress) for c in generating}
    found = with_shared_shapes(found, config["mesh"].tensor)
    if any(c.adapter for c in (*config["candidates"], config["switcher"])):
        notes.line("adapters are not in the plan: usually below 2 % of their model")

    members = [Member(c.path, found[c.path], c.quantization) for c in generating]
    pool = Pool(
        candidates=tuple(members[: len(config["candidates"])]),
        switcher=members[-1] if has_switcher else None,
        generation=config["generation"],
        prompt_tokens=PROMPT_TOKENS.value,
        dtype=config["dtype"],
    )
    if not options:
        return pool, None
    # Training loads the switcher as it is, whatever its siblings in the pool are.
    path, quantization = config["switcher"].path, config["switcher"].quantization
    trained = Member(path, model_shape(path, notes.progress), quantization)
    return pool, Training(trained, options)


if __name__ == "__main__":
    run(main, __doc__)
