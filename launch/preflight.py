"""Is every host of a job as it should be? One line for each; refuses with the reason.

On a TPU slice, before a long job (launch/tpu/on_all_workers.sh runs it on all hosts):
  python launch/preflight.py --distributed --platform=tpu --processes=4 \\
      --folder=/mnt/shared/outputs --config=configs/tpu_v4.py:v4-32

--platform      what must compute: tpu, gpu or cpu (JAX falls back to cpu in silence)
--processes     how many there must be
--folder        must be writable from all hosts, and the same folder on all of them
--config        must be right, and its training's mesh must fit the devices
Always: Python, the packages that decide what is computed, and this code must be the
same on all hosts.

generate.py, collect_rollouts.py and train_switcher.py check the same by themselves,
with the folder of their output, when --distributed or --platform is given.
Exit codes: 0 all is well, 2 a host is refused.
"""

import hosts
from absl import flags
from command_line import EXIT_OK, define_config, read_pool, run
from host_checks import check

CONFIG = define_config()
FOLDER = flags.DEFINE_string("folder", None, "Must be writable from all hosts.")


def main() -> int:
    with hosts.joined() as host:
        check(host, FOLDER.value, training_mesh)
    return EXIT_OK


def training_mesh() -> None:
    """Raises ValueError if the config is wrong, or its mesh is not of the devices."""
    if CONFIG.value is None:
        return
    from jax_switchgen.training.options import TrainingOptions
    from jax_switchgen.training.placement import make_mesh

    if "training" not in CONFIG.value:
        read_pool(CONFIG.value)
        return
    options = read_pool(CONFIG.value, training=TrainingOptions)["training"]
    make_mesh(options.fsdp, options.tensor, options.part_size)


if __name__ == "__main__":
    run(main, __doc__)
