"""Why a net does not learn: of a program as it stands, of a run's folder, of a net and its data, of one's own loop."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO

from conviction.diagnosis.records import Diagnosis
from conviction.diagnosis.running import diagnose_program
from conviction.errors import UsageError
from conviction.findings.records import Finding
from conviction.recipe import Recipe
from conviction.text import printable

if TYPE_CHECKING:
    from torch import nn

    from conviction.data.downloading import Progress
    from conviction.data.records import Data
    from conviction.findings.observation import Observation
    from conviction.runs import Run

# Seconds that a diagnosis takes at most unless told otherwise, and bounds on what may be told.
SECONDS = 60.0
_FEWEST_SECONDS, _MOST_SECONDS = 5.0, 86_400.0
PROGRAMS = (".py", ".ipynb")


def diagnose(
    what: str | os.PathLike[str] | Run | nn.Module,
    data: Data | str | os.PathLike[str] | None = None,
    recipe: Recipe | None = None,
    *,
    arguments: Sequence[str] = (),
    steps: int | None = None,
    seconds: float = SECONDS,
    fix: bool = False,
    data_root: str | None = None,
    prints: BinaryIO | None = None,
    progress: Progress | None = None,
) -> Diagnosis:
    """Say why something does not learn; the public page tells what may be given.

    Raises `UsageError` for what cannot be diagnosed, and the errors of the rooms that are passed.
    """
    _refuse_odd(steps, seconds)
    if data is None and is_program(what):
        return _diagnose_file(Path(what), arguments, steps, seconds, fix, prints)  # ty: ignore[invalid-argument-type]
    if arguments:
        raise UsageError("arguments are for a script", "", "leave them out, or give a .py file")
    if data is None and isinstance(what, (str, os.PathLike)):
        _refuse_net_alone(what)
    from conviction.runs import Run, read_run

    if data is None and isinstance(what, (str, os.PathLike, Run)):
        from conviction.run_diagnosis import diagnose_run

        run = what if isinstance(what, Run) else read_run(Path(what))
        found = diagnose_run(run, steps=steps, seconds=seconds, data_root=data_root)
        return _mend_run(run, found, steps, seconds, data_root) if fix else found
    if data is None:
        raise UsageError("a net alone cannot be diagnosed", printable(type(what).__name__), "give its data too")
    if isinstance(what, Run):
        raise UsageError("a run has its own data", printable(what.folder), "give the run alone, or its net with data")
    from conviction.net_diagnosis import diagnose_net

    net, recipe = str(what) if isinstance(what, os.PathLike) else what, recipe or Recipe()
    found = diagnose_net(net, data, recipe, steps=steps, seconds=seconds, data_root=data_root, progress=progress)
    if not fix:
        return found
    beside = Path(net.replace("/", "-") if isinstance(net, str) else type(net).__name__)
    return _mend(net, data, recipe, found, beside, steps, seconds, data_root)


def is_program(what: object) -> bool:
    """Whether this names a script or a notebook: by its ending, or because it is a file."""
    if not isinstance(what, (str, os.PathLike)):
        return False
    path = Path(what)
    try:
        return (path.suffix.lower() in PROGRAMS or path.is_file()) and not path.is_dir()
    except OSError:  # a name that is too long
        return False


def _refuse_odd(steps: int | None, seconds: float) -> None:
    if steps is not None and steps < 1:
        raise UsageError(f"{steps} steps show nothing", "--steps", "give 1 or more")
    if not _FEWEST_SECONDS <= seconds <= _MOST_SECONDS:
        raise UsageError(f"{seconds:g} seconds are too few or too many", "--seconds",
                         f"give {_FEWEST_SECONDS:g} to {_MOST_SECONDS:,.0f}")  # fmt: skip


def _refuse_net_alone(what: str | os.PathLike[str]) -> None:
    from conviction.nets.catalogue import NETS

    if str(what).split("/")[0] in NETS and not Path(what).exists():
        raise UsageError(f"{printable(what)} is a net", "", f"give its data too, as in: diagnose {what} fashion-mini")


def _diagnose_file(
    path: Path, arguments: Sequence[str], steps: int | None, seconds: float, fix: bool, prints: BinaryIO | None
) -> Diagnosis:
    seen = diagnose_program(path, arguments, steps=steps, seconds=seconds, prints=prints)
    if not seen.findings:
        return seen
    from conviction.diagnosis.repairs.fixes import diff, fix_all, write_fix

    # A line of a file that the program imports is not the same line of the program.
    own = [finding for finding in seen.findings if finding.file in (None, seen.subject)]
    seen = dataclasses.replace(seen, fix=diff(seen.text, fix_all(seen.text, own, seen.subject), seen.subject))
    if not fix:
        return seen
    written = write_fix(path, own)
    note = () if written else ("No fix could be written for what was found: what to do is told below.",)
    return dataclasses.replace(seen, fixed=str(written or ""), notes=(*seen.notes, *note))


def _mend_run(run: Run, found: Diagnosis, steps: int | None, seconds: float, data_root: str | None) -> Diagnosis:
    if run.sources.net is None or run.sources.data is None:
        note = "Its net and data came from Python: diagnose(net, data, recipe, fix=True) mends its recipe."
        return dataclasses.replace(found, notes=(*found.notes, note)) if found.findings else found
    return _mend(run.sources.net, run.sources.data, run.recipe, found, run.folder.resolve(), steps, seconds, data_root)


def _mend(
    net: str | nn.Module, data: Data | str | os.PathLike[str], recipe: Recipe, found: Diagnosis, beside: Path,
    steps: int | None, seconds: float, data_root: str | None,
) -> Diagnosis:  # fmt: skip
    """Mend the recipe for what was found, and write it beside a run's folder where that helps."""
    if not found.findings:
        return found
    from conviction.repair import repair, write_recipe

    tried = repair(net, data, recipe, found, steps=steps, seconds=seconds, data_root=data_root)
    written = write_recipe(tried.recipe, beside) if tried.mended else None
    note = () if written else ("No change of the recipe mends it: what to do is told below.",)
    return dataclasses.replace(found, notes=(*found.notes, *tried.notes, *note), fixed=str(written or ""))


class Watch:
    """One's own training loop under observation, as a context manager; afterwards `findings` tells what is wrong.

    `seconds` are for the experiments that are made when the findings are first asked for; with 0 none is made.
    """

    def __init__(self, net: nn.Module | None, optimizer: object, seconds: float, file: str) -> None:
        from conviction.diagnosis.observer import Observer

        self.net, self.optimizer, self.seconds, self.file = net, optimizer, seconds, file
        self._observer = Observer()
        self._begun, self._took = time.monotonic(), 0.0
        self._error: BaseException | None = None
        self._diagnosis: Diagnosis | None = None

    def __enter__(self) -> Watch:
        self._begun = time.monotonic()
        self._observer.__enter__()
        self._observer.introduce(self.net, self.optimizer)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._took = time.monotonic() - self._begun
        self._error = error
        self._observer.__exit__(kind, error, trace)

    @property
    def observation(self) -> Observation:
        """Everything that was seen, as plain values, before any experiment."""
        return self._observer.observation()

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is wrong, most likely first; empty where nothing is."""
        return self.diagnosis.findings

    @property
    def diagnosis(self) -> Diagnosis:
        """The findings with the numbers behind them; made when first asked for."""
        if self._diagnosis is None:
            self._diagnosis = self._ask()
        return self._diagnosis

    def _ask(self) -> Diagnosis:
        from conviction.diagnosis.judgement import Named, judge, read_file_notes
        from conviction.findings.observation import Ending

        ending = Ending("finished")
        if self._error is not None:
            told = " ".join(str(self._error).split())[:300]
            ending = Ending("error", f"{type(self._error).__name__}: {told}")
        named = Named(self.file, Path(self.file).name or "training", str(Path.cwd()))
        seen = judge(self._observer, named, ending, self.seconds, read_file_notes(self.file))
        return dataclasses.replace(seen, seconds=self._took)

    def __str__(self) -> str:
        return str(self.diagnosis)
