"""Verdicts on a run of losses: whether training still goes on or has blown up. Numbers in, a verdict or nothing out."""

from __future__ import annotations

import math
import statistics
from dataclasses import asdict, dataclass, field
from typing import Any

# Losses of which a verdict takes the middle one: a few hard batches in a row are no blow-up.
WINDOW = 16
# A net has begun to learn when its loss is below this share of what guessing costs, and has learnt below that one ...
_BEGUN, _LEARNT = 0.95, 0.85
# ... and has lost it again when it is back at this one, or when this share of what was gained is gone (and that is more
# than so many standard deviations of its losses).
_LOST = 0.98
_LOST_SHARE, _SPREADS = 0.5, 2.0
# No batch is so hard for a net that is whole: so many times the loss it began with, and at least so many nats more.
_WILD, _WILD_NATS = 10.0, 20.0
# A net that has learnt nothing yet may overshoot so far and come back; after so many more losses at chance it did not.
_JUMP, _SETTLING = 2.0, 48
# A net whose logits do not depend on the images at so many looks is dead, and at fewer where what was learnt is lost as
# well. A loss below guessing speaks for the net: other layers than the first may do the work.
_DEAD_LOOKS, _SURELY_DEAD = 16, 4
# The last losses, which show a rise first.
_LATELY = 4
_ALIVE = "units that answer to some images, and gradients above zero"
_DEAF = "no gradient reaches the first layer and the logits are the same for all images"


@dataclass(frozen=True)
class Verdict:
    """What went wrong: its cause (a code of the findings), what was seen, and what is seen where all is well.

    It began at least `ago` losses before it was certain.
    """

    cause: str
    seen: str
    expected: str
    ago: int = 0


@dataclass
class Course:
    """The course of a run's losses so far, as much of it as verdicts need.

    `first` is the loss of the weights at the start, `level` the lowest that the middle of `WINDOW` losses has come to,
    and `spread` their standard deviation then, as small batches scatter. `dead_looks` is the number of looks at which
    the logits did not depend on the images since the last at which they did, `lived` whether they ever did. `jump` is
    the largest loss of a net that overshot before it learnt anything (0: it did not), `since` the number of losses
    since then.
    """

    recent: list[float] = field(default_factory=list)
    first: float | None = None
    level: float = math.inf
    spread: float = 0.0
    dead_looks: int = 0
    lived: bool = False
    jump: float = 0.0
    since: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the course as plain numbers."""
        return asdict(self)

    def begin_again(self) -> None:
        """Forget the last losses."""
        self.recent, self.dead_looks, self.jump = [], 0, 0.0

    def back_at(self, earlier: Course) -> Course:
        """Return the course of a run that went back to `earlier`; how it began, and that it lived, stays known."""
        first = self.first if earlier.first is None else earlier.first
        return Course(first=first, level=earlier.level, spread=earlier.spread, lived=self.lived or earlier.lived)

    def look(self, loss: float, alive: bool | None, guessing: float) -> Verdict | None:
        """Take in a step's loss; `guessing` is what guessing costs.

        `alive` tells whether the logits depend on the images, None where nobody looked.
        """
        if not math.isfinite(loss):
            return Verdict("non-finite", f"the loss became {loss}", "a finite loss")
        self.first = loss if self.first is None else self.first
        self.recent = [*self.recent[1 - WINDOW :], loss]
        if alive:
            self.lived, self.dead_looks = True, 0
        elif alive is not None and not has_begun(loss, guessing):
            self.dead_looks += 1
        self._note_jump(loss, guessing)
        verdict = self._dead(loss, guessing) or self._wild(guessing) or self._lost(guessing) or self._stunned(guessing)
        if len(self.recent) == WINDOW and verdict is None:
            self._settle_level()
        return verdict

    def calm(self, guessing: float) -> bool:
        """Whether all is so well that the weights may be worth going back to.

        What has learnt nothing is not: the start is as good, and has surely not been through anything.
        """
        if self.dead_looks or not self._has_learnt(guessing, _BEGUN):
            return False
        high = self.high(guessing)
        lately = statistics.median(self.recent[-_LATELY:] or [math.inf])
        return lately < high and statistics.median(self.recent) < (high + self.level) / 2

    def _settle_level(self) -> None:
        middle = statistics.median(self.recent)
        if middle < self.level:
            off = statistics.median(abs(loss - middle) for loss in self.recent)
            self.level, self.spread = middle, 1.48 * off  # of a normal distribution

    def high(self, guessing: float) -> float:
        """Return the loss from which on a batch speaks for the loss of what was learnt."""
        rise = max(_LOST_SHARE * (guessing - self.level), _SPREADS * self.spread)
        return min(_LOST * guessing, self.level + rise)

    def _wild(self, guessing: float) -> Verdict | None:
        bound = self._wildest(guessing)
        if sum(loss > bound for loss in self.recent) < 2:
            return None
        seen = f"the loss rose to {max(self.recent):.3g}, where guessing gives {guessing:.3g}"
        return Verdict("lr-too-high", seen, "a loss that falls")

    def _lost(self, guessing: float) -> Verdict | None:
        if len(self.recent) < WINDOW or not self._has_learnt(guessing):
            return None
        middle = statistics.median(self.recent)
        if middle < self.high(guessing):
            return None
        seen = f"the loss rose from {self.level:.3g} to {middle:.3g} and stayed there (guessing gives {guessing:.3g})"
        if self.dead_looks >= _SURELY_DEAD:  # by then a window of losses is enough to tell
            return Verdict("dead-relu", f"{seen}; {_DEAF}", _ALIVE, self.dead_looks)
        return Verdict("lr-too-high", seen, "a loss that falls", WINDOW // 2)

    def _note_jump(self, loss: float, guessing: float) -> None:
        self.since += 1
        if self._has_learnt(guessing):
            self.jump = 0.0
        elif loss > _JUMP * max(guessing, self.first or 0.0):
            self.jump, self.since = max(self.jump, loss), 0

    def _stunned(self, guessing: float) -> Verdict | None:
        if not self.jump or self.since < _SETTLING or statistics.median(self.recent) < _LOST * guessing:
            return None
        seen = f"the loss jumped to {self.jump:.3g} and has stayed at {statistics.median(self.recent):.3g} since"
        return Verdict("lr-too-high", f"{seen} (guessing gives {guessing:.3g})", "a loss that falls", self.since)

    def _has_learnt(self, guessing: float, share: float = _LEARNT) -> bool:
        return self.level + 0.5 * self.spread < share * guessing

    def _wildest(self, guessing: float) -> float:
        """Return the loss that no batch has while the net is whole."""
        begun = max(guessing, self.first or 0.0)
        return max(_WILD * begun, begun + _WILD_NATS)

    def _dead(self, loss: float, guessing: float) -> Verdict | None:
        if self.dead_looks < _DEAD_LOOKS or has_begun(statistics.median(self.recent), guessing):
            return None
        where = "exactly what guessing gives" if abs(loss - guessing) < 1e-4 else f"guessing gives {guessing:.4f}"
        seen = f"{_DEAF}; the loss stays at {loss:.4f} ({where})"
        return Verdict("dead-relu", seen, _ALIVE, self.dead_looks)


def has_begun(loss: float, guessing: float) -> bool:
    """Whether a loss is below what guessing costs by more than the loss of a net that guesses."""
    return loss < _BEGUN * guessing


def is_guessing(right: float, images: int, guessing: float) -> bool:
    """Whether a share `right` of `images` cannot be told from always answering the commonest class.

    That is right for a share `guessing`; three standard deviations of the binomial above it are still chance.
    """
    return right <= guessing + 3 * math.sqrt(guessing * (1 - guessing) / max(1, images))
