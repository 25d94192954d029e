"""A window of a run in which every operation is timed (`jax.profiler`), by config.

A trace of a whole run is too large to open: a pass of a few models is some 10,000
operations. So a few passes, or training steps, are traced, after some that compile.
"""

import dataclasses
from collections.abc import Callable
from typing import Self

import jax


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProfileOptions:
    """The `profile` section of a config.

    Attributes:
      folder: where traces are written, or None, with which nothing is traced.
      after: decode passes before the window; in training steps, in evaluation answers.
      count: of them in the window.
    """

    folder: str | None = None
    after: int = 10
    count: int = 5

    def __post_init__(self) -> None:
        if self.after < 0:
            raise ValueError(f"profile.after={self.after} must be 0 or more")
        if self.count < 1:
            raise ValueError(f"profile.count={self.count} must be 1 or more")


class ProfileWindow:
    """Counts passes and traces those of the window; a context manager.

    Of several processes only the first traces: they all do the same, and a trace of
    each would be as many files of 10 to 100 MB.

    Args:
      say: is told where the trace is and how to open it.
      unit: what is counted.
    """

    def __init__(
        self,
        options: ProfileOptions,
        say: Callable[[str], None],
        unit: str = "passes",
    ):
        self._options = options
        self._say = say
        self._unit = unit
        self._passed = 0
        self._is_on = options.folder is not None
        self._is_open = False

    def __enter__(self) -> Self:
        self._is_on &= jax.process_index() == 0
        self._turn()
        return self

    def __exit__(self, *error: object) -> None:
        if self._is_open:
            self._close()
        elif self._is_on and self._passed <= self._options.after:
            self._say(
                f"nothing was traced: the run had {self._passed} {self._unit}, and "
                f"profile.after={self._options.after}"
            )

    def passed(self) -> None:
        """One more is done, its results on the host."""
        self._passed += 1
        self._turn()

    def _turn(self) -> None:
        if not self._is_on:
            return
        first = self._options.after
        if self._passed == first:
            assert self._options.folder is not None
            jax.profiler.start_trace(self._options.folder)
            self._is_open = True
        elif self._is_open and self._passed == first + self._options.count:
            self._close()

    def _close(self) -> None:
        jax.profiler.stop_trace()
        self._is_open = False
        traced, folder = self._passed - self._options.after, self._options.folder
        self._say(
            f"{traced} {self._unit} are traced in {folder}; to see them: "
            f"xprof --logdir={folder} --port=8791"
        )
