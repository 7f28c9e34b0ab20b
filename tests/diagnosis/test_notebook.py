"""Notebooks: every line stays where it was, what is no Python does nothing, and what is stays as it is."""

import ast
import json
from pathlib import Path

import pytest

from conviction.diagnosis.notebook import join_cells, locate_cell, read_notebook
from conviction.errors import UsageError

MAGICS = (
    ("%matplotlib inline\nx = 1", {"x": 1}),
    ("!pip install torch\nx = 2", {"x": 2}),
    ("if True:\n    !ls\nx = 3", {"x": 3}),
    ("files = !ls\nx = files", {"x": []}),
    ("%%time\nx = 5", {"x": 5}),
    ("\n%%capture out\nx = 6", {"x": 6}),
    ("x = 7\nprint?", {"x": 7}),
    ("x = 8\n?print", {"x": 8}),
    # What only looks like a magic:
    ("x = (9\n  % 5)", {"x": 4}),
    ('x = """\n%s\n!no\n"""', {"x": "\n%s\n!no\n"}),
    ("x = 17 \\\n  % 5", {"x": 2}),
    ("x = 5\nx %= 3", {"x": 2}),
    ("x = 1 != 2", {"x": True}),
    ("x = 'why?'", {"x": "why?"}),
    ("x = 1  # why?", {"x": 1}),
)


@pytest.mark.parametrize(("cell", "names"), MAGICS, ids=[cell for cell, _ in MAGICS])
def test_a_cell_does_what_its_python_says(cell: str, names: dict[str, object]) -> None:
    script = join_cells([cell])
    got: dict[str, object] = {}
    exec(compile(script.text, "cell", "exec"), got)
    assert {name: got[name] for name in names} == names
    assert len(script.text.splitlines()) == len(cell.splitlines()) + 2


@pytest.mark.parametrize("magic", ["bash", "html", "writefile model.py", "javascript", ""])
def test_a_cell_of_another_language_does_nothing(magic: str) -> None:
    script = join_cells([f"%%{magic}\nfor f in *; do echo $f; done", "x = 1"])
    assert [type(node) for node in ast.parse(script.text).body] == [ast.Assign]


def test_lines_are_found_again_in_their_cells() -> None:
    cells = ["a = 1\nb = 2", "", "%%time\nc = 3", "d = 4"]
    script = join_cells(cells)
    lines = script.text.splitlines()
    for number, cell in enumerate(cells, 1):
        for row, source in enumerate(cell.splitlines(), 1):
            (line,) = [line for line in range(1, len(lines) + 1) if source in lines[line - 1]]
            assert script.locate(line) == (number, row)
    assert locate_cell((), 3) == (1, 3)


def test_both_formats_of_notebooks_are_read(tmp_path: Path) -> None:
    path = tmp_path / "n.ipynb"
    cells = [{"cell_type": "markdown", "source": "# title"}, {"cell_type": "code", "source": ["a = 1\n", "b = 2"]}]
    path.write_text(json.dumps({"nbformat": 4, "cells": cells}))
    assert "a = 1\nb = 2\n" in read_notebook(path).text and "title" not in read_notebook(path).text
    old = [{"cell_type": "code", "input": "a = 1"}]
    path.write_text(json.dumps({"nbformat": 3, "worksheets": [{"cells": old}]}))
    assert "a = 1\n" in read_notebook(path).text


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"cells": 3}', '{"cells": []}', '{"cells": [{"source": ""}]}', "\udcff"]
)
def test_what_is_no_notebook_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "n.ipynb"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UsageError, match=r"n\.ipynb - (save|give)"):
        read_notebook(path)
