"""The guard between a program and its observer: nothing that goes wrong here reaches the program."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

import torch

from conviction.diagnosis.seen.clock import Clock

_MOST_TROUBLES = 20


class Enough(BaseException):
    """Raised in the observed program when its budget of steps or seconds is spent."""


class Guard:
    """Runs the observer's handlers: only in the thread and process that are observed, never within each other.

    Their time is taken, their errors are kept in `troubles`. `active` is False before and after the observation.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.active = False
        self.busy = False
        self.troubles: list[str] = []
        self.thread, self.process = threading.get_ident(), os.getpid()

    @property
    def here(self) -> bool:
        """Whether this is the thread and the process that are observed."""
        return threading.get_ident() == self.thread and os.getpid() == self.process

    def run(self, handler: Callable[..., Any], *arguments: Any) -> Any:
        """Run a handler; None where it may not run now, or fails."""
        if not self.active or self.busy or not self.here or torch._C._get_tracing_state() is not None:
            return None
        self.busy, started = True, time.perf_counter()
        try:
            return handler(*arguments)
        except Exception as error:
            if len(self.troubles) < _MOST_TROUBLES:
                self.troubles.append(f"{handler.__name__}: {type(error).__name__}: {error}")
            return None
        finally:
            self.busy = False
            self.clock.spent += time.perf_counter() - started
