"""Words and numbers for people: units, plain tables, suggestions, untrusted names made safe to print."""

from __future__ import annotations

import difflib
import os
import shlex
import unicodedata
from collections.abc import Iterable, Sequence

_BINARY_STEPS = ("B", "KiB", "MiB", "GiB", "TiB")
_DECIMAL_STEPS = ("", " k", " M", " G", " T", " P")


def format_bytes(count: float) -> str:
    """Format a number of bytes in binary units, as in `46.6 MiB`."""
    step = 0
    # 1023.95 MiB would be rounded to 1024.0 MiB: it is 1.0 GiB.
    while abs(count) >= (1023.95 if step else 1023.5) and step < len(_BINARY_STEPS) - 1:
        count, step = count / 1024, step + 1
    return f"{count:.0f} B" if step == 0 else f"{count:.1f} {_BINARY_STEPS[step]}"


def format_count(count: float, unit: str = "") -> str:
    """Format a large count in decimal steps, as in `1.8 GMACs` for `format_count(1.8e9, "MACs")`."""
    step = 0
    while abs(count) >= 999.5 and step < len(_DECIMAL_STEPS) - 1:
        count, step = count / 1000, step + 1
    digits = f"{count:.0f}" if step == 0 else f"{count:.3g}" if count < 100 else f"{count:.0f}"
    prefix = _DECIMAL_STEPS[step] or (" " if unit else "")
    return f"{digits}{prefix}{unit}"


def format_seconds(seconds: float) -> str:
    """Format a duration, as in `38 s`, `3 min 12 s` or `2 h 05 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def format_percent(fraction: float | None) -> str:
    """Format a fraction as a percentage with two digits after the point; `None` becomes `-`."""
    return "-" if fraction is None else f"{100 * fraction:.2f} %"


def format_shape(shape: Sequence[int]) -> str:
    """Format a shape as in `64x28x28`."""
    return "x".join(str(size) for size in shape)


def format_table(header: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[int] = ()) -> str:
    """Lay out a plain table; the columns numbered in `right` are aligned to the right."""
    cells = [list(header), *[list(row) for row in rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    aligned_right = set(right)
    lines = [
        "  ".join(
            cell.rjust(width) if column in aligned_right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def suggest(word: str, known: Iterable[str]) -> str:
    """Return ` (did you mean ...?)` with the nearest known words, or an empty string when none is near."""
    near = difflib.get_close_matches(word.lower(), list(known), n=3, cutoff=0.6)
    return f" (did you mean {' or '.join(map(printable, near))}?)" if near else ""


def quoted(path: object) -> str:
    """Return a path as a shell takes it for one word, and never for an option."""
    text = printable(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


def system_reason(error: OSError) -> str:
    """Return why the operating system refused, as in `permission denied`."""
    return os.strerror(error.errno).lower() if error.errno else str(error)


def list_some(names: Sequence[str], most: int = 5) -> str:
    """Join the first few names and count the rest, as in `a, b, c and 12 more`."""
    shown = ", ".join(printable(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def printable(name: object) -> str:
    """Escape what could act on a terminal (control, bidirectional and surrogate characters) in an untrusted name."""
    return "".join(
        character if unicodedata.category(character) not in {"Cc", "Cf", "Cs", "Zl", "Zp"} else _escape(character)
        for character in str(name)
    )


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")
