"""The verb `diagnose`: why a program, a run or a net does not learn."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from conviction.cli.output import print_json
from conviction.cli.words import DataRoot, Json, Settings, merge_knobs, told
from conviction.errors import DivergedError, UsageError
from conviction.recipe import Recipe
from conviction.text import printable, quoted

if TYPE_CHECKING:
    from conviction.diagnosis.records import Diagnosis

_WORDS = "SCRIPT.py or NOTEBOOK.ipynb (its own words after --), the folder of a RUN, or NET DATA"


def diagnose(
    *words: Annotated[str, Parameter(help=_WORDS)],
    steps: Annotated[int | None, Parameter(help="optimizer steps to watch; default as many as the time allows")] = None,
    seconds: Annotated[float, Parameter(help="time for all of it")] = 60.0,
    fix: Annotated[bool, Parameter(help="write SCRIPT.fixed.py, mended, or the recipe of a run")] = False,
    lr: Annotated[float | None, told("lr")] = None,
    optimizer: Annotated[str | None, told("optimizer")] = None,
    batch_size: Annotated[int | None, told("batch_size")] = None,
    init: Annotated[str | None, told("init")] = None,
    device: Annotated[str | None, told("device")] = None,
    recipe: Annotated[Path | None, Parameter(help="TOML file with any of the knobs, for NET DATA")] = None,
    set_: Settings = (),
    out: Annotated[Path | None, Parameter(help="folder for diagnosis.html, the same with curves")] = None,
    data_root: DataRoot = None,
    json: Json = False,
) -> None:
    """Say why a net does not learn: runs your script as it is for up to a minute, watching (exit 6 where it is sick).

    Example: conviction diagnose train.py -- --epochs 3
    """
    import conviction
    from conviction.diagnosing import is_program

    if not words:
        raise UsageError("nothing was given to diagnose", "", "give SCRIPT.py, a run's folder, or NET DATA")
    what, *rest = words
    flags = {"lr": lr, "optimizer": optimizer, "batch_size": batch_size, "init": init, "device": device}
    knobs = merge_knobs(recipe, set_, flags)
    program = is_program(what)
    if knobs and (program or len(words) == 1):
        raise UsageError("knobs are for NET DATA", next(iter(knobs)), "leave them out; a script's own go after --")
    if len(words) > 2 and not program:
        raise UsageError("too many words", printable(words[2]), "give NET DATA; a script's own words go after --")
    data, arguments = (None, rest) if program else (rest[0] if rest else None, [])
    found = conviction.diagnose(what, data, Recipe(**knobs), arguments=arguments, steps=steps, seconds=seconds, fix=fix,
                                data_root=data_root)  # fmt: skip
    page = conviction.save_diagnosis(found, out) if out is not None else None
    show_diagnosis(found, page, json)


def show_diagnosis(found: Diagnosis, page: Path | None, json: bool) -> None:
    """What was found; raises `DivergedError`, with its one line, where something was."""
    from conviction.diagnosis.words import format_diagnosis, where_of

    if json:
        print_json(found.to_dict())
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 100
        print(format_diagnosis(found, width))
        if page is not None:
            print(f"\npage: {quoted(page)}")
    sys.stdout.flush()
    if found.findings:
        first = found.findings[0]
        where = where_of(found, first) or printable(found.subject)
        raise DivergedError(f"sick: {first.cause}", where, printable(first.remedy))
