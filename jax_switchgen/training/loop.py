"""The training loop: steps, evaluations, checkpoints, and going on after a stop.

The state and the number of steps done are all there is to know: batches are a function
of seed and step. So a resumed run computes what an uninterrupted one computes, bit for
bit on the same machine and mesh.
"""

import json
import math
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jax_switchgen.training.build import Learner
from jax_switchgen.training.data import Batch, Batches
from jax_switchgen.training.held_out import HeldOut
from jax_switchgen.training.output import (
    CHECKPOINTS,
    METRICS,
    PLOT,
    RESULTS,
    MetricsFile,
    read_metrics,
    write_whole,
)
from jax_switchgen.training.placement import place_rows, rows_sharding
from jax_switchgen.training.plot import write_plot
from jax_switchgen.training.snapshots import Snapshots, checksum
from jax_switchgen.training.step import (
    TrainState,
    abstract_state,
    choice_log_probs,
    init_state,
    recipe_on,
    train_step,
)
from jax_switchgen.training.viewers import Viewers

STEP_METRICS = ("loss", "accuracy", "grad_norm", "learning_rate")
SECONDS_BETWEEN_LINES = 2.0

Say = Callable[[str], None]


def train(
    learner: Learner,
    output: Path,
    *,
    mesh: Mesh,
    say: Say = lambda line: None,
    progress: Say = lambda line: None,
    passed: Callable[[], None] = lambda: None,
) -> TrainState | None:
    """Trains to the end, from where an earlier run has stopped.

    Args:
      output: a folder that `output.claim` has made ours.
      say: is told what is worth to stay on the screen.
      progress: is told what the next line may replace.
      passed: is called after each step, when its metrics are on the host.

    Returns:
      The last state, or None if SIGTERM asked to stop: then the newest checkpoint is
      of this moment.

    Raises:
      ValueError: the loss is not finite.
      OSError: something could not be written.
    """
    with (
        jax.set_mesh(mesh),
        MetricsFile(output / METRICS) as metrics,
        Snapshots(output / CHECKPOINTS, learner.options.keep) as snapshots,
    ):
        training = _Training(
            learner, output, metrics, snapshots, mesh, say, progress, passed
        )
        return training.run()


class _Training:
    """One process's part of a run."""

    def __init__(
        self,
        learner: Learner,
        output: Path,
        metrics: MetricsFile,
        snapshots: Snapshots,
        mesh: Mesh,
        say: Say,
        progress: Say,
        passed: Callable[[], None],
    ):
        self._learner, self._options = learner, learner.options
        self._output, self._mesh = output, mesh
        self._metrics, self._snapshots = metrics, snapshots
        self._say, self._progress, self._passed = say, progress, passed
        self._batches = Batches(learner.split.train, learner.options)
        self._recipe = recipe_on(
            jax.default_backend(),
            *(learner.config, learner.options, len(self._batches)),
        )
        self._abstract = abstract_state(self._recipe, mesh)
        self._held_out = (
            HeldOut(learner.split.held_out) if learner.split.held_out else None
        )
        self._unsettled: tuple[int, dict[str, jax.Array]] | None = None
        self._clock = _Clock(progress, len(self._batches))

    def run(self) -> TrainState | None:
        state = self._snapshots.restore(self._abstract, self._say)
        start = 0 if state is None else int(state.step)
        # A run that begins anew measures again what is said of step 0.
        self._metrics.forget_after(-1 if state is None else start)
        names = self._options.viewers if jax.process_index() == 0 else ()
        with Viewers(names, self._output, start) as self._viewers:
            if start < len(self._batches):
                self._compile()
            if state is None:
                state = self._begin()
            else:
                self._say(f"going on after step {start}")
            state = self._go_on(state, start)
        if state is not None:
            self._finish()
        return state

    def _go_on(self, state: TrainState, start: int) -> TrainState | None:
        """All steps that are left; None after a request to stop."""
        total = len(self._batches)
        self._clock.start(start)
        with StopRequest(self._snapshots.preempted) as stop_request:
            for step in range(start, total):
                batch = self._batches.batch(step)
                self._clock.count(int(batch.length_AB.sum()))
                state, found = self._steps[batch.tokens_ABT.shape[2]](
                    state,
                    self._learner.base,
                    place_rows(batch, self._mesh, axis=1),
                    self._learner.label_ids_C,
                )
                # Only now wait for the step before: the device is never idle.
                self._settle()
                self._unsettled = step, found
                done = step + 1
                stop = stop_request.asked(done)
                if done % self._options.eval_every == 0 or done == total:
                    self._evaluate(state, done)
                if done % self._options.checkpoint_every == 0 or done == total or stop:
                    self._save(state, done)
                if stop and done < total:
                    self._snapshots.wait()
                    self._say(f"asked to stop; step {done} is saved")
                    return None
        self._snapshots.wait()
        return state

    def _compile(self) -> None:
        """All programs, before the first step: no later step waits for one."""
        started = time.perf_counter()
        options, base = self._options, self._learner.base
        labels_C = self._learner.label_ids_C
        evaluated = self._held_out.buckets if self._held_out is not None else ()
        count = len(self._batches.buckets) + len(evaluated)
        self._progress(f"compiling {count} programs")

        def rows(shape: tuple[int, ...], dtype: Any, axis: int) -> Any:
            sharding = rows_sharding(self._mesh, axis)
            return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

        self._steps: dict[int, Any] = {}
        shape = options.accumulation, options.part_size
        for T in self._batches.buckets:
            batch = Batch(
                tokens_ABT=rows((*shape, T), jnp.int32, axis=1),
                length_AB=rows(shape, jnp.int32, axis=1),
                target_ABC=rows((*shape, len(labels_C)), jnp.float32, axis=1),
            )
            lowered = train_step.lower(
                self._abstract, base, batch, labels_C, recipe=self._recipe
            )
            self._steps[T] = lowered.compile()
        self._choices: dict[int, Any] = {}
        for T in evaluated:
            lowered = choice_log_probs.lower(
                self._abstract.params,
                base,
                rows((options.part_size, T), jnp.int32, axis=0),
                rows((options.part_size,), jnp.int32, axis=0),
                labels_C,
                recipe=self._recipe,
            )
            self._choices[T] = lowered.compile()
        self._say(
            f"{count} programs compiled in {time.perf_counter() - started:.0f} s; "
            f"{self._batches.padding:.1%} of the tokens are padding"
        )

    def _begin(self) -> TrainState:
        """The state before the first step, and how well it chooses."""
        state = init_state(self._learner.first_params(), self._recipe, self._mesh)
        checksum(state)  # compiled now, and not at the first checkpoint
        if self._held_out is not None:
            baselines = self._held_out.baselines(
                self._learner.split.train, self._learner.candidates
            )
            self._write(0, baselines=baselines)
            self._evaluate(state, 0)
        return state

    def _settle(self) -> None:
        """Writes the metrics of the step that was dispatched last."""
        if self._unsettled is None:
            return
        step, found = self._unsettled
        self._unsettled = None
        values = {name: float(found[name]) for name in STEP_METRICS}
        self._passed()
        if not all(map(math.isfinite, values.values())):
            rollouts = [example.rollout for example in self._batches.examples(step)]
            raise ValueError(
                f"step {step + 1}: the loss is {values['loss']}, the gradient's norm "
                f"{values['grad_norm']}; lower training.learning_rate or look at these "
                f"rollouts: {', '.join(f'{r.task} {r.id}' for r in rollouts)}"
            )
        self._write(step + 1, **values)
        self._clock.show(step + 1, values["loss"])

    def _evaluate(self, state: TrainState, done: int) -> None:
        self._settle()
        if self._held_out is None:
            return
        logp_IC = self._held_out_log_probs(self._held_out, state)
        found: dict[str, Any] = {"held_out": self._held_out.score(logp_IC)}
        if done == len(self._batches):
            found["by_task"] = self._held_out.by_task(logp_IC)
        self._write(done, **found)
        scores = found["held_out"].items()
        shown = [f"{name} {value:.3f}" for name, value in scores if value is not None]
        self._say(f"held out after step {done}: {', '.join(shown)}")

    def _held_out_log_probs(self, held_out: HeldOut, state: TrainState) -> np.ndarray:
        """logp_IC of the held-out examples."""
        shape = len(held_out.examples), len(self._learner.candidates)
        logp_IC = np.zeros(shape, np.float32)
        for rows, batch in held_out.batches(self._options.part_size):
            found_BC = self._choices[batch.tokens_ABT.shape[2]](
                state.params,
                self._learner.base,
                place_rows(batch.tokens_ABT[0], self._mesh, axis=0),
                place_rows(batch.length_AB[0], self._mesh, axis=0),
                self._learner.label_ids_C,
            )
            logp_IC[rows] = np.asarray(found_BC)[: len(rows)]
        return logp_IC

    def _write(self, step: int, **values: Any) -> None:
        self._metrics.write(step=step, **values)
        self._viewers.write(step, values)

    def _save(self, state: TrainState, done: int) -> None:
        """A checkpoint; the lines of all steps before it are on disk first."""
        self._settle()
        self._metrics.sync()
        self._snapshots.save(done, state)

    def _finish(self) -> None:
        """results.json and the plot, from the metrics alone."""
        if jax.process_index():
            return
        lines = read_metrics(self._output / METRICS)
        evaluations = [line["held_out"] for line in lines if "held_out" in line]
        results = {
            "steps": len(self._batches),
            "examples": len(self._learner.split.train),
            "held_out_examples": len(self._learner.split.held_out),
            "padding": round(self._batches.padding, 4),
            "untrained": evaluations[0] if evaluations else None,
            "trained": evaluations[-1] if evaluations else None,
            "baselines": lines[0].get("baselines"),
            "by_task": lines[-1].get("by_task", {}),
        }
        write_whole(self._output / RESULTS, json.dumps(results, indent=2))
        write_plot(self._output / PLOT, lines)


class StopRequest:
    """Notes SIGTERM, with which machines that are lent are taken back, and lets the
    step at work be finished; in the main thread only.

    Args:
      agreed: of several processes, whether they have agreed to stop after a step.
    """

    def __init__(self, agreed: Callable[[int], bool]):
        self._agreed = agreed
        self._asked = False
        # Of several processes JAX itself takes the signal, to agree on a step.
        self._alone = jax.process_count() == 1
        self._before: Any = None

    def __enter__(self) -> Self:
        if self._alone:
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        if self._alone:
            signal.signal(signal.SIGTERM, self._before)

    def asked(self, done: int) -> bool:
        """Whether to stop after this step; to be called after every one."""
        return self._asked if self._alone else self._agreed(done)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._asked = True


class _Clock:
    """Says now and then how fast it goes and when it will be done."""

    def __init__(self, progress: Say, total: int):
        self._progress, self._total = progress, total
        self._tokens = 0

    def start(self, step: int) -> None:
        self._first = step
        self._started = self._next_line = time.perf_counter()

    def count(self, tokens: int) -> None:
        self._tokens += tokens

    def show(self, done: int, loss: float) -> None:
        now = time.perf_counter()
        if now < self._next_line and done < self._total:
            return
        self._next_line = now + SECONDS_BETWEEN_LINES
        seconds = now - self._started
        left = round(seconds / (done - self._first) * (self._total - done))
        self._progress(
            f"step {done} of {self._total} · loss {loss:.4f} · "
            f"{self._tokens / seconds:,.0f} tokens/s · "
            f"{left // 60}:{left % 60:02} min left"
        )
