"""The verb `diagnose`: its words, exit codes, JSON and page; a real script from its text to its cause."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

import conviction
from conviction.cli import run
from conviction.diagnosis.records import Diagnosis
from conviction.findings.records import Finding

FOUND = Finding("lr-absurd", "a rate of 10", "about 0.001", "set lr=0.001", file="train.py", line=3)
SICK = Diagnosis("train.py", (FOUND,), 12, 3.0, text="a\nb\nlr = 10\n")
HEALTHY = Diagnosis("train.py", (), 12, 3.0)

# A whole program with one line that can be wrong.
SCRIPT = """import argparse
import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=30)
steps = parser.parse_args().steps
torch.manual_seed(0)
labels = torch.randint(0, 4, (512,))
images = torch.randn(512, 1, 8, 8) + 2 * labels[:, None, None, None]
net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4))
optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
for step in range(steps):
    chosen = torch.randint(0, 512, (32,))
    loss = nn.functional.cross_entropy(net(images[chosen]), labels[chosen])
    optimizer.zero_grad()
    loss.backward()
    {line}
print("printed by the program", steps)
"""


def call(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = run(["diagnose", *map(str, words)])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, object, Sequence[str], dict[str, object]]]:
    """Stands for the diagnosis; tells what it was asked for."""
    calls: list[tuple[object, object, Sequence[str], dict[str, object]]] = []

    def diagnose(what: str, data: object, recipe: object, *, arguments: Sequence[str], **options: object) -> Diagnosis:
        calls.append((what, data, arguments, options | {"recipe": recipe}))
        return HEALTHY if "well" in str(what) else SICK

    monkeypatch.setattr(conviction, "diagnose", diagnose)
    return calls


def test_the_words_are_told_apart(capsys: pytest.CaptureFixture[str], asked: list, tmp_path: Path) -> None:
    for words, what, data, arguments in (
        (("well.py",), "well.py", None, []),
        (("well.py", "--seconds", 9, "--", "--lr", "3", "--json"), "well.py", None, ["--lr", "3", "--json"]),
        (("well.ipynb", "--steps", 7), "well.ipynb", None, []),
        ((tmp_path / "well",), str(tmp_path / "well"), None, []),
        (("well-net", "fashion-mini", "--lr", "0.1"), "well-net", "fashion-mini", []),
    ):
        code, out, err = call(capsys, *words)
        assert code == 0 and "healthy" in out, err
        assert asked[-1][:3] == (what, data, arguments)
    assert asked[1][3]["seconds"] == 9 and asked[2][3]["steps"] == 7
    assert asked[4][3]["recipe"] == conviction.Recipe(lr=0.1)


def test_a_sick_program_leaves_with_6(capsys: pytest.CaptureFixture[str], asked: list, tmp_path: Path) -> None:
    code, out, err = call(capsys, "train.py", "--json")
    fields = json.loads(out)
    assert code == 6 and out.count("\n") == 1
    assert {"verdict", "findings", "steps", "seconds"} <= set(fields) and fields["verdict"] == "sick"
    assert set(fields["findings"][0]) == {"cause", "where", "seen", "expected", "try", "confidence", "experiment"}
    assert fields["findings"][0]["where"] == {"file": "train.py", "line": 3, "layer": None}
    assert err == "error: sick: lr-absurd, train.py:3 - set lr=0.001\n"
    code, out, _ = call(capsys, "train.py", "--out", tmp_path / "page")
    assert code == 6 and ">    3 | lr = 10" in out and "diagnosis.html" in out
    assert "The learning rate cannot be meant" in (tmp_path / "page/diagnosis.html").read_text()


def test_odd_words_are_refused_in_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("x = (\n")
    for code, words in (
        (2, ()), (2, ("lenet",)), (2, (tmp_path / "nowhere.py",)), (4, (tmp_path,)), (4, ("runs/nowhere",)),
        (2, ("a.py", "--lr", "3")), (2, ("lenet", "fashion-mini", "more")), (2, ("a.py", "--seconds", "1")),
        (3, ("lenet", tmp_path / "nowhere")),
    ):  # fmt: skip
        got, out, err = call(capsys, *words)
        lines = [line for line in err.splitlines() if line.startswith("error: ")]
        assert (got, out) == (code, "") and len(lines) == 1 and " - " in lines[0], (words, err)


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("line", "code"), [("optimizer.step()", 0), ("pass", 6)])
def test_a_real_script(line: str, code: int, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT.replace("{line}", line))
    got = run(["diagnose", str(script), "--json", "--", "--steps", "100"])
    out, err = capfd.readouterr()
    fields = json.loads(out)
    assert got == code, (out, err)
    assert "printed by the program 100" in err
    assert fields["steps"] == (0 if code else 100) and fields["ending"]["how"] == "finished"
    if code:
        finding = fields["findings"][0]
        assert finding["cause"] == "step-missing" and finding["where"]["file"] == str(script)
        assert finding["where"]["line"] in (17, 18)
    assert [path.name for path in tmp_path.iterdir()] == ["train.py"]
