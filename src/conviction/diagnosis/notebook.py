"""A notebook as one script: its code cells in order, what is no Python put out of action, each line found again."""

from __future__ import annotations

import bisect
import io
import json
import re
import tokenize
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conviction.errors import UsageError
from conviction.text import printable, system_reason

# Cell magics whose cell is Python all the same.
_PYTHON_MAGICS = frozenset({"time", "timeit", "capture", "prun", "memit", "mprun", "notify"})
_ASKED = re.compile(r"^\s*\?|\?\s*$")
_ASSIGNED = re.compile(r"^(\s*[\w.,\s]+=\s*)[!%](?![=])")
_REMEDY = "save it again in Jupyter, or give the script"


@dataclass(frozen=True)
class Script:
    """The text of a notebook's code cells; `firsts` are the lines (from 1) at which each cell begins."""

    text: str
    firsts: tuple[int, ...]

    def locate(self, line: int) -> tuple[int, int]:
        """Return the code cell (from 1) and the line in it (from 1) of a line of the script."""
        return locate_cell(self.firsts, line)


def locate_cell(firsts: tuple[int, ...], line: int) -> tuple[int, int]:
    """Return the code cell (from 1) and the line in it of a script's line, from the lines at which cells begin."""
    cell = max(1, bisect.bisect_right(firsts, line))
    return cell, max(1, line - firsts[cell - 1] + 1) if firsts else line


def read_notebook(path: Path) -> Script:
    """Read the code cells of an .ipynb file; raises `UsageError` where it is none or has no code."""
    try:
        cells = _code_cells(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UsageError(f"the notebook cannot be read: {system_reason(error)}", printable(path), _REMEDY) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        what = f"this is no notebook: {printable(' '.join(str(error).split())[:120])}"
        raise UsageError(what, printable(path), _REMEDY) from error
    if not cells:
        raise UsageError("the notebook has no code", printable(path), "give one that trains a net")
    return join_cells(cells)


def _code_cells(notebook: dict[str, Any]) -> list[str]:
    sheets = notebook.get("worksheets")  # until format 3
    cells = [cell for sheet in sheets for cell in sheet["cells"]] if sheets else notebook["cells"]
    code = [cell.get("source", cell.get("input", "")) for cell in cells if cell["cell_type"] == "code"]
    return [source if isinstance(source, str) else "".join(source) for source in code]


def join_cells(cells: list[str]) -> Script:
    """Join the sources of code cells, each under a comment that numbers it; magics and shell lines become `pass`."""
    lines: list[str] = []
    firsts = []
    for number, source in enumerate(cells, 1):
        lines.append(f"# %% code cell {number}")
        firsts.append(len(lines) + 1)
        lines += [*_silenced(source.splitlines()), ""]
    return Script("\n".join(lines) + "\n", tuple(firsts))


def _silenced(lines: list[str]) -> list[str]:
    """Put what is no Python out of action, line by line, so that every line stays where it was."""
    first = next((index for index, line in enumerate(lines) if line.strip()), None)
    if first is not None and lines[first].lstrip().startswith("%%"):
        magic = lines[first].lstrip()[2:].split()[:1]
        if magic and magic[0] in _PYTHON_MAGICS:
            return [*lines[:first], f"# {lines[first]}", *_silenced_lines(lines[first + 1 :])]
        return [f"# {line}" for line in lines]
    return _silenced_lines(lines)


def _silenced_lines(lines: list[str]) -> list[str]:
    told: list[str] = []
    for line in lines:
        told.append(line if not _may_be_magic(line) or _is_open(told) else _without_magic(line))
    return told


def _may_be_magic(line: str) -> bool:
    bare = line.strip()
    asks = _ASKED.search(line) is not None and "#" not in line
    return bare.startswith(("%", "!")) or asks or _ASSIGNED.match(line) is not None


def _without_magic(line: str) -> str:
    """Return a line that does nothing in place of a magic; a name that was to hold its output holds an empty list."""
    assigned = _ASSIGNED.match(line)
    if assigned:
        return f"{assigned[1]}[]  # {line.strip()}"
    return f"{line[: len(line) - len(line.lstrip())]}pass  # {line.strip()}"


def _is_open(lines: list[str]) -> bool:
    """Whether the next line goes on inside a bracket or a string of these: then it is Python, whatever its look."""
    if lines and lines[-1].rstrip().endswith("\\"):
        return True
    try:
        for _ in tokenize.generate_tokens(io.StringIO("\n".join(lines) + "\n").readline):
            pass
    except tokenize.TokenError:
        return True
    except (IndentationError, SyntaxError):
        return False
    return False
