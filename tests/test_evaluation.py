"""Evaluation: the net is left as it was, other data is matched by class name, mistakes are ranked."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

import conviction
from conviction.data.held import Held
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


def test_other_data_is_matched_by_class_name(finished: conviction.Run, small_data: Data) -> None:
    order = torch.randperm(10, generator=torch.Generator().manual_seed(3))
    shuffled = replace(
        small_data,
        classes=tuple(small_data.classes[i] for i in order.tolist()),
        test=replace(small_data.test, labels=order.argsort()[small_data.test.labels]),
    )
    assert evaluate_run(finished, shuffled).top1 == pytest.approx(finished.result["top1"])
    strange = replace(small_data, classes=("martian", *small_data.classes[1:]))
    with pytest.raises(DataError, match="does not know the class martian"):
        evaluate_run(finished, strange)


def test_a_folder_is_measured_whole_as_the_net_reads_pictures(photos: Path, tmp_path: Path) -> None:
    run = conviction.fit("lenet-bn", photos, conviction.Recipe(epochs=3, batch_size=4), tmp_path / "run")
    for label in ("bright", "dark"):  # other sizes, another shape, grey: what a folder of one's own is like
        (tmp_path / "other" / label).mkdir(parents=True)
        for number, path in enumerate(sorted((photos / label).iterdir())):
            picture = Image.open(path).convert("L" if number % 2 else "RGB").resize((80, 40 + 10 * (number % 3)))
            picture.save(tmp_path / "other" / label / path.name)
    measured = evaluate_run(run, tmp_path / "other")
    rows = conviction.predict(run, tmp_path / "other")
    right = sum(Path(row["file"]).parent.name == row["label"] for row in rows)
    assert measured.n == 24 and measured.top1 == pytest.approx(right / 24)
    for path in (tmp_path / "other" / "dark").iterdir():
        path.unlink()
    assert evaluate_run(run, tmp_path / "other").n == 12, "one class is enough to measure"


def test_a_sample_is_spread_over_the_split(finished: conviction.Run, small_data: Data) -> None:
    order = small_data.train.labels.argsort(stable=True)
    source = Held(small_data.train.source.pictures[order])
    ordered = replace(small_data.train, source=source, labels=small_data.train.labels[order])
    _, labels = answer_split(finished.net, ordered, most=50)
    assert len(labels) == 50 and len(labels.unique()) == 10


def test_a_run_on_loaders_measures_itself(small_data: Data, tmp_path: Path) -> None:
    pairs = [TensorDataset(s.source.pictures.float() / 255, s.labels) for s in small_data.splits.values()]
    data = conviction.from_loaders(*(DataLoader(pair, 50) for pair in pairs))
    run = conviction.fit("lenet-bn", data, conviction.Recipe(epochs=1), tmp_path / "run")
    assert evaluate_run(run).top1 == pytest.approx(run.result["top1"])
    assert run.result["batch_size"] == 50, "the loader's own"
