"""Checkpoints of a running training: written beside it, checked when read again.

Orbax writes in the background, each under its name only when it is complete. What
storage does to it afterwards shows in a checksum of the arrays' bits; then it is set
aside, and the checkpoint before it is taken.
"""

import functools
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from jax_switchgen.checkpoints.hf_config import one_line
from jax_switchgen.training.step import TrainState

# What Orbax and what it is made of raise for files that are not as they were written.
DAMAGED = (OSError, KeyError, ValueError, TypeError, RuntimeError)
WRITING = (OSError, ValueError, RuntimeError)


class Snapshots:
    """The checkpoints in a folder, by steps done; all processes call all methods.

    A context: leaving it waits for what is being written.
    """

    def __init__(self, folder: Path, keep: int):
        self._folder = folder.absolute()
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(max_to_keep=keep),
        )

    def __enter__(self) -> Self:
        _ignore_late_reports()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            self._manager.close()
        except WRITING as failed:
            if error is None:
                raise self._unwritten(failed) from failed

    def restore(
        self, abstract: TrainState, say: Callable[[str], None]
    ) -> TrainState | None:
        """The newest state that is whole, onto the shardings of `abstract`, whatever
        mesh it was saved from; None if there is none. Damaged ones are set aside."""
        steps = sorted(self._manager.all_steps())
        while steps:
            step = steps.pop()
            state, reason = self._restore(step, abstract)
            if state is not None:
                return state
            before = f"that of step {steps[-1]}" if steps else "the beginning"
            say(
                f"the checkpoint of step {step} is damaged ({reason}); going back to "
                f"{before}"
            )
            self._set_aside(step)
        return None

    def save(self, step: int, state: TrainState) -> None:
        """Begins to write a checkpoint, after the one before is complete.

        Raises:
          OSError: that one could not be written.
        """
        about = {"step": step, "checksum": int(checksum(state))}
        args = ocp.args.Composite(
            state=ocp.args.PyTreeSave(_flat(state)), about=ocp.args.JsonSave(about)
        )
        try:
            self._manager.save(step, args=args, force=True)
        except WRITING as error:
            raise self._unwritten(error) from error

    def wait(self) -> None:
        """Until all is written.

        Raises:
          OSError: something could not be.
        """
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        except WRITING as error:
            raise self._unwritten(error) from error

    def preempted(self, step: int) -> bool:
        """Whether the processes of a job have agreed to stop after this step; each must
        ask after every step."""
        return self._manager.reached_preemption(step)

    def _restore(
        self, step: int, abstract: TrainState
    ) -> tuple[TrainState | None, str]:
        """A state, or what is wrong with it: all processes find the same."""
        flat = _flat(abstract)
        args = ocp.args.PyTreeRestore(
            flat, restore_args=ocp.checkpoint_utils.construct_restore_args(flat)
        )
        found, reason = None, ""
        try:
            found = self._manager.restore(
                step, args=ocp.args.Composite(state=args, about=ocp.args.JsonRestore())
            )
        except DAMAGED as error:
            if _is_ours(error):
                raise
            reason = one_line(error)[:160]
        # Each process has read its own part.
        if not np.all(multihost_utils.process_allgather(np.array(found is not None))):
            return None, reason or "another process cannot read it"
        assert found is not None
        leaves = [found.state[name] for name in flat]
        state = jax.tree.unflatten(jax.tree.structure(abstract), leaves)
        if int(checksum(state)) != found.about["checksum"]:
            return None, "its checksum differs"
        return state, ""

    def _set_aside(self, step: int) -> None:
        """Out of the way of the run when it comes to this step again; not deleted, for
        the fault may be a disk's that is back tomorrow."""
        if jax.process_index() == 0:
            target = self._folder.with_name(f"damaged-{step}")
            shutil.rmtree(target, ignore_errors=True)  # of an earlier time
            os.replace(self._folder / str(step), target)
        multihost_utils.sync_global_devices(f"set aside {step}")
        self._manager.reload()

    def _unwritten(self, error: Exception) -> OSError:
        return OSError(
            f"{self._folder}: a checkpoint could not be written "
            f"({one_line(error)[:200]}); make room and run the same command again"
        )


@functools.cache
def _ignore_late_reports() -> None:
    """When one array cannot be read or written, those at work at the same time report,
    each with a traceback, that nobody waits for them any more: from other threads, and
    maybe when the error has long been told. So for the rest of the process."""
    unraisable, uncaught = sys.unraisablehook, sys.excepthook

    def is_late(error: BaseException | None) -> bool:
        return isinstance(error, RuntimeError) and "loop is closed" in str(error)

    def on_unraisable(report: Any) -> None:
        if not is_late(report.exc_value):
            unraisable(report)

    def on_uncaught(kind: Any, error: BaseException, trace: Any) -> None:
        if not is_late(error):
            uncaught(kind, error, trace)

    sys.unraisablehook, sys.excepthook = on_unraisable, on_uncaught


def _is_ours(error: Exception) -> bool:
    """Whether the fault is not the checkpoint's: no memory, no permission."""
    return isinstance(error, PermissionError) or "RESOURCE_EXHAUSTED" in str(error)


@jax.jit
def checksum(state: TrainState) -> jax.Array:
    """uint32 of all bits; a sum of integers, the same however they are sharded."""
    total = jnp.uint32(0)
    for i, leaf in enumerate(jax.tree.leaves(state)):
        bits = jax.lax.bitcast_convert_type(leaf, jnp.uint32)
        total += jnp.uint32(2 * i + 1) * jnp.sum(bits, dtype=jnp.uint32)
    return total


def _flat(state: TrainState) -> dict[str, Any]:
    """The arrays by path: names on disk that no change of a container's type alters."""
    paths = jax.tree_util.tree_flatten_with_path(state)[0]
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in paths
    }
