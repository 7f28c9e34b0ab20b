"""Measures against counts made by hand, closed formulas and tabulated values."""

from __future__ import annotations

import dataclasses
import json
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from conviction.errors import DataError
from conviction.metrics import Evaluation, measure_answers, top_k, wilson_interval

CLASSES = ("cat", "dog", "eel")
#                             right: cat       cat as dog       dog              eel as cat       eel
PROBABILITIES = torch.tensor([[0.8, 0.1, 0.1], [0.3, 0.6, 0.1], [0.2, 0.7, 0.1], [0.5, 0.1, 0.4], [0.04, 0.04, 0.92]])
LABELS = torch.tensor([0, 0, 1, 2, 2])


def by_hand() -> Evaluation:
    return measure_answers(PROBABILITIES.log(), LABELS, CLASSES, "valid")


def test_a_small_case_by_hand() -> None:
    seen = by_hand()
    assert (seen.split, seen.n, seen.top1, seen.top5) == ("valid", 5, 3 / 5, 1.0)
    assert seen.confusion == ((1, 1, 0), (0, 1, 0), (1, 0, 1))
    assert seen.loss == pytest.approx(-sum(math.log(p) for p in (0.8, 0.3, 0.7, 0.4, 0.92)) / 5)
    assert seen.per_class == (
        {"label": "cat", "n": 2, "recall": 1 / 2, "precision": 1 / 2, "f1": 1 / 2},
        {"label": "dog", "n": 1, "recall": 1.0, "precision": 1 / 2, "f1": 2 / 3},
        {"label": "eel", "n": 2, "recall": 1 / 2, "precision": 1.0, "f1": 2 / 3},
    )


def test_calibration_by_hand() -> None:
    seen = by_hand()
    # Confidences .8, .6, .7, .5, .92 lie in five tenths (0.7 and 0.8 to float32 may lie a hair below their border).
    assert sum(row["n"] for row in seen.calibration) == 5
    gaps = [abs(0.8 - 1), abs(0.6 - 0), abs(0.7 - 1), abs(0.5 - 0), abs(0.92 - 1)]
    assert len(seen.calibration) == 5
    assert seen.calibration_error == pytest.approx(sum(gaps) / 5, abs=1e-6)


def test_calibration_of_a_net_that_knows_how_sure_it_is() -> None:
    confidence = torch.full((1000, 1), 0.75)
    labels = (torch.arange(1000) % 4 == 0).long()  # three of four answers are right
    seen = measure_answers(torch.cat([confidence, 1 - confidence], 1).log(), labels, ("a", "b"))
    assert seen.calibration_error == pytest.approx(0, abs=1e-6)
    assert seen.calibration == ({"n": 1000, "confidence": pytest.approx(0.75), "accuracy": 0.75},)
    sure = measure_answers(torch.tensor([[50.0, 0.0]]).repeat(1000, 1), labels, ("a", "b"))
    assert sure.calibration_error == pytest.approx(0.25)


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(2, 7), st.integers(0, 2**31))
def test_against_plain_loops(n: int, num_classes: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, num_classes, generator=generator)
    labels = torch.randint(num_classes, (n,), generator=generator)
    seen = measure_answers(logits, labels, tuple(map(str, range(num_classes))))
    table = [[0] * num_classes for _ in range(num_classes)]
    among = 0
    errors: dict[int, list[tuple[float, bool]]] = {}
    for row, label in zip(logits.double().tolist(), labels.tolist(), strict=True):
        order = sorted(range(num_classes), key=lambda index: -row[index])
        table[label][order[0]] += 1
        among += label in order[:5]
        sure = math.exp(row[order[0]]) / sum(math.exp(value) for value in row)
        errors.setdefault(min(int(sure * 10), 9), []).append((sure, order[0] == label))
    assert seen.confusion == tuple(map(tuple, table))
    assert seen.top5 == pytest.approx(among / n)
    assert seen.top1 == sum(table[i][i] for i in range(num_classes)) / n
    for index, row in enumerate(seen.per_class):
        told = sum(table[i][index] for i in range(num_classes))
        assert row["n"] == sum(table[index])
        assert row["recall"] == (table[index][index] / row["n"] if row["n"] else None)
        assert row["precision"] == (table[index][index] / told if told else None)
        if row["recall"] and row["precision"]:
            assert row["f1"] == pytest.approx(2 / (1 / row["recall"] + 1 / row["precision"]))
    error = sum(abs(sum(sure - right for sure, right in answers)) for answers in errors.values()) / n
    assert seen.calibration_error == pytest.approx(error, abs=1e-9)


@pytest.mark.parametrize(("k", "share"), [(1, 0.25), (2, 0.5), (3, 0.75), (4, 1.0), (9, 1.0)])
def test_top_k(k: int, share: float) -> None:
    logits = torch.tensor([4.0, 3.0, 2.0, 1.0]).repeat(4, 1)
    assert top_k(logits, torch.arange(4), k) == share


# Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3.
@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_as_tabulated(right: int, n: int, low: float, high: float) -> None:
    assert wilson_interval(right, n) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


@settings(deadline=None)
@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_bounds_are_where_the_score_test_turns(counts: tuple[int, int]) -> None:
    """Wilson's bounds are by definition the shares p with |right/n - p| = z * sqrt(p (1 - p) / n)."""
    right, n = counts
    low, high = wilson_interval(right, n, z=2.0)
    assert 0 <= low <= right / n <= high <= 1
    for bound in {low, high} - {0.0, 1.0}:
        assert (right / n - bound) ** 2 == pytest.approx(4 * bound * (1 - bound) / n, rel=1e-6, abs=1e-12)
    mirrored = wilson_interval(n - right, n, z=2.0)
    assert mirrored == (pytest.approx(1 - high), pytest.approx(1 - low))


def test_wilson_of_nothing_says_nothing() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert wilson_interval(5, 5)[1] == 1.0
    low, high = wilson_interval(50, 100)
    assert float(Fraction(1, 2)) - low == pytest.approx(high - 0.5)


def test_no_images() -> None:
    seen = measure_answers(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), CLASSES)
    assert seen.n == 0
    assert all(math.isnan(value) for value in (seen.loss, seen.top1, seen.top5))
    assert seen.per_class[0] == {"label": "cat", "n": 0, "recall": None, "precision": None, "f1": None}


def test_inputs_are_left_alone_and_half_precision_is_measured_in_full() -> None:
    logits = PROBABILITIES.log().requires_grad_()
    seen = measure_answers(logits, LABELS, CLASSES)
    assert logits.grad is None
    assert torch.equal(logits, PROBABILITIES.log())
    half = measure_answers(PROBABILITIES.log().half(), LABELS, CLASSES)
    assert half.confusion == seen.confusion
    assert half.loss == pytest.approx(seen.loss, rel=1e-3)


def test_fields_go_to_json_and_text() -> None:
    seen = by_hand()
    told = json.loads(json.dumps(seen.to_dict()))
    assert set(told) == {field.name for field in dataclasses.fields(Evaluation)}
    assert told["confusion"] == [[1, 1, 0], [0, 1, 0], [1, 0, 1]]
    assert str(seen).startswith("valid: top-1 60.00 % (95 % interval 23.07 % to 88.24 %), top-5 100.00 %, 5 images\n")
    assert [line.split()[0] for line in str(seen).splitlines()[-3:]] == ["cat", "eel", "dog"]  # the worst first


@pytest.mark.parametrize(
    ("logits", "labels", "classes", "message"),
    [
        (torch.zeros(2, 4), torch.zeros(2, dtype=torch.long), CLASSES, "tells 4 classes apart and the data has 3"),
        (torch.zeros(2, 2), torch.zeros(2, dtype=torch.long), CLASSES, "tells 2 classes apart and the data has 3"),
        (torch.zeros(2, 3), torch.tensor([1, 3]), CLASSES, "labels go from 1 to 3 where there are 3 classes, test"),
        (torch.zeros(2, 3), torch.tensor([-1, 2]), CLASSES, "labels go from -1 to 2"),
    ],
)
def test_answers_and_classes_that_do_not_match(
    logits: Tensor, labels: Tensor, classes: tuple[str, ...], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        measure_answers(logits, labels, classes)
