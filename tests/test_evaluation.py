"""Evaluation: the net is left as it was, other data is matched by class name, mistakes are ranked."""

from dataclasses import replace

import pytest
import torch

import conviction
from conviction.data.records import Data
from conviction.errors import DataError
from conviction.evaluation import answer, answer_split, evaluate_run, rank_answers, worst_mistakes


def test_the_net_is_left_as_it_was(small_data: Data) -> None:
    net = conviction.build("lenet-bn", 10, (1, 28, 28)).train()
    net[0].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    conviction.evaluate(net, small_data.test)
    assert net.training and not net[0].training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_answers_do_not_depend_on_the_batch(finished: conviction.Run, small_data: Data) -> None:
    logits, labels = answer_split(finished.net, small_data.test)
    assert torch.equal(labels, small_data.test.labels)
    alone = answer(finished.net, small_data.preprocessing.apply(small_data.test.source.fetch(torch.tensor([7]))))
    torch.testing.assert_close(alone[0], logits[7], rtol=1e-4, atol=1e-5)


def test_mistakes_are_wrong_and_ranked(finished: conviction.Run, small_data: Data) -> None:
    logits, labels = answer_split(finished.net, small_data.test)
    mistakes = worst_mistakes(logits, labels, small_data.test, most=10)
    sure = [mistake.probability for mistake in mistakes]
    assert len(mistakes) == 10 and sure == sorted(sure, reverse=True)
    assert all(mistake.label != mistake.answer for mistake in mistakes)
    assert mistakes[0].label == small_data.classes[int(labels[mistakes[0].index])]


def test_rank_answers() -> None:
    ranked = rank_answers(torch.tensor([[0.0, 2.0, 1.0]]), ("a", "b", "c"), most=2)
    assert [row["label"] for row in ranked[0]] == ["b", "c"]
    assert ranked[0][0]["probability"] == pytest.approx(torch.tensor([0.0, 2.0, 1.0]).softmax(0)[1].item())


def test_other_data_is_matched_by_class_name(
    finished: conviction.Run, small_data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = torch.randperm(10, generator=torch.Generator().manual_seed(3))
    shuffled = replace(
        small_data,
        classes=tuple(small_data.classes[i] for i in order.tolist()),
        test=replace(small_data.test, labels=order.argsort()[small_data.test.labels]),
    )
    monkeypatch.setattr("conviction.evaluation.open_data", lambda *a, **k: shuffled)
    assert evaluate_run(finished, "elsewhere").top1 == pytest.approx(finished.result["top1"])
    strange = replace(small_data, classes=("martian", *small_data.classes[1:]))
    monkeypatch.setattr("conviction.evaluation.open_data", lambda *a, **k: strange)
    with pytest.raises(DataError, match="does not know the class martian"):
        evaluate_run(finished, "elsewhere")
