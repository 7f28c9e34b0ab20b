"""The chapter's questions: every row of the comparison in docs/questions.md is what a plan says."""

import re
from pathlib import Path

import pytest

import conviction

PAGE = (Path(__file__).parents[1] / "docs/questions.md").read_text()
ROWS = {
    name: [int(cell.replace(",", "").removesuffix(" MiB")) for cell in cells.split(" | ")]
    for name, cells in re.findall(r"^\| (\w+) \| ((?:[\d,]+(?: MiB)? \| ){5}[\d,]+) \|$", PAGE, re.MULTILINE)
}
SLOW = {"googlenet", "densenet121"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in ROWS]
)
def test_a_row_is_what_the_plan_says(name):
    plan = conviction.plan(name, (3, 224, 224), batch_size=128, device="t4", precision="fp32", optimizer="sgd")
    mib = [bytes / 2**20 for bytes in (plan.saved_bytes, plan.train_peak_bytes.expected, plan.predict_peak_bytes)]
    assert plan.device is not None
    found = [plan.params, plan.macs / 1e6, *mib, plan.device.largest_batch]
    assert [round(figure) for figure in found] == ROWS[name]


def test_all_nets_of_the_comparison_are_there():
    assert set(ROWS) == {"alexnet", "vgg11", "nin", "googlenet", "resnet18", "densenet121"}


@pytest.mark.parametrize(("name", "batches"), [("vgg11", (126, 128)), ("alexnet", (64, 66))])
def test_the_smaller_batch_can_take_more_from_the_device(name, batches):
    small, large = (
        conviction.plan(name, (3, 224, 224), batch_size=batch, device="t4", precision="fp32", optimizer="sgd")
        for batch in batches
    )
    assert small.train_peak_bytes.expected < large.train_peak_bytes.expected
    assert small.train_reserved_bytes > large.train_reserved_bytes
    for plan in (small, large):
        assert f"{round(plan.train_reserved_bytes / 2**20):,} MiB" in PAGE
