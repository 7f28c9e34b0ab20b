"""Memory of the process from step to step, where the system tells it."""

from __future__ import annotations

import os

# Fewer readings, or fewer steps between the first and the last, tell nothing.
_FEWEST_READINGS, _FEWEST_STEPS = 6, 20


class MemorySeen:
    """Resident bytes by step."""

    def __init__(self) -> None:
        self.readings: list[tuple[int, int]] = []

    def note(self, step: int) -> None:
        """Read what is resident now; nothing where there is no /proc."""
        try:
            with open("/proc/self/statm", "rb") as opened:  # noqa: PTH123
                pages = int(opened.read().split()[1])
        except (OSError, ValueError, IndexError):
            return
        self.readings.append((step, pages * os.sysconf("SC_PAGE_SIZE")))

    def growth_bytes(self) -> float | None:
        """Return the growth per step, the median of all slopes once the first steps are over (Theil 1950)."""
        later = self.readings[len(self.readings) // 3 :][-200:]
        if len(later) < _FEWEST_READINGS or later[-1][0] - later[0][0] < _FEWEST_STEPS:
            return None
        slopes = sorted(
            (b - a) / (t - s) for i, (s, a) in enumerate(later) for t, b in later[i + 1 :] if t > s
        )  # fmt: skip
        return slopes[len(slopes) // 2]
