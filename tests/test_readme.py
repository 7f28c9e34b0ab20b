"""The README tells the truth: its Python runs, its commands print what it says, its links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest

from conviction.cli import run
from conviction.nets import NETS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
README = PAGES[0].read_text()


def test_python_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    assert blocks
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert "valid: top-1" in capsys.readouterr().out
    assert (tmp_path / "runs/first/report.html").exists()


@pytest.mark.parametrize(
    ("command", "printed"), re.findall(r"^\$ (conviction .*)\n(error: .*)$", README, re.M), ids=lambda text: text[:40]
)
def test_commands_print_what_it_says(command: str, printed: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(shlex.split(command)[1:]) == 2
    assert capsys.readouterr().err.strip() == printed


def test_every_verb_is_told_and_the_nets_are_counted() -> None:
    from conviction.cli.app import VERBS

    told = set(re.findall(r"^conviction ([\w-]+)", README, re.M))
    assert told == set(VERBS)
    assert f"{len(NETS)} nets" in README


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target
