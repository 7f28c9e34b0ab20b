"""Averaged weights against a loop by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from conviction.training.averaging import AveragedNet


def drift(net: nn.Module, step: int) -> None:
    """Move every weight and buffer of a net somewhere new."""
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for tensor in (*net.parameters(), *net.buffers()):
            if tensor.is_floating_point():
                tensor += torch.randn(tensor.shape, generator=generator).abs()
            else:
                tensor += step


@pytest.mark.parametrize("decay", [0.5, 0.999])
def test_equals_a_loop_by_hand(decay: float) -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    average = AveragedNet(net, decay)
    by_hand = {name: tensor.clone().double() for name, tensor in net.state_dict().items()}
    for step in range(1, 31):
        drift(net, step)
        average.update(net)
        keep = min(decay, (1 + step) / (10 + step))
        for name, tensor in net.state_dict().items():
            if tensor.is_floating_point():
                by_hand[name] = keep * by_hand[name] + (1 - keep) * tensor.double()
    for name, tensor in average.net.state_dict().items():
        if tensor.is_floating_point():
            assert torch.allclose(tensor.double(), by_hand[name], rtol=1e-5), name
    assert average.net[1].num_batches_tracked.item() == sum(range(1, 31))  # counts are copied, not averaged
    assert average.updates == 30


def test_tied_weights_move_once() -> None:
    net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    net[1].weight = net[0].weight
    average = AveragedNet(net, 0.9)
    before = average.net[0].weight.item()
    with torch.no_grad():
        net[0].weight.fill_(before + 11)
    average.update(net)
    assert average.net[0].weight.item() == pytest.approx(before + 11 * (1 - 2 / 11))
    assert average.net[1].weight is average.net[0].weight


def test_the_average_is_apart_from_the_net() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).train()
    average = AveragedNet(net, 0.9)
    before = [tensor.clone() for tensor in average.net.state_dict().values()]
    drift(net, 1)
    net(torch.randn(4, 2)).sum().backward()
    assert all(torch.equal(a, b) for a, b in zip(average.net.state_dict().values(), before, strict=True))
    assert not any(module.training for module in average.net.modules())
    assert not any(parameter.requires_grad for parameter in average.net.parameters())
    assert net.training
    assert all(parameter.requires_grad for parameter in net.parameters())
