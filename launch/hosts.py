"""How the processes of a job find each other, and how they end together.

    with hosts.joined() as host:
        …  # host.index of host.count

Without --distributed a process is alone: index 0 of 1.
"""

import dataclasses
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from absl import flags

DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "One of several processes, which find each other."
)
PROCESSES = flags.DEFINE_integer("processes", None, "How many there must be.")

# A process that was not heard of for so long is gone. JAX's own 100 s keep an
# accelerator idle for longer than a job takes to start again.
HEARTBEAT_SECONDS = 30
JOIN_SECONDS = 300
# Those that are done wait for the slowest; one that is gone ends the wait.
LEAVE_SECONDS = 7 * 24 * 3600

# How a program fails whose other half runs in a process that is gone.
LOST = re.compile(
    r"gloo|connection (closed|reset|refused)|coordination service|heartbeat", re.I
)
CLUSTERS = "Cloud TPU, GKE, Slurm and Open MPI"


class Refused(ValueError):
    """All processes of a job have found the same, and all of them end in order."""


@dataclasses.dataclass(frozen=True)
class Host:
    """One process among those of a job.

    Attributes:
      index: from 0.
      count: of processes.
    """

    index: int
    count: int

    @property
    def name(self) -> str:
        return f"host {self.index} of {self.count} ({socket.gethostname()})"

    def exchange(self, key: str, value: str) -> list[str]:
        """What each process gives under this key, in their order; waits for all.

        Raises:
          ValueError: one has not answered within `JOIN_SECONDS`.
        """
        if self.count == 1:
            return [value]
        # The store of JAX's coordinator, through which its own libraries agree too. It
        # needs no device, and so works where one of them has none.
        from jax._src.distributed import global_state

        client = global_state.client
        client.key_value_set(f"jax_switchgen/{key}/{self.index}", value)
        found = []
        for index in range(self.count):
            try:
                found.append(
                    client.blocking_key_value_get(
                        f"jax_switchgen/{key}/{index}", JOIN_SECONDS * 1000
                    )
                )
            except Exception as error:  # its class is another in each version of jax
                if "DEADLINE_EXCEEDED" not in str(error):
                    raise
                raise ValueError(
                    f"process {index} of {self.count} has not answered for "
                    f"{JOIN_SECONDS} s; look at its own last lines"
                ) from None
        return found


@contextmanager
def joined(*, preemption: bool = False) -> Iterator[Host]:
    """This process's place in the job; at the end, waits for all to come there.

    Args:
      preemption: SIGTERM to one process is told to all (training agrees on a step), and
        ends none of them.

    Raises:
      ValueError: the others cannot be found.
    """
    if not DISTRIBUTED.value:
        _check_count(1, ValueError)
        yield Host(0, 1)
        return
    import jax

    with _witness():
        _initialize(preemption)
        from jax._src.distributed import global_state

        host = Host(global_state.process_id, global_state.num_processes)
        os.write(2, f"\0{host.count}\n".encode())  # for the witness
        try:
            _check_count(host.count, Refused)
            yield host
        except Refused:
            jax.distributed.shutdown()
            raise
        except Exception as error:
            if LOST.search(str(error)):
                # JAX ends this process as soon as it knows which one is gone.
                time.sleep(2 * HEARTBEAT_SECONDS)
            raise
        jax.distributed.shutdown()


def _initialize(preemption: bool) -> None:
    import jax

    jax.config.update("jax_enable_preemption_service", preemption)
    try:
        jax.distributed.initialize(
            initialization_timeout=JOIN_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=LEAVE_SECONDS,
        )
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"--distributed: the other processes cannot be found ({reason}); JAX finds "
            f"them on {CLUSTERS}; elsewhere run one process alone, or several with "
            "--shard_index and --num_shards"
        ) from None


def _check_count(count: int, refusal: type[ValueError]) -> None:
    if PROCESSES.value is not None and PROCESSES.value != count:
        raise refusal(
            f"--processes={PROCESSES.value}, and this job has {count}; start it on "
            "every host, each with --distributed"
        )


@contextmanager
def _witness() -> Iterator[None]:
    """stderr passes through `witness.py`, to the end unless this ends in order."""
    program = Path(__file__).with_name("witness.py")
    before = os.dup(2)
    reader = subprocess.Popen(
        [sys.executable, "-IS", str(program), str(JOIN_SECONDS)],
        stdin=subprocess.PIPE,
    )
    assert reader.stdin is not None
    sys.stderr.flush()
    os.dup2(reader.stdin.fileno(), 2)
    reader.stdin.close()
    yield
    sys.stderr.flush()
    os.dup2(before, 2)
    os.close(before)
    reader.wait()
