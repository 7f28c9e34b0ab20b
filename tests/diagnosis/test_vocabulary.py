"""The causes of docs/diagnosis.md are those of the doctor, under the same headings; each has a page that is true."""

import ast
import re
import textwrap
from pathlib import Path

import pytest

from conviction.diagnosis.causes import CAUSES, title_of
from conviction.diagnosis.repairs.fixes import FIXES
from conviction.findings import budget, data_seen, limits, losses_seen, modes, ownership, stepping

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "diagnosis.md").read_text()
PAGES = {path.stem: path.read_text() for path in sorted((DOCS / "causes").glob("*.md"))}
HEADINGS = ["What happens", "How it shows", "How diagnose tells", "Mend it", "Not to be confused with", "Sources"]
LINK = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)")
# Numbers of the checks that a page gives in the same words.
THRESHOLDS = {
    "amp-underflow": (limits._LOST,),
    "bn-tiny-batch": (modes._FEW_VALUES,),
    "clip-too-low": (limits._LITTLE, limits._ALWAYS),
    "dropout-too-high": (limits._KEPT, limits._ON_MAPS),
    "frozen-params": (ownership._FEW,),
    "loss-graph-kept": (budget._KEPT,),
    "lr-absurd": (stepping._LOWEST, stepping._ABSURD_UPDATE, stepping._HIGHEST["adam"], stepping._HIGHEST["sgd"]),
    "lr-too-high": (stepping._LARGE_UPDATE,),
    "lr-too-low": (stepping._SLOW_UPDATE, stepping._SLOW_ADAPTIVE_UPDATE),
    "mixed-batch": (losses_seen._MIXED,),
    "not-shuffled": (data_seen._SORTED,),
    "schedule-kills-lr": (stepping._DEAD_LR, stepping._GONE_LR),
    "too-few-steps": (budget._FEW_STEPS, budget._HARDLY_ANY),
    "train-test-leak": (data_seen._SHARED,),
    "worker-seed": (data_seen._TWINS,),
}
each_page = pytest.mark.parametrize("cause", sorted(PAGES))


def section(cause: str, heading: str) -> str:
    """What stands under a heading of a page."""
    return PAGES[cause].partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def sides(change: str) -> tuple[str, str]:
    """What a diff says was there before, and what is after it."""
    lines = change.splitlines()
    assert all(line[:1] in {"", " ", "-", "+"} for line in lines), change
    return tuple(textwrap.dedent("\n".join(line[1:] for line in lines if line[:1] != other)) for other in "+-")


def test_every_cause_has_its_row():
    rows = re.findall(
        r"^\| \[`([a-z-]+)`\]\(causes/([a-z-]+)\.md\) \| ([^|]+) \| [^|]+ \| [^|]+ \|$", PAGE, re.MULTILINE
    )
    assert {code: title for code, _, title in rows} == CAUSES
    assert all(code == page for code, page, _ in rows)


def test_every_cause_has_its_page():
    assert set(PAGES) == set(CAUSES)


@each_page
def test_page_has_its_title_and_its_headings(cause):
    lines = PAGES[cause].splitlines()
    assert lines[0] == f"# {title_of(cause)}"
    assert next(line for line in lines[1:] if line) == f"`{cause}`"
    headings = [line.removeprefix("## ") for line in lines if line.startswith("## ")]
    assert headings in (HEADINGS, HEADINGS[:-1])
    assert all(section(cause, heading).strip() for heading in headings)
    assert 25 <= len(lines) <= 60
    assert max(map(len, lines)) <= 120


@each_page
def test_links_lead_to_other_causes(cause):
    links = LINK.findall(PAGES[cause])
    assert links == LINK.findall(section(cause, "Not to be confused with"))
    assert 1 <= len(links) <= 3
    assert f"{cause}.md" not in links


@pytest.mark.parametrize("path", [DOCS / "diagnosis.md", *sorted((DOCS / "causes").glob("*.md"))], ids=lambda p: p.stem)
def test_links_resolve(path):
    for link in LINK.findall(path.read_text()):
        assert "://" in link or (path.parent / link).is_file(), link


@each_page
def test_both_sides_of_a_change_are_python(cause):
    changes = re.findall(r"```diff\n(.*?)```", section(cause, "Mend it"), re.DOTALL)
    assert len(changes) == 1
    before, after = sides(changes[0])
    assert ast.dump(ast.parse(before)) != ast.dump(ast.parse(after))


@each_page
def test_page_says_what_fix_does(cause):
    told = " ".join(section(cause, "Mend it").split())
    assert "`--fix`" in told
    assert ("`--fix` does not repair this" in told) == (cause not in FIXES)


@pytest.mark.parametrize("cause", sorted(THRESHOLDS))
def test_page_gives_the_thresholds_of_the_check(cause):
    numbers = re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?:e-\d+)?(?![\w]|\.\d)", section(cause, "How diagnose tells"))
    assert {f"{threshold:g}" for threshold in THRESHOLDS[cause]} <= set(numbers)
