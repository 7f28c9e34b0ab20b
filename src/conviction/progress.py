"""Live progress on stderr: a moving line on a terminal, one plain line an epoch elsewhere, one block in a notebook."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from conviction.text import format_bytes, format_count, format_percent, format_seconds, printable

if TYPE_CHECKING:
    from conviction.fitting import Event, Started
    from conviction.lr_finding import Looked, LRSweep
    from conviction.runs import Epoch, Run

# To show a loss is to read it, which on an accelerator is to wait for it: not at every step.
_REFRESH_SECONDS = 0.1


class Display(Protocol):
    """Somewhere to show how a fit goes on."""

    def line(self, text: str) -> None:
        """Show a line that stays."""
        ...

    def status(self, text: str, done: float) -> None:
        """Show a line that the next one replaces; `done` is the share of the run that is over."""
        ...

    def close(self) -> None:
        """Leave the screen tidy."""
        ...


class Lines:
    """Plain lines, and a sign of life every half minute."""

    def __init__(self, stream: TextIO, every: float = 30.0) -> None:
        self.stream, self.every, self.last = stream, every, time.monotonic()

    def line(self, text: str) -> None:
        """Show a line; a stream that nobody reads any more is no reason to stop a run."""
        with contextlib.suppress(OSError, ValueError):
            print(text, file=self.stream, flush=True)
        self.last = time.monotonic()

    def status(self, text: str, done: float) -> None:
        """Show the status where nothing was shown for long."""
        if time.monotonic() - self.last >= self.every:
            self.line(text)

    def close(self) -> None:
        """Nothing to tidy."""


class Terminal:
    """A bar that moves on a terminal, below the lines that stay."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self.bar = Progress(
            BarColumn(10), TextColumn("{task.description}", markup=False),
            console=Console(file=stream, highlight=False, emoji=False), transient=True, refresh_per_second=8,
        )  # fmt: skip
        self.task = self.bar.add_task("", total=1.0)
        self.bar.start()

    def line(self, text: str) -> None:
        """Show a line above the bar."""
        self.bar.console.print(text, markup=False)

    def status(self, text: str, done: float) -> None:
        """Move the bar."""
        self.bar.update(self.task, completed=done, description=text)

    def close(self) -> None:
        """Remove the bar."""
        self.bar.stop()


class Notebook:
    """One block of text in a notebook that is rewritten in place and stays when the notebook is saved."""

    def __init__(self, display: Any, every: float = 1.0) -> None:
        self.lines: list[str] = []
        self.every, self.last = every, 0.0
        self.handle = display({"text/plain": ""}, raw=True, display_id=True)

    def line(self, text: str) -> None:
        """Add a line."""
        self.lines.append(text)
        self._show()

    def status(self, text: str, done: float) -> None:
        """Rewrite the last line, at most once a second."""
        if time.monotonic() - self.last >= self.every:
            self._show(text)

    def close(self) -> None:
        """Drop the moving line."""
        self._show()

    def _show(self, status: str = "") -> None:
        self.last = time.monotonic()
        self.handle.update({"text/plain": "\n".join([*self.lines, status]).strip()}, raw=True)


def choose_display(stream: TextIO | None = None) -> Display:
    """Return the display that fits where we are."""
    stream = stream or sys.stderr or open(os.devnull, "w")  # noqa: SIM115, PTH123 (a process without stderr)
    if "ipykernel" in sys.modules:
        from IPython.display import display  # ty: ignore[import-not-found]  # there whenever a kernel runs

        return Notebook(display)
    return Terminal(stream) if stream.isatty() else Lines(stream)


def tell_download(display: Display) -> Callable[[str, int, int], None]:
    """Return what shows how a download goes on."""

    def told(file: str, done: int, total: int) -> None:
        share = done / max(1, total)
        display.status(f"downloading {printable(file)}  {format_bytes(done)} of {format_bytes(total)}", share)

    return told


def follow(events: Generator[Event, None, Run], display: Display | None = None) -> Run:
    """Show the events of a fit as they come; returns the finished run."""
    from conviction.fitting import Note, Started
    from conviction.runs import Epoch
    from conviction.training.loop import Step

    display = display or choose_display()
    started: Started | None = None
    begun = time.monotonic()
    first, shown = 0, 0.0
    try:
        while True:
            event = next(events)
            if isinstance(event, Started):
                started, begun = event, time.monotonic()
                first = event.first_epoch * event.steps_per_epoch
                display.line(_start_line(event))
            elif isinstance(event, Step) and started is not None and time.monotonic() - shown >= _REFRESH_SECONDS:
                shown = time.monotonic()
                steps = started.epochs * started.steps_per_epoch
                rate = (event.index + 1 - first) / max(1e-9, time.monotonic() - begun)
                display.status(_status_line(event, started, rate, steps), (event.index + 1) / steps)
            elif isinstance(event, Epoch) and started is not None:
                display.line(_epoch_line(event, started.epochs))
            elif isinstance(event, Note):
                display.line(printable(event.text))
    except StopIteration as stop:
        return stop.value
    except KeyboardInterrupt:  # say where to go on
        raise KeyboardInterrupt(str(started.folder) if started else "") from None
    finally:
        display.close()


def _start_line(event: Started) -> str:
    return (f"{printable(event.net)} on {printable(event.data)}: {format_count(event.params)} parameters, "
            f"{event.epochs} epochs of {event.steps_per_epoch} steps -> {printable(event.folder)}\n"
            f"(loss and top-1 of training, then of validation)")  # fmt: skip


def _status_line(step: Any, started: Started, rate: float, steps: int) -> str:
    left = (steps - step.index - 1) / rate
    epoch, within = f"{step.epoch + 1}/{started.epochs}", f"{step.in_epoch + 1}/{step.steps_per_epoch}"
    return (f"epoch {epoch}  step {within}  loss {float(step.loss):.3f}  "
            f"{rate * step.images:,.0f} images/s  {format_seconds(left)} left")  # fmt: skip


def _epoch_line(row: Epoch, epochs: int) -> str:
    width = len(str(epochs))
    return (f"epoch {row.epoch:>{width}}/{epochs}  train {row.train_loss:.4f} {format_percent(row.train_top1)}"
            f"  valid {row.valid_loss:.4f} {format_percent(row.valid_top1)}"
            f"  {row.images_per_second:,.0f} images/s  {format_seconds(row.seconds)}")  # fmt: skip


def follow_sweep(looks: Generator[Looked, None, LRSweep], display: Display | None = None) -> LRSweep:
    """Show how a sweep for a learning rate goes on; returns what it came to."""
    display = display or choose_display()
    try:
        while True:
            look = next(looks)
            display.status(
                f"looking for a learning rate  {look.last.lr:.2g}  loss {look.last.probe_loss:.3f}", look.done
            )
    except StopIteration as stop:
        return stop.value
    finally:
        display.close()
