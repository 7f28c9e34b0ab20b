"""Progress: plain lines off a terminal, untrusted names made safe, the result handed through."""

import io
import itertools
from pathlib import Path

import pytest
import torch

from conviction.fitting import Note, Started
from conviction.progress import Lines, Notebook, Terminal, choose_display, follow
from conviction.runs import Epoch
from conviction.training.loop import Step


@pytest.fixture(autouse=True)
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("conviction.progress._REFRESH_SECONDS", 0.0)


def events():
    yield Note("read from \x1b[31mred")
    yield Started("lenet", "small", 2, 2, 61_706, Path("runs/x"))
    for index in range(4):
        yield Step(index, index // 2, index % 2, 2, 32, torch.tensor(1.5), torch.tensor(16), 0.1)
        if index % 2:
            yield Epoch(index // 2 + 1, 0.1, 1.5, 0.5, 1.4, 0.55, 2.0, 32.0)
    return "the run"


def test_plain_lines() -> None:
    stream = io.StringIO()
    assert follow(events(), Lines(stream)) == "the run"
    lines = stream.getvalue().splitlines()
    assert lines[0] == "read from \\x1b[31mred"
    assert lines[1] == "lenet on small: 61.7 k parameters, 2 epochs of 2 steps -> runs/x"
    assert lines[3] == "epoch 1/2  train 1.5000 50.00 %  valid 1.4000 55.00 %  32 images/s  2.0 s"
    assert len(lines) == 5 and "\r" not in stream.getvalue()


def test_a_sign_of_life_when_epochs_are_long() -> None:
    stream = io.StringIO()
    follow(events(), Lines(stream, every=0.0))
    assert "epoch 2/2  step 2/2  loss 1.500" in stream.getvalue()


def test_terminal_leaves_the_lines_that_stay() -> None:
    class Tty(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Tty()
    display = choose_display(stream)
    assert isinstance(display, Terminal)
    follow(events(), display)
    assert "epoch 2/2" in stream.getvalue() and "[31m" not in stream.getvalue().split("epoch")[0].replace(
        "\\x1b[31m", ""
    )


def test_notebook_rewrites_one_block() -> None:
    shown: list[str] = []

    class Handle:
        def update(self, data: dict[str, str], raw: bool) -> None:
            shown.append(data["text/plain"])

    def display(data: dict[str, str], raw: bool, display_id: bool) -> Handle:
        return Handle()

    follow(events(), Notebook(display, every=0.0))
    assert all(later.startswith(earlier.splitlines()[0]) for earlier, later in itertools.pairwise(shown))
    assert any("step 2/2" in text for text in shown), "the moving line is shown"
    assert len(shown[-1].splitlines()) == 5, "and goes at the end"
