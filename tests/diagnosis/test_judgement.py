"""A finding's line: where the program is mended, unless the reader of the text has pointed at it."""

import pytest
from mended_programs import PLACED, SETTINGS, configured, setting_line
from more_mended_programs import MORE_PLACED

from conviction.diagnosis.judgement import _located, read_notes
from conviction.findings.observation import Place, SourceNote
from conviction.findings.records import Finding

PLACES = [*PLACED, *MORE_PLACED]
PROGRAM = """
import torch
from torch import nn
x_train = torch.tensor(images).float()
y_train = torch.tensor(labels)
net = nn.Sequential(
    nn.Flatten(),
    nn.Linear(784, 10),
)
opt = torch.optim.Adam(net.parameters(),
                       lr=7)
for epoch in range(3):
    opt.zero_grad()
    loss = nn.functional.cross_entropy(net(x_train), y_train)
    loss.backward()
    opt.step()
"""


@pytest.mark.parametrize(
    ("cause", "line"),
    [("input-unscaled", 4), ("labels-malformed", 5), ("init-tiny", 6), ("classes-mismatch", 8), ("lr-absurd", 11),
     ("optimizer-settings", 10), ("step-missing", 14)],
)  # fmt: skip
def test_a_fault_that_showed_elsewhere_is_placed_where_it_is_mended(cause, line):
    shown = Finding(cause, "seen", "expected", "remedy", file="a.py", line=14)
    located = _located(shown, read_notes(PROGRAM, "a.py"))
    assert (located.file, located.line) == ("a.py", line)


def located_line(cause: str, text: str) -> int | None:
    return _located(Finding(cause, "seen", "expected", "remedy"), read_notes(text, "a.py")).line


@pytest.mark.parametrize(("cause", "text"), PLACES, ids=[f"{cause}-{n}" for n, (cause, _) in enumerate(PLACES)])
def test_the_line_is_the_one_where_a_person_would_mend_it(cause, text):
    compile(text, "a.py", "exec")
    (wanted,) = [n for n, line in enumerate(text.splitlines(), 1) if line.endswith("#!")]
    assert located_line(cause, text) == wanted


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize(
    "style", ["dataclass", "dictionary", "argparse", "constants", "tuples", "class", "namespace", "bare"]
)
def test_a_number_is_placed_where_it_is_written(style, name):
    text = configured(style)
    assert located_line(SETTINGS[name], text) == setting_line(text, name)


def test_a_line_of_the_texts_reader_stays():
    shown = Finding("lr-absurd", "seen", "expected", "remedy", file="a.py", line=14)
    told = SourceNote("arguments-swapped", Place("a.py", 14))
    assert _located(shown, (told, *read_notes(PROGRAM, "a.py"))) == shown


def test_a_text_that_cannot_be_read_moves_nothing():
    shown = Finding("lr-absurd", "seen", "expected", "remedy", file="a.py", line=14)
    assert _located(shown, read_notes("for (", "a.py")) == shown
