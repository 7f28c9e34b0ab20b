"""Edits of a program's text that leave every other character as it was."""

from __future__ import annotations

import ast
import re

from conviction.diagnosis.reading.syntax import Syntax, split_lines

_INDENT = re.compile(r"[ \t]*")


def replace_nodes(program: Syntax, changes: dict[ast.AST, str]) -> str:
    """Return the text with each node's own characters replaced; nodes must not overlap."""
    spans = sorted(((*_span(program, node), new) for node, new in changes.items()), reverse=True)
    text = program.text
    for start, end, new in spans:
        text = text[:start] + new + text[end:]
    return text


def insert_lines(program: Syntax, beside: ast.stmt, lines: list[str], *, after: bool) -> str:
    """Return the text with lines (indented as `beside` is, relative to their own) before or after a statement.

    A statement that shares its line with others gets the first line beside it, after a semicolon.
    """
    text = program.text
    starts = _line_starts(text)
    first = _first_line(beside)
    shared = (
        text[starts[first - 1] : _offset(program, beside.lineno, beside.col_offset)].strip() and first == beside.lineno
    )
    end = _offset(program, beside.end_lineno or first, beside.end_col_offset or 0)
    followed = text[end : _line_end(text, end)].strip().startswith(";")
    if shared or (followed and after):
        joined = "; ".join(lines)
        at = end if after else _offset(program, beside.lineno, beside.col_offset)
        return text[:at] + (f"; {joined}" if after else f"{joined}; ") + text[at:]
    match = _INDENT.match(text, starts[first - 1])
    indent = match.group() if match else ""
    newline = "\r\n" if "\r\n" in text else "\n"
    block = "".join(f"{indent}{line}{newline}" for line in lines)
    if not after:
        return text[: starts[first - 1]] + block + text[starts[first - 1] :]
    at = _line_end(text, end)
    if at == len(text):
        return text + newline + block
    at += 2 if text.startswith("\r\n", at) else 1
    return text[:at] + block + text[at:]


def delete_statement(program: Syntax, statement: ast.stmt) -> str:
    """Return the text without a statement; `pass` takes the place of a block's only one."""
    text = program.text
    if len(program.block(statement)) == 1:
        return replace_nodes(program, {statement: "pass"})
    starts = _line_starts(text)
    start = _offset(program, statement.lineno, statement.col_offset)
    end = _offset(program, statement.end_lineno or statement.lineno, statement.end_col_offset or 0)
    before = text[starts[statement.lineno - 1] : start].strip()
    rest = text[end : _line_end(text, end)]
    if rest.strip().startswith(";"):  # the next statement on the line takes its place
        skip = end + len(rest) - len(rest.lstrip()) + 1
        skip += len(text[skip:]) - len(text[skip:].lstrip(" \t"))
        return text[:start] + text[skip:]
    if before:
        return text[:start].rstrip().removesuffix(";") + text[end:]
    at = _line_end(text, end)
    at += 2 if text.startswith("\r\n", at) else 1
    return text[: starts[statement.lineno - 1]] + text[at:]


def delete_argument(program: Syntax, call: ast.Call, argument: ast.expr) -> str:
    """Return the text without one argument of a call and the comma that goes with it."""
    text = program.text
    start, end = _span(program, argument)
    for keyword in call.keywords:
        if keyword.value is argument:
            start = _span(program, keyword)[0]
    close = _span(program, call)[1]
    after = re.compile(r"\s*,[ \t]*").match(text, end, close)
    if after and not re.compile(r"\s*\)").match(text, after.end(), close):
        return text[:start] + text[after.end() :]
    before = re.compile(r",\s*$").search(text[:start])
    at = before.start() if before else start
    return text[:at] + text[end:]


def add_argument(program: Syntax, call: ast.Call, argument: str) -> str:
    """Return the text with one more keyword argument at the end of a call."""
    text = program.text
    close = _span(program, call)[1] - 1
    inner = text[:close].rstrip()
    joint = "" if inner.endswith("(") else " " if inner.endswith(",") else ", "
    return inner + joint + argument + text[len(inner) : close] + text[close:]


def source_of(program: Syntax, node: ast.AST) -> str:
    """Return a node's own characters."""
    start, end = _span(program, node)
    return program.text[start:end]


def _span(program: Syntax, node: ast.AST) -> tuple[int, int]:
    first, last = getattr(node, "lineno", 1), getattr(node, "end_lineno", 1)
    return _offset(program, first, getattr(node, "col_offset", 0)), _offset(
        program, last, getattr(node, "end_col_offset", 0)
    )


def _offset(program: Syntax, line: int, column: int) -> int:
    """Return a place in the text; the parser counts columns in bytes of UTF-8."""
    lines = split_lines(program.text)
    before = sum(len(each) for each in lines[: line - 1])
    return before + len(lines[line - 1].encode()[:column].decode(errors="ignore")) if line <= len(lines) else before


def _line_starts(text: str) -> list[int]:
    starts = [0]
    for line in split_lines(text):
        starts.append(starts[-1] + len(line))
    return starts


def _line_end(text: str, at: int) -> int:
    found = re.compile(r"\r\n|\n|\r").search(text, at)
    return found.start() if found else len(text)


def _first_line(statement: ast.stmt) -> int:
    decorators = getattr(statement, "decorator_list", [])
    return min([statement.lineno, *(decorator.lineno for decorator in decorators)])
