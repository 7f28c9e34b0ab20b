"""Golden logits: ours equal those that torchvision, timm and pretrainedmodels gave with the same closed-form weights.

`benchmarks/parity.py --golden` made the file; neither weights nor the other packages are needed here. What cannot be
compared with another package is counted by hand or compared with a plain formula of the paper.
"""

from __future__ import annotations

import json
import math
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from conviction.errors import ImageTooSmallError
from conviction.nets import NETS, build, sketch
from conviction.nets.blocks import Concat, Sum
from conviction.nets.inception_bn import reduction
from conviction.nets.wiring import Style

PARITY = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "parity.py"))
GOLDEN = json.loads(PARITY["GOLDEN"].read_text())["logits"]
# One of each family and form keeps the unmarked suite short.
SHORT = {
    "alexnet", "vgg11", "vgg11-bn", "googlenet", "googlenet aux", "inception-bn", "inception-v3", "inception-v3 aux",
    "inception-v4", "inception-resnet-v2", "resnet18", "resnet50", "densenet121", "densenet161",
}  # fmt: skip
CASES = [case if case.label in SHORT else pytest.param(case, marks=pytest.mark.slow) for case in PARITY["CASES"]]


def params(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_logits_are_those_of_the_published_net(case: Any) -> None:
    net = PARITY["on_cpu"](PARITY["our_net"](case, case.side), torch.float64)
    ours = PARITY["golden_logits"](net, case)
    golden = GOLDEN[case.label]
    assert len(ours) == len(golden) == (1 if not case.aux else 2 if case.name == "inception-v3" else 3)
    for mine, theirs in zip(ours, golden, strict=True):
        assert 0.1 < max(map(abs, theirs)) < 1000  # neither dead nor blown up, so that a difference would show
        assert mine == pytest.approx(theirs, rel=1e-7, abs=1e-7 * max(map(abs, theirs)))


def test_golden_file_holds_every_case() -> None:
    assert set(GOLDEN) == {case.label for case in PARITY["CASES"]}
    assert all(len(logits) == PARITY["GOLDEN_LOGITS"] for rows in GOLDEN.values() for logits in rows)


def test_closed_form_is_spread_evenly() -> None:
    numbers = PARITY["hashed"](123_456, 100_000)
    assert numbers.min() >= -1
    assert numbers.max() < 1
    assert numbers.mean().abs() < 0.01
    assert numbers.var().item() == pytest.approx(1 / 3, rel=0.01)
    assert (numbers[1:] * numbers[:-1]).mean().abs() < 0.01
    assert torch.equal(PARITY["hashed"](123_460, 10), numbers[4:14])


def conv_params(in_channels: int, *layers: tuple[int, int]) -> int:
    """Weights of a path of convolutions without bias, each (channels, kernel area) with the two numbers of its norm."""
    total = 0
    for channels, area in layers:
        total, in_channels = total + in_channels * channels * area + 2 * channels, channels
    return total


def test_inception_resnet_v1_by_hand() -> None:
    """Figures 10 to 14 of the paper, added up one path at a time."""
    stem = conv_params(3, (32, 9), (32, 9), (64, 9), (80, 1), (192, 9), (256, 9))
    a = conv_params(256, (32, 1)) + conv_params(256, (32, 1), (32, 9)) + conv_params(256, (32, 1), (32, 9), (32, 9))
    a += 96 * 256 + 256
    reduce_a = conv_params(256, (384, 9)) + conv_params(256, (192, 1), (192, 9), (256, 9))
    b = conv_params(896, (128, 1)) + conv_params(896, (128, 1), (128, 7), (128, 7)) + 256 * 896 + 896
    reduce_b = conv_params(896, (256, 1), (384, 9)) + conv_params(896, (256, 1), (256, 9))
    reduce_b += conv_params(896, (256, 1), (256, 9), (256, 9))
    c = conv_params(1792, (192, 1)) + conv_params(1792, (192, 1), (192, 3), (192, 3)) + 384 * 1792 + 1792
    linear = 1792 * 1000 + 1000
    total = stem + 5 * a + reduce_a + 10 * b + reduce_b + 5 * c + linear
    assert total == NETS["inception-resnet-v1"].params == params(sketch("inception-resnet-v1"))


@pytest.mark.parametrize(
    ("name", "scales"),
    [
        ("inception-resnet-v1", [0.17] * 5 + [0.10] * 10 + [0.20] * 5),
        ("inception-resnet-v2", [0.17] * 10 + [0.10] * 20 + [0.20] * 9 + [1.0]),
    ],
)
def test_residual_scales(name: str, scales: list[float]) -> None:
    assert [module.scale for module in sketch(name).modules() if isinstance(module, Sum)] == scales


def test_inception_maps_have_the_sizes_of_the_paper() -> None:
    sides: dict[str, tuple[int, ...]] = {}
    net = sketch("inception-resnet-v1")
    for name, stage in net.named_children():
        stage.register_forward_hook(lambda module, inputs, output, name=name: sides.update({name: tuple(output.shape)}))
    net(torch.empty(2, 3, 299, 299, device="meta"))
    assert sides["stem"] == sides["blocks_a"] == (2, 256, 35, 35)
    assert sides["reduction_a"] == sides["blocks_b"] == (2, 896, 17, 17)
    assert sides["reduction_b"] == sides["blocks_c"] == (2, 1792, 8, 8)


def test_inception_v3_with_auxiliary_head_needs_299_pixels() -> None:
    assert isinstance(sketch("inception-v3", aux=True), nn.Module)
    assert isinstance(sketch("inception-v3", image=(3, 75, 75)), nn.Module)
    with pytest.raises(ImageTooSmallError, match=r"layer aux\.features\.conv5x5.* - use images of at least 299x299"):
        sketch("inception-v3", image=(3, 298, 298), aux=True)


@pytest.mark.parametrize("side", [1, 2, 5, 8, 13, 14])
def test_bn_inception_reduces_odd_maps_as_its_convolutions_do(side: int) -> None:
    halved, channels = reduction((2, 3), (2, 3))(4, Style())
    x = torch.rand(1, 4, side, side)
    y = halved.eval()(x)
    assert y.shape == (1, channels, (side + 1) // 2, (side + 1) // 2)
    if side % 2 == 0:  # Caffe's pool, which rounds up
        assert torch.equal(y[:, -4:], F.max_pool2d(x, 3, stride=2, ceil_mode=True))


@pytest.mark.parametrize("depth", [18, 50])
def test_preactivated_shortcuts_carry_the_signal_unchanged(depth: int) -> None:
    """With every path silent a stage's output is its projected input, whatever its sign (He et al. 2016, eq. 5)."""
    net = build(f"resnet{depth}-preact/8", 10, (3, 32, 32)).eval()
    stage = net.get_submodule("stage1" if depth == 18 else "stage2")
    sums = [module for module in stage.modules() if isinstance(module, Sum)]
    for join in sums:
        last = [module for module in join.path.modules() if isinstance(module, nn.Conv2d)][-1]
        nn.init.zeros_(last.weight)
    before: list[torch.Tensor] = []
    sums[1].register_forward_hook(lambda module, inputs, output: before.append(inputs[0]))
    width = {18: 8, 50: 32}[depth]
    after = stage(torch.randn(2, width, 8, 8))
    assert torch.equal(after, before[0])
    assert depth == 18 or after.min() < 0


def preact_by_formula(state: list[torch.Tensor], counts: tuple[int, ...], kernels: tuple[int, ...]) -> torch.Tensor:
    """The features of a pre-activated ResNet written out over its tensors in order, on a fixed image.

    He et al. 2016: norm and ReLU come before each convolution; the first block of the net finds them done by the stem;
    where the shortcut is a projection it reads what the first norm and ReLU give. Stride in the first 3x3.
    """
    tensors = iter(state)

    def norm_relu(x: torch.Tensor) -> torch.Tensor:
        gain, bias, mean, var, _ = (next(tensors) for _ in range(5))
        return F.relu(F.batch_norm(x, mean, var, gain, bias))

    x = F.conv2d(PARITY["image_batch"](1, 48), next(tensors), stride=2, padding=3)
    x = F.max_pool2d(norm_relu(x), 3, stride=2, padding=1)
    for stage, count in enumerate(counts):
        for block in range(count):
            stride = 2 if stage and not block else 1
            shortcut = x
            x = x if stage == block == 0 else norm_relu(x)
            projected = x
            for position, kernel in enumerate(kernels):
                x = norm_relu(x) if position else x
                step = stride if position == kernels.index(3) else 1
                x = F.conv2d(x, next(tensors), stride=step, padding=kernel // 2)
            if block == 0 and (stage or len(kernels) == 3):
                shortcut = F.conv2d(projected, next(tensors), stride=stride)
            x = shortcut + x
    return norm_relu(x).mean((2, 3))


@pytest.mark.parametrize(("depth", "counts", "kernels"), [(18, (2, 2, 2, 2), (3, 3)), (50, (3, 4, 6, 3), (1, 3, 1))])
def test_preactivated_resnet_is_the_papers_formula(
    depth: int, counts: tuple[int, ...], kernels: tuple[int, ...]
) -> None:
    net = build(f"resnet{depth}-preact/4", 10, (3, 48, 48)).double().eval()
    PARITY["fill"](net, 1.0)
    state = list(net.state_dict().values())
    with torch.no_grad():
        expected = F.linear(preact_by_formula(state[:-2], counts, kernels), *state[-2:])
        assert torch.allclose(net(PARITY["image_batch"](1, 48)), expected, rtol=1e-9)
    assert expected.abs().max() > 0.1


def test_dense_layers_read_all_maps_before_them() -> None:
    net = build("densenet-book", 10, (1, 32, 32)).eval()
    block = net.get_submodule("block1")
    x = torch.randn(2, 64, 8, 8)
    y = block(x)
    assert y.shape == (2, 64 + 4 * 32, 8, 8)
    assert torch.equal(y[:, :64], x)
    for number, layer in enumerate(block.children()):
        assert isinstance(layer, Concat)
        path = layer.get_submodule("path")
        read = 64 + 32 * number
        assert torch.allclose(path(y[:, :read]), y[:, read : read + 32], atol=1e-6)


def test_cifar_form_keeps_the_map_in_its_stem() -> None:
    net = sketch("resnet18-cifar")
    assert params(net) == 11_173_962  # the figure that CIFAR-10 repositories report
    shape = net.get_submodule("stage4")(net[:4](torch.empty(2, 3, 32, 32, device="meta"))).shape
    assert tuple(shape) == (2, 512, 4, 4)


def test_the_books_resnet18_differs_by_its_biases() -> None:
    """11,178,378 of the book: a bias in every convolution, no norm on projections (facts of its text)."""
    net = sketch("resnet18", 10, (1, 96, 96))
    convolutions = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    projections = [module for module in convolutions if module.kernel_size == (1, 1)]
    biases = sum(module.out_channels for module in convolutions)
    norms = sum(2 * module.out_channels for module in projections)
    assert params(net) == 11_175_370
    assert params(net) + biases - norms == 11_178_378


def test_weights_are_scaled_by_the_inputs_of_their_layer() -> None:
    layer = nn.Sequential(nn.Conv2d(16, 64, 3), nn.BatchNorm2d(64))
    PARITY["fill"](layer, 2.0, chunk=1000)
    weight = layer[0].weight
    assert weight.std().item() == pytest.approx(math.sqrt(2 / 144), rel=0.02)
    in_one_go = nn.Sequential(nn.Conv2d(16, 64, 3), nn.BatchNorm2d(64))
    PARITY["fill"](in_one_go, 2.0)
    assert all(torch.equal(a, b) for a, b in zip(layer.parameters(), in_one_go.parameters(), strict=True))
