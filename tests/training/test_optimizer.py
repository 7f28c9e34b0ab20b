"""The optimizer: what decays and what does not, what is trained, the knobs that reach torch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from conviction.errors import UsageError
from conviction.recipe import Recipe
from conviction.training.optimizer import make_optimizer, parameter_groups

SGD = Recipe(optimizer="sgd", lr=0.1, weight_decay=0.5, momentum=0.9)
ADAMW = Recipe(optimizer="adamw", lr=0.1, weight_decay=0.5, momentum=0.8)


def net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.PReLU(2), nn.Flatten(), nn.Linear(8, 3))


@pytest.mark.parametrize("recipe", [SGD, ADAMW], ids=["sgd", "adamw"])
def test_without_gradients_only_kernels_and_matrices_shrink(recipe: Recipe) -> None:
    made = net()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.fill_(2.0)
            parameter.grad = torch.zeros_like(parameter)
    make_optimizer(made, recipe).step()
    for name, parameter in made.named_parameters():
        expected = {"0.weight", "4.weight"}
        if name in expected:  # both shrink by lr * weight_decay; Nesterov's first step looks ahead by momentum once
            factor = 1 - 0.05 * (1.9 if recipe is SGD else 1)
            assert torch.allclose(parameter, torch.full_like(parameter, 2.0 * factor)), name
        else:
            assert torch.equal(parameter, torch.full_like(parameter, 2.0)), name


def test_groups_hold_every_trainable_parameter_once() -> None:
    made = net()
    made[0].weight.requires_grad_(False)
    made[4].bias = nn.Parameter(torch.zeros(3))
    decaying, others = parameter_groups(made, 0.1)
    assert [p is made[4].weight for p in decaying["params"]] == [True]
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    told = [id(p) for group in (decaying, others) for p in group["params"]]
    assert sorted(told) == sorted(id(p) for p in made.parameters() if p.requires_grad)


def test_tied_weights_are_one_parameter() -> None:
    made = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    made[1].weight = made[0].weight
    (only,) = parameter_groups(made, 0.1)
    assert len(only["params"]) == 1


@pytest.mark.parametrize("recipe", [SGD, ADAMW], ids=["sgd", "adamw"])
def test_a_net_with_nothing_but_norms_to_train(recipe: Recipe) -> None:
    made = nn.BatchNorm2d(2)
    optimizer = make_optimizer(made, recipe)
    made(torch.randn(4, 2, 3, 3)).square().sum().backward()
    optimizer.step()
    assert not torch.equal(made.weight, torch.ones(2))


def test_a_frozen_net_is_refused() -> None:
    with pytest.raises(UsageError, match="the net has no trainable parameter - set requires_grad"):
        make_optimizer(net().requires_grad_(False), SGD)


def test_knobs_reach_torch() -> None:
    sgd, adamw = make_optimizer(net(), SGD), make_optimizer(net(), ADAMW)
    assert isinstance(sgd, torch.optim.SGD)
    assert (sgd.defaults["lr"], sgd.defaults["momentum"], sgd.defaults["nesterov"]) == (0.1, 0.9, True)
    assert isinstance(adamw, torch.optim.AdamW)
    assert (adamw.defaults["lr"], adamw.defaults["betas"]) == (0.1, (0.8, 0.999))
    assert not make_optimizer(net(), SGD.replace(momentum=0.0)).defaults["nesterov"]  # torch refuses it without


def test_sgd_is_nesterov_by_hand() -> None:
    weight = nn.Parameter(torch.tensor([[1.0]]))
    made = nn.Module()
    made.weight = weight
    optimizer = make_optimizer(made, Recipe(optimizer="sgd", lr=0.1, weight_decay=0.01, momentum=0.9))
    by_hand, velocity = 1.0, 0.0
    for gradient in (0.5, -0.2, 0.1):
        weight.grad = torch.tensor([[gradient]])
        optimizer.step()
        full = gradient + 0.01 * by_hand
        velocity = 0.9 * velocity + full
        by_hand -= 0.1 * (full + 0.9 * velocity)
        assert weight.item() == pytest.approx(by_hand, rel=1e-6)
