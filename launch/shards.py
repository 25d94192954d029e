"""Which part of a job this process takes."""

import typing

from absl import flags
from hosts import Host

if typing.TYPE_CHECKING:
    from jax_switchgen.generation.job_output import JobOutput, Shard

SHARD_INDEX = flags.DEFINE_integer("shard_index", None, "Which part, from 0.")
NUM_SHARDS = flags.DEFINE_integer("num_shards", None, "How many parts there are.")


def asked() -> bool:
    """Whether the flags say a part."""
    return SHARD_INDEX.value is not None or NUM_SHARDS.value is not None


def own(host: Host) -> "Shard":
    """By the flags, or by this process's index among those of the job.

    Raises:
      ValueError: the flags say no part, or contradict --distributed.
    """
    from jax_switchgen.generation.job_output import Shard

    index, count = SHARD_INDEX.value, NUM_SHARDS.value
    if not asked():
        return Shard(host.index, host.count)
    if host.count > 1:
        raise ValueError(
            "--shard_index and --num_shards contradict --distributed, where every "
            "process takes the part of its own index; leave them out"
        )
    if index is None or count is None:
        raise ValueError("give both --shard_index and --num_shards, or none of them")
    return Shard(index, count)


def progress_of(output: "JobOutput") -> str:
    """What is in place when this process is done, in words."""
    missing = output.missing()
    if not missing:
        return f"{output.path} is complete"
    there = output.shard.count - len(missing)
    return (
        f"{output.shard_path} is complete, {there} of {output.shard.count} shards are; "
        f"the last one to finish writes {output.path}"
    )
