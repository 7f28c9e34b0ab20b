"""The observer: looks on while a program trains, through torch's own hooks, and changes nothing that it computes."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch

from conviction.diagnosis.seen.aftermath import Aftermath, measure_afterwards
from conviction.diagnosis.seen.clock import Clock
from conviction.diagnosis.seen.events import Events
from conviction.diagnosis.seen.guard import Enough, Guard
from conviction.diagnosis.seen.hooks import Hooks
from conviction.diagnosis.seen.places import Places
from conviction.diagnosis.seen.prints import PrintsSeen
from conviction.diagnosis.seen.schedules import SchedulesSeen
from conviction.diagnosis.trials.captured import Captured, sgd_by_hand
from conviction.findings.observation import Ending, Observation
from conviction.findings.readings import BY_HAND

__all__ = ["Enough", "Observer"]


class Observer:
    """Observes what is trained within `with`, and leaves every number of it as it would be without.

    The budget is `steps` updates and `seconds` of wall clock; then `Enough` is raised in the program with `stop`, and
    leaves the `with` in silence, else the observer only stops looking. `share` is what observing may take of the time
    of a long run: 3 %, or 20 % of a run that is only made to be observed (`stop`). `is_users(filename)` says which
    files of a stack are the user's (all but Python's own, what is installed, and this package).

    `captured` is what experiments need, None before anything was trained. `troubles` are the observer's own errors,
    which are kept from the program.
    """

    def __init__(
        self,
        *,
        steps: int | None = None,
        seconds: float | None = None,
        stop: bool = False,
        share: float | None = None,
        is_users: Callable[[str], bool] | None = None,
    ) -> None:
        self._steps, self._seconds, self._stop = steps, seconds, stop
        self._share = share if share is not None else 0.2 if stop else 0.03
        self._places = Places(is_users)
        self._ending = Ending("finished")
        self._elapsed: float | None = None
        self._aftermath: Aftermath | None = None
        self._begin()

    def _begin(self) -> None:
        self._clock = Clock(self._share)
        self._guard = Guard(self._clock)
        self._events = Events(self._places, self._clock)
        self._schedules, self._prints = SchedulesSeen(), PrintsSeen()
        self._hooks = Hooks(self._events, self._schedules, self._guard, self._check)

    @property
    def captured(self) -> Captured | None:
        """What experiments need; None where nothing was trained."""
        captured = self._events.keeper.captured
        if captured is not None and captured.optimizer is None:
            made = [r for r in self._events.steps.optimizers.records if r.kind == BY_HAND]
            if made:
                captured.optimizer = sgd_by_hand(made[0].settings.get("lr"))
        return captured

    @property
    def troubles(self) -> tuple[str, ...]:
        """What went wrong in the observer itself."""
        return tuple(self._guard.troubles) + (self._aftermath.troubles if self._aftermath else ())

    @property
    def spent_seconds(self) -> float:
        """Seconds that observing took so far, as far as a clock can see."""
        return self._clock.spent

    def __enter__(self) -> Observer:
        self._begin()
        self._hooks.hang()
        self._prints.watch(self._note_print)
        self._guard.active = True
        return self

    def introduce(self, net: object, optimizer: object) -> None:
        """Tell of a net and an optimizer that were made before: one that never runs or steps would not be seen."""
        if isinstance(net, torch.nn.Module):
            self._guard.run(self._events.nets.introduce, net)
        if isinstance(optimizer, torch.optim.Optimizer):
            self._guard.run(self._events.steps.optimizers.of, optimizer)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._elapsed = self._clock.elapsed
        self._guard.run(self._events.close, error is not None)
        self._guard.active = False
        self._prints.leave()
        self._hooks.take_off()
        if error is not None:
            self._ending = self._ending_of(error, trace)
        return isinstance(error, Enough)

    def _ending_of(self, error: BaseException, trace: TracebackType | None) -> Ending:
        at = self._places.of_traceback(trace)
        if isinstance(error, Enough):
            return Ending("budget", at=at)
        if isinstance(error, SystemExit):
            code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
            return Ending("exit", error="" if isinstance(error.code, int) else str(error.code or ""), at=at, code=code)
        if isinstance(error, KeyboardInterrupt):
            return Ending("killed", at=at)
        told = " ".join(str(error).split())
        failed, layer = self._events.looks.failed
        return Ending("error", f"{type(error).__name__}: {told}", at, layer if failed == id(error) else "")

    def _check(self) -> None:
        """Stop the program, or stop looking, where the budget is spent."""
        guard = self._guard
        if not guard.active or guard.busy or not guard.here:
            return
        steps = self._events.steps
        spent = self._steps is not None and max(steps.count, steps.unmade) >= self._steps
        if spent or (self._seconds is not None and self._clock.elapsed >= self._seconds):
            if self._stop:
                raise Enough
            self._elapsed = self._clock.elapsed
            guard.run(self._events.close, True)
            guard.active = False

    def _note_print(self, stream: int, text: str) -> None:
        self._guard.run(self._prints.add, stream, text, self._events.steps.count, self._places.here)

    def observation(self) -> Observation:
        """Return what was seen, as plain values, with what is measured on clones of the net after it has trained."""
        was, self._guard.active = self._guard.active, False
        try:
            return self._observe()
        finally:
            self._guard.active = was

    def glimpse(self) -> Observation:
        """Return what was seen so far, with nothing measured on clones; from any thread, while the program runs."""
        return self._told(Aftermath())

    def _observe(self) -> Observation:
        events = self._events
        measured, optimizers = tuple(events.steps.measured), events.steps.optimizers.seen()
        if self._aftermath is None or self._elapsed is None:
            self._aftermath = measure_afterwards(self.captured, measured, optimizers)
        return self._told(self._aftermath)

    def _told(self, after: Aftermath) -> Observation:
        events = self._events
        measured, optimizers = tuple(events.steps.measured), events.steps.optimizers.seen()
        facts: dict[str, Any] = events.facts()
        return Observation(
            seconds=self._clock.elapsed if self._elapsed is None else self._elapsed, optimizers=optimizers,
            measured=measured, printed=self._prints.lines, ending=self._ending, evidence=after.evidence,
            mode_gap=after.mode_gap, mixing=after.mixing, schedule=self._schedules.kind,
            schedule_steps=self._schedules.steps, schedule_at=self._schedules.at, **facts,
        )  # fmt: skip
