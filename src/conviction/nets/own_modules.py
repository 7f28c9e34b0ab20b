"""Modules of the user's own: how one is found, imported and asked for what makes a net, each fault in one line."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Generator
from hashlib import sha256
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from conviction.errors import ConvictionError, ResourceError, UsageError
from conviction.text import list_some, printable, suggest

WRITE_IT = "write it as module:factory, path/to/file.py:factory, timm:NAME or torchvision:NAME"
# A fault is told at the line of the user's that led to it, not where torch or this package noticed it.
_NOT_THEIRS = (*(str(Path(file).parent) for file in (torch.__file__, importlib.__file__)), "<frozen",
               str(Path(__file__).parents[1]))  # fmt: skip


def find_maker(word: str, place: str, name: str, folder: Path) -> Callable[..., Any]:
    """Import `place`, a module or a file, and return its `name`, a function or a class that makes a net.

    A module is looked for in `folder` first, and a file's path starts there. Raises `UsageError` for what is not
    there, raises itself or makes no net.
    """
    with torch.random.fork_rng(devices=[]), refusing(word, "the module cannot be imported"):
        made: Any = _imported(word, place, folder)
        for part in name.split("."):
            if not hasattr(made, part):
                known = [key for key, value in vars(made).items() if callable(value) and not key.startswith("_")]
                raise UsageError(f"{printable(place)} has no {printable(name)!r}{suggest(name, known)}", "",
                                 f"it has {list_some(known)}" if known else "define it there")  # fmt: skip
            made = getattr(made, part)
    if isinstance(made, nn.Module) or not callable(made):
        raise UsageError(f"{printable(word)} is {printable(type(made).__name__)}, not what makes a net", "",
                         "name a function that returns the net, or its class")  # fmt: skip
    return made


def named_arguments(word: str, made: Callable[..., Any]) -> dict[str, Any]:
    """Return which of `num_classes` and `image` a factory takes by name, with their defaults."""
    try:
        parameters = inspect.signature(made).parameters.values()
    except (TypeError, ValueError):  # what is written in C tells nothing
        return {}
    by_name = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    taken = {p.name: p.default for p in by_name if p.name in ("num_classes", "image")}
    open_ones = [p.name for p in parameters if p.default is p.empty and p.name not in taken
                 and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]  # fmt: skip
    if open_ones:
        raise UsageError(f"the factory needs {list_some(open_ones)}", printable(word),
                         "give them defaults: it is called with num_classes and image alone")  # fmt: skip
    return taken


def _imported(word: str, place: str, folder: Path) -> ModuleType:
    if place.endswith(".py"):
        return _imported_file(folder / place)
    theirs = PathFinder.find_spec(place.partition(".")[0], [str(folder)])
    _refuse_another(word, theirs)
    try:
        with imports_from(folder):
            return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{place}.".startswith(f"{error.name}."):
            raise
        near = suggest(place, [path.stem for path in sorted(folder.glob("*.py"))])
        raise UsageError(f"no module {printable(place)!r}{near}", printable(folder), WRITE_IT) from error


def _refuse_another(word: str, theirs: Any) -> None:
    """Refuse a module that this process knows under the same name from another file: Python would give that one."""
    known = sys.modules.get(theirs.name) if theirs is not None else None
    file = getattr(known, "__file__", None)
    if file is None or theirs.origin is None or Path(file).resolve() == Path(theirs.origin).resolve():
        return
    raise UsageError(f"another module {theirs.name!r} is in use here", printable(file),
                     f"name the file, as in path/to/{theirs.name}.py:{word.rpartition(':')[2]}")  # fmt: skip


def _imported_file(path: Path) -> ModuleType:
    path = path.resolve()
    name = f"{path.stem}_{sha256(bytes(path)).hexdigest()[:8]}"  # no module of another file has it
    if name in sys.modules:
        return sys.modules[name]
    if not path.is_file():
        raise UsageError("no such file", printable(path), WRITE_IT)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # registered: data classes look themselves up
    try:
        with imports_from(path.parent):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextlib.contextmanager
def imports_from(folder: Path | None) -> Generator[None]:
    """Let modules be found in `folder` before all others; afterwards after them, for what is imported later."""
    if folder is None:
        yield
        return
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        if str(folder) not in sys.path:
            sys.path.append(str(folder))


@contextlib.contextmanager
def refusing(word: str, doing: str) -> Generator[None]:
    """Turn whatever foreign code raises into a refusal in one line; what it prints goes to stderr."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except ConvictionError:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, MemoryError) or "allocate memory" in str(error) or "out of memory" in str(error):
            raise ResourceError(f"no memory for the net: {in_a_line(error)}", printable(word),
                                "ask for fewer classes or smaller images") from error  # fmt: skip
        raise UsageError(f"{doing}: {in_a_line(error)}", printable(word), _place_of(error)) from error


def in_a_line(error: BaseException) -> str:
    """Return the type and the message of an error of others in one line."""
    return printable(" ".join(f"{type(error).__name__}: {error}".split())[:200])


def _place_of(error: BaseException) -> str:
    """Say where foreign code raised."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"see {printable(Path(error.filename).name)}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if not frame.filename.startswith(_NOT_THEIRS)]
    return f"see {printable(Path(theirs[-1].filename).name)}, line {theirs[-1].lineno}" if theirs else "mend it there"
