"""Learning-rate schedules: which kind steps, how often and where."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from types import FrameType
from typing import Any

from conviction.diagnosis.seen.places import Places
from conviction.findings.observation import Place

# Schedules step once when they are made, by these methods of torch's.
_OWN_STEPS = {"_initial_step", "__init__"}


class SchedulesSeen:
    """The schedule that stepped first, and the count of all steps."""

    def __init__(self) -> None:
        self.kind = ""
        self.steps = 0
        self.at: Place | None = None
        self._depth = 0

    def note(self, schedule: Any, frame: FrameType, places: Places) -> None:
        """Note a step, unless a schedule makes it by itself."""
        if self._depth or (frame.f_code.co_name in _OWN_STEPS and not places.is_users(frame.f_code.co_filename)):
            return
        self.steps += 1
        if not self.kind:
            self.kind, self.at = type(schedule).__name__, places.here(frame)

    @contextlib.contextmanager
    def stepping(self) -> Generator[None]:
        """Have the steps of schedules within a schedule not counted."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
