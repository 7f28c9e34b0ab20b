"""Batch norm from scratch equals torch's: values, gradients and running statistics."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from conviction.errors import UsageError
from conviction.nets.batchnorm import BatchNorm, batch_norm
from conviction.nets.init import initialise

SHAPES = [(4, 3), (2, 1), (3, 5, 4, 2), (2, 3, 1, 1), (1, 2, 3, 3)]
TOLERANCE = {"rtol": 1e-6, "atol": 1e-6}


def made(shape: tuple[int, ...], seed: int) -> dict[str, Tensor]:
    """Inputs away from mean 0 and variance 1, in float64."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    channels = shape[1]
    return {
        "x": (3 * normal(*shape) + 5).requires_grad_(),
        "gamma": normal(channels).requires_grad_(),
        "beta": normal(channels).requires_grad_(),
        "mean": normal(channels),
        "var": normal(channels).square() + 0.1,
        "towards": normal(*shape),
    }


def assert_same_as_torch(shape: tuple[int, ...], training: bool, momentum: float, eps: float, seed: int) -> None:
    ours, theirs = made(shape, seed), made(shape, seed)
    y = batch_norm(
        ours["x"], ours["gamma"], ours["beta"], ours["mean"], ours["var"], training, momentum=momentum, eps=eps
    )
    expected = F.batch_norm(
        theirs["x"], theirs["mean"], theirs["var"], theirs["gamma"], theirs["beta"], training, momentum, eps
    )
    torch.testing.assert_close(y, expected, **TOLERANCE)
    (y * ours["towards"]).sum().backward()
    (expected * theirs["towards"]).sum().backward()
    for name in ("x", "gamma", "beta"):
        torch.testing.assert_close(ours[name].grad, theirs[name].grad, **TOLERANCE, msg=lambda m, n=name: f"{n}: {m}")
    for name in ("mean", "var"):
        torch.testing.assert_close(ours[name], theirs[name], **TOLERANCE, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(("shape", "training"), list(itertools.product(SHAPES, (True, False))))
def test_function_equals_torch(shape: tuple[int, ...], training: bool) -> None:
    assert_same_as_torch(shape, training, momentum=0.1, eps=1e-5, seed=0)


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(2, 6),
    channels=st.integers(1, 5),
    pixels=st.none() | st.tuples(st.integers(1, 4), st.integers(1, 4)),
    training=st.booleans(),
    momentum=st.floats(0, 1),
    eps=st.sampled_from([1e-5, 1e-3, 0.1]),
    seed=st.integers(0, 1000),
)
def test_function_equals_torch_for_any_shape(
    batch: int, channels: int, pixels: tuple[int, int] | None, training: bool, momentum: float, eps: float, seed: int
) -> None:
    assert_same_as_torch((batch, channels, *(pixels or ())), training, momentum, eps, seed)


@pytest.mark.parametrize("shape", [(5, 3), (2, 3, 4, 5)])
def test_gradients_by_finite_differences(shape: tuple[int, ...]) -> None:
    """A witness that shares no code with torch's own batch norm."""
    values = made(shape, seed=1)

    def forward(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        return batch_norm(x, gamma, beta, values["mean"].clone(), values["var"].clone(), True)

    assert torch.autograd.gradcheck(forward, (values["x"], values["gamma"], values["beta"]))


@pytest.mark.parametrize("training", [True, False])
def test_without_gamma_and_beta(training: bool) -> None:
    values = made((4, 3, 2, 2), seed=2)
    y = batch_norm(values["x"], None, None, values["mean"].clone(), values["var"].clone(), training)
    expected = F.batch_norm(values["x"], values["mean"].clone(), values["var"].clone(), training=training)
    torch.testing.assert_close(y, expected, **TOLERANCE)


@pytest.mark.parametrize(("dims", "theirs"), [(2, nn.BatchNorm1d), (4, nn.BatchNorm2d)])
def test_layer_follows_torch_over_steps(dims: int, theirs: type[nn.Module]) -> None:
    """Three steps of SGD, then evaluation: same outputs, weights and statistics."""
    generator = torch.Generator().manual_seed(3)
    batches = [2 * torch.randn(6, 4, *[3] * (dims - 2), generator=generator).double() + 1 for _ in range(4)]
    layers = [BatchNorm(4, dims).double(), theirs(4).double()]
    for layer in layers:
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        for batch in batches[:3]:
            optimizer.zero_grad()
            layer(batch.clone().requires_grad_()).pow(3).mean().backward()  # as after a layer that learns
            optimizer.step()
        layer.eval()
    ours, expected = layers
    assert not ours.running_mean.requires_grad  # else every step would hold on to the graphs of all before it
    assert not ours.running_var.requires_grad
    torch.testing.assert_close(ours(batches[3]), expected(batches[3]), **TOLERANCE)
    pairs = {"gamma": "weight", "beta": "bias", "running_mean": "running_mean", "running_var": "running_var"}
    for name, torch_name in pairs.items():
        torch.testing.assert_close(ours.state_dict()[name], expected.state_dict()[torch_name], **TOLERANCE)
        assert not torch.equal(ours.state_dict()[name], BatchNorm(4, dims).double().state_dict()[name]), name


@pytest.mark.parametrize(
    ("fixed", "learned"),
    [({"affine": False}, []), ({"gamma": 2.0}, ["beta"]), ({"beta": -1.0}, ["gamma"]), ({}, ["gamma", "beta"])],
)
def test_fixed_gamma_and_beta_are_not_learned(fixed: dict[str, float], learned: list[str]) -> None:
    layer = BatchNorm(3, 2, **fixed)
    assert [name for name, _ in layer.named_parameters()] == learned
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(4))
    y = layer(x)
    torch.testing.assert_close(y.mean(0), torch.full((3,), float(fixed.get("beta", 0.0))), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        y.std(0, correction=0), torch.full((3,), float(fixed.get("gamma", 1.0))), atol=1e-3, rtol=0
    )
    assert set(layer.state_dict()) == {"gamma", "beta", "running_mean", "running_var"}


def test_state_round_trip_and_repr() -> None:
    layer, other = BatchNorm(3), BatchNorm(3)
    layer(torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(5)))
    other.load_state_dict(layer.state_dict())
    x = torch.ones(1, 3, 2, 2)
    assert torch.equal(other.eval()(x), layer.eval()(x))
    assert repr(BatchNorm(3, gamma=2.0)) == "BatchNorm(3, dims=4, gamma=2)"


def test_half_precision_keeps_its_type_and_large_values() -> None:
    x = 300 + 100 * torch.randn(64, 2, generator=torch.Generator().manual_seed(6))  # squares overflow float16
    layer = BatchNorm(2, 2)
    y = layer(x.half())
    assert y.dtype == torch.float16
    torch.testing.assert_close(y.float(), F.batch_norm(x, None, None, training=True), atol=5e-3, rtol=0)


def test_initialise_resets_a_trained_layer() -> None:
    net = nn.Sequential(nn.Linear(3, 4), BatchNorm(4, 2))
    net(torch.randn(8, 3, generator=torch.Generator().manual_seed(7)))
    assert net[1].running_mean.any()
    initialise(net, "auto")
    assert not net[1].running_mean.any()


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((4, 3, 2), "batch norm got 4x3x2 - give it [N, C] or [N, C, H, W]"),
        ((1, 3), "batch norm in training got one value a channel, 1x3 - use a larger batch"),
        ((1, 3, 1, 1), "batch norm in training got one value a channel, 1x3x1x1 - use a larger batch"),
    ],
)
def test_function_refuses(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        batch_norm(torch.ones(shape), None, None, torch.zeros(3), torch.ones(3), training=True)
    assert str(caught.value) == message


def test_layer_refuses() -> None:
    with pytest.raises(UsageError) as caught:
        BatchNorm(3, 4)(torch.ones(2, 1, 4, 4))
    assert str(caught.value) == "batch norm of [N, 3, H, W] got 2x1x4x4 - set num_features and dims to match"
    with pytest.raises(UsageError) as caught:
        BatchNorm(3, 3)
    assert str(caught.value) == "dims = 3 is no shape that batch norm takes - use 2 for [N, C], 4 for [N, C, H, W]"
