"""The causes of docs/diagnosis.md are those of the doctor, under the same headings."""

import re
from pathlib import Path

from conviction.diagnosis.causes import CAUSES

PAGE = (Path(__file__).parents[2] / "docs/diagnosis.md").read_text()


def test_every_cause_has_its_row():
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| ([^|]+) \| [^|]+ \| [^|]+ \|$", PAGE, re.MULTILINE))
    assert rows == CAUSES
