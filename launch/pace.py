"""How long what is left of a run will take."""

import time


class Pace:
    """At the pace of the newer half of what is done: the first ones wait for the
    compiler, minutes on two cores, and would promise hours.

    Args:
      total: how many there are to be done.
    """

    def __init__(self, total: int):
        self._total = total
        self._ends = [time.perf_counter()]  # of the start, and of each that is done

    def passed(self) -> None:
        """One more is done."""
        self._ends.append(time.perf_counter())

    @property
    def minutes_left(self) -> float:
        """Once one is done."""
        done = len(self._ends) - 1
        older = done // 2
        seconds = self._ends[-1] - self._ends[older]
        return seconds / (done - older) * (self._total - done) / 60
