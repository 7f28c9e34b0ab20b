"""The parts of trials: detours around operations, answers and blind losses, batches dealt and cut, the pixels."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.functional import dropout

from conviction.diagnosis.trials.answers import blind_loss, class_numbers, count_correct, entropy, label_shares
from conviction.diagnosis.trials.changes import CHANGES
from conviction.diagnosis.trials.detours import ACTIVATIONS, DROPOUTS, SQUASHES, Detour, count_weighted
from conviction.diagnosis.trials.lone_trials import _ridge, probe_pixels
from conviction.diagnosis.trials.setups import Setup, cut, mixed
from conviction.findings import trials
from conviction.findings.observation import OptimizerSeen

ADAM = OptimizerSeen(0, "Adam", (("lr", 1e-3), ("weight_decay", 0.1), ("beta1", 0.5), ("eps", 1.0)), 10, steps=5)


class Ends(nn.Module):
    """A ReLU before the average pool, as NiN has it, then dropout and softmax in the ways people write them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 10, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.sigmoid(self.norm(self.conv(x)))
        x = F.relu(self.last(dropout(x, 0.5, self.training)), inplace=True)
        return F.dropout(F.adaptive_avg_pool2d(x, 1).flatten(1), 0.5, self.training).softmax(-1)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_bare_end_gives_the_last_layers_outputs(images: Tensor) -> None:
    net = Ends().eval()
    count = count_weighted(net, images)
    assert count == 3
    with Detour(ACTIVATIONS, after=count) as detour:
        logits = net(images)
    by_hand = net.last(torch.sigmoid(net.norm(net.conv(images)))).mean((2, 3))
    assert torch.allclose(logits, by_hand, atol=1e-6) and detour.taken == 3


def test_dropouts_of_every_spelling_are_left_out(images: Tensor) -> None:
    net = nn.Sequential(nn.Dropout(0.9), nn.Dropout2d(0.9), Ends()).train()
    with Detour(DROPOUTS) as detour:
        assert torch.equal(net(images), net(images))
    assert detour.taken == 8
    assert not torch.equal(net(images), net(images))


def test_squashes_between_layers_become_relus_and_the_last_stays(images: Tensor) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.Tanh(), nn.Linear(5, 5), nn.Sigmoid(), nn.Linear(5, 1),
                        nn.Sigmoid())  # fmt: skip
    twin = nn.Sequential(*net[:2], nn.ReLU(), net[3], nn.ReLU(), net[5], nn.Sigmoid())
    with Detour(SQUASHES, relu=True, before=count_weighted(net, images)) as detour:
        for _ in range(2):
            detour.restart()
            assert torch.equal(net(images), twin(images))


def test_matrix_products_by_operator_count(images: Tensor) -> None:
    class Scratch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1) @ torch.ones(64, 3) + torch.matmul(x.flatten(1), torch.ones(64, 3))

    assert count_weighted(Scratch(), images) == 2


@pytest.mark.parametrize(
    ("targets", "numbers"),
    [
        ([2, 0, 1], [2, 0, 1]),
        ([2.0, 0.0, 1.0], [2, 0, 1]),
        ([[2], [0]], [2, 0]),
        ([[0.0, 1.0], [0.7, 0.3]], [1, 0]),
        ([0.5, 0.2], None),
        ([-1, 0], None),
        ([[1.0, 1.0], [0.0, 1.0]], None),
    ],
)
def test_class_numbers(targets: Any, numbers: Any) -> None:
    found = class_numbers(torch.tensor(targets))
    assert (None if found is None else found.tolist()) == numbers


def test_answers_are_counted_for_classes_and_for_one_logit() -> None:
    logits = torch.tensor([[1.0, 2.0], [3.0, -1.0], [0.0, 5.0]])
    assert count_correct(logits, torch.tensor([1, 0, 0])) == 2
    assert count_correct(torch.tensor([[-1.0], [2.0]]), torch.tensor([[0.0], [1.0]])) == 2
    assert count_correct(torch.tensor([0.4, 0.6]), torch.tensor([0.0, 0.0])) == 1  # probabilities
    assert count_correct(torch.tensor([0.4, 0.6]), torch.tensor([3, 0])) is None
    assert count_correct(torch.ones(2, 3, 4), torch.tensor([0, 1])) is None


def labelled(*counts: int) -> list[tuple[Tensor, Tensor]]:
    labels = torch.cat([torch.full((count,), number) for number, count in enumerate(counts)])
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    return [(torch.zeros(len(part), 1), part) for part in labels.split(8)]


@pytest.mark.parametrize("counts", [(16, 16), (30, 2), (8, 8, 8, 24)])
@pytest.mark.parametrize("form", ["logits", "log-probabilities", "probabilities"])
def test_blind_loss_is_the_entropy_of_the_labels(counts: tuple[int, ...], form: str) -> None:
    batches, some = labelled(*counts), torch.randn(8, len(counts), generator=torch.Generator().manual_seed(1))
    given, loss = {
        "logits": (some, F.cross_entropy),
        "log-probabilities": (some.log_softmax(1), F.nll_loss),
        "probabilities": (some.softmax(1), lambda out, y: F.nll_loss(out.log(), y)),
    }[form]
    shares = torch.tensor(counts).double() / sum(counts)
    known = label_shares(batches)
    assert known is not None and torch.allclose(known, shares)
    by_hand = -sum(float(share) * math.log(share) for share in shares)
    assert entropy(shares) == pytest.approx(by_hand)
    assert blind_loss(batches, given, loss) == pytest.approx(by_hand, rel=1e-3)


def test_blind_loss_of_other_losses() -> None:
    targets = torch.tensor([[1.0], [2.0], [6.0]])
    batches = [(torch.zeros(3, 1), targets)]
    assert blind_loss(batches, 3 * torch.randn(3, 1), F.mse_loss) == pytest.approx(float(targets.var(correction=0)))
    yes = [(torch.zeros(4, 1), torch.tensor([[1.0], [1.0], [1.0], [0.0]]))]
    expected = entropy(torch.tensor([0.75, 0.25]).double())
    assert blind_loss(yes, torch.full((4, 1), 0.4), F.binary_cross_entropy) == pytest.approx(expected, rel=1e-3)
    summed = blind_loss(yes, torch.randn(4, 1), lambda o, y: F.binary_cross_entropy_with_logits(o, y, reduction="sum"))
    assert summed == pytest.approx(4 * expected, rel=1e-3)
    assert math.isnan(blind_loss(yes, torch.randn(4, 1), F.cross_entropy)) is False
    assert math.isnan(blind_loss(yes, torch.randn(4, 2), lambda out, y: out + "no"))


def test_batches_are_dealt_and_cut_as_pairs() -> None:
    batches = [(torch.arange(5.0) + 5 * n, torch.arange(5) + 5 * n) for n in range(4)]
    dealt = mixed(batches)
    assert dealt is not None and [len(y) for _, y in dealt] == [5] * 4
    assert all(torch.equal(x.long(), y) for x, y in dealt)
    assert sorted(torch.cat([y for _, y in dealt]).tolist()) == list(range(20))
    assert [y.tolist() for _, y in dealt] != [y.tolist() for _, y in batches]
    assert mixed([(torch.zeros(2, 3), torch.zeros(2)), (torch.zeros(2, 4), torch.zeros(2))]) is None
    assert [y.tolist() for _, y in cut(batches[:1], 3)] == [[0, 2, 4]] and cut(batches, 5)[0][1].tolist() == [*range(5)]


def test_ridge_is_least_squares_with_a_penalty() -> None:
    generator = torch.Generator().manual_seed(0)
    rows, wanted = (
        torch.randn(30, 4, generator=generator).double() + 3,
        torch.randn(30, 2, generator=generator).double(),
    )
    weights = _ridge(rows, wanted)
    centred = rows - rows.mean(0)
    penalty = 0.05 * float((centred**2).sum()) / 4
    tall = torch.cat([centred, math.sqrt(penalty) * torch.eye(4).double()])
    other = torch.linalg.lstsq(tall, torch.cat([wanted - wanted.mean(0), torch.zeros(4, 2).double()])).solution
    assert torch.allclose(weights[:-1], other, atol=1e-9)
    assert torch.allclose(rows.mean(0) @ weights[:-1] + weights[-1], wanted.mean(0))


def test_pixels_of_what_is_no_picture_are_not_probed() -> None:
    assert probe_pixels([(torch.randn(80, 3, 4), torch.arange(80) % 2)]) is None
    assert probe_pixels([(torch.randn(20, 3), torch.arange(20) % 2)]) is None
    assert probe_pixels([(torch.full((80, 3), math.nan), torch.arange(80) % 2)]) is None
    line = torch.linspace(-1, 1, 80)[:, None]
    told = probe_pixels([(line, (line[:, 0] > 0).long())])
    assert told is not None and told.accuracy is not None and told.accuracy > 0.9 and told.judged == 26


def test_same_picture_twice_is_not_held_out_and_known_at_once() -> None:
    generator = torch.Generator().manual_seed(0)
    rows, labels = torch.randn(100, 200, generator=generator), torch.randint(0, 2, (100,), generator=generator)
    told = probe_pixels([(rows.repeat(5, 1), labels.repeat(5))])
    assert told is not None and told.judged == 33 and told.accuracy is not None and told.accuracy < 0.75


def setup_of(net: nn.Module, images: Tensor) -> Setup:
    batches = [(images, torch.arange(6) % 3)]
    return Setup(net, batches, batches, F.cross_entropy, lambda p, s: torch.optim.Adam(p, **s), {"lr": 1e-3})


@pytest.mark.parametrize("change", sorted(CHANGES))
def test_change_that_has_nothing_to_change_is_none_made(change: str, images: Tensor) -> None:
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    nothing = {trials.NO_DROPOUT, trials.NO_DECAY, trials.NO_CLIPPING, trials.SHUFFLED, trials.FULL_PRECISION,
               trials.RELU, trials.UNFROZEN, trials.TRAIN_MODE, trials.USUAL_LR, trials.NEW_INIT_AND_LR,
               trials.USUAL_SETTINGS, trials.NO_AUGMENTATION}  # fmt: skip
    made = CHANGES[change](setup_of(plain, images), OptimizerSeen(0, "Adam", (("lr", 1e-3),), 10))
    assert (made is None) is (change in nothing)
    assert made is None or made.words != "as it is"


@pytest.mark.parametrize(
    ("change", "settings"),
    [
        (trials.LOWER_LR, {"lr": pytest.approx(1e-4)}),
        (trials.HIGHER_LR, {"lr": pytest.approx(1e-2)}),
        (trials.NO_DECAY, {"lr": 1e-3, "weight_decay": 0.0}),
        (trials.USUAL_SETTINGS, {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8}),
    ],
)
def test_settings_change_one_by_one(change: str, settings: dict[str, Any], images: Tensor) -> None:
    made = CHANGES[change](setup_of(nn.Linear(2, 2), images), ADAM)
    assert made is not None and made.settings == settings


def test_inputs_are_standardised_channel_by_channel() -> None:
    images = torch.randn(50, 2, 4, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([3.0, 90.0]).reshape(
        2, 1, 1
    )
    made = CHANGES[trials.STANDARDISED](setup_of(nn.Flatten(), images + 100), ADAM)
    assert made is not None
    inputs = made.batches[0][0]
    assert torch.allclose(inputs.mean((0, 2, 3)), torch.zeros(2), atol=1e-4)
    assert torch.allclose(inputs.std((0, 2, 3), correction=0), torch.ones(2), atol=1e-4)


def test_new_start_has_kaimings_deviations_and_a_small_head(images: Tensor) -> None:
    net = nn.Sequential(nn.Conv2d(1, 64, 5), nn.BatchNorm2d(64), nn.Flatten(), nn.Linear(1024, 512), nn.Linear(512, 10))
    nn.init.constant_(net[1].weight, 9.0)
    torch.manual_seed(0)
    made = CHANGES[trials.NEW_INIT](setup_of(net, images), ADAM)
    assert made is not None and made.net is net
    for layer, fan in ((net[0], 25), (net[3], 1024)):
        assert float(layer.weight.std()) == pytest.approx(math.sqrt(2 / fan), rel=0.05)
        assert not layer.bias.any()
    assert float(net[4].weight.std()) == pytest.approx(0.05 / math.sqrt(512), rel=0.05)
    assert torch.equal(net[1].weight, torch.ones(64))


def test_new_start_of_sigmoids_is_xaviers_with_gain_four(images: Tensor) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 500), nn.Sigmoid(), nn.Linear(500, 3))
    made = CHANGES[trials.NEW_INIT](setup_of(net, images), ADAM)
    assert made is not None and "Xavier" in made.words
    assert float(net[1].weight.abs().max()) == pytest.approx(4 * math.sqrt(6 / 564), rel=0.01)
