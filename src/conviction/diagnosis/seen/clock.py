"""The observer's clock: what observing costs, and so how often it may be done."""

from __future__ import annotations

import time

# All of the first steps are measured; after them as many as our share of the time allows, at most every tenth.
_FIRST, _EVERY = 12, 10
# Seconds at the start in which everything is noted whatever it costs, and steps of which the loss is noted at all.
_FREE_SECONDS, _MOST_NOTED = 0.25, 600
# Of our share: so much may be spent before steps are measured no more, and noted no more. A third goes to what no
# clock sees: the calls of replaced functions in steps of which nothing is noted.
_MEASURING, _NOTING = 0.5, 0.3
_GENEROUS = 0.1
# Seconds that may be ours of a run that is only made to be observed, however short it is: a program of five seconds
# would else be judged by a dozen losses.
_GIVEN_SECONDS = 2.0


class Clock:
    """Time since the start, the part of it that was ours, and the choice of the steps that are looked at.

    `share` is what may be ours of a long run.
    """

    def __init__(self, share: float) -> None:
        self.started = time.perf_counter()
        self.spent = 0.0
        self._share = share

    @property
    def generous(self) -> bool:
        """Whether so much of the time is ours that layers are looked at in every step that is noted."""
        return self._share >= _GENEROUS

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.started

    def measures(self, step: int, kinds: int) -> bool:
        """Whether a step is measured; with several optimizers each step of a round is one, and all are or none."""
        turn = step // max(1, kinds)
        return turn < _FIRST or (turn % _EVERY == 0 and self.spent < _MEASURING * self._ours())

    def notes(self, step: int, kinds: int) -> bool:
        """Whether a step's loss is put down."""
        if step // max(1, kinds) < _FIRST:
            return True
        elapsed = self.elapsed
        return elapsed < _FREE_SECONDS or (
            self.spent < _NOTING * self._ours() and (step < _MOST_NOTED or step % 5 == 0)
        )

    def _ours(self) -> float:
        """Return the seconds that observing may have taken by now."""
        return max(self._share * self.elapsed, _GIVEN_SECONDS if self.generous else 0.0)
