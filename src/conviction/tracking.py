"""TensorBoard events beside history.csv, where the `track` extra is installed."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from conviction.runs import Epoch
from conviction.storage import explain_os_error


class EventFile:
    """Writes one scalar per column of history.csv and epoch; does nothing where tensorboardX is not installed."""

    def __init__(self, folder: Path) -> None:
        self.writer: Any = None
        if importlib.util.find_spec("tensorboardX") is None:
            return
        from tensorboardX import SummaryWriter

        try:
            self.writer = SummaryWriter(logdir=str(folder))
        except OSError as error:
            raise explain_os_error(error, folder) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.writer is not None:
            with contextlib.suppress(OSError):  # the same numbers are in history.csv
                self.writer.close()

    def write(self, epoch: Epoch) -> None:
        """Add one epoch."""
        if self.writer is not None:
            for name, value in dataclasses.asdict(epoch).items():
                if name != "epoch":
                    self.writer.add_scalar(name.replace("_", "/", 1), value, epoch.epoch)
