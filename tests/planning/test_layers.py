"""The layer table against torch's own FLOP counter, closed formulas and real runs on the CPU."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from conviction.errors import UsageError
from conviction.nets import build, find_net, sketch
from conviction.planning.layers import Layer, layer_table, saved_bytes, total

BUILT = [
    "lenet",
    "lenet-bn",
    "vgg7",
    "vgg7-bn/4",
    "nin-small",
    "googlenet-small",
    "resnet18-cifar/4",
    "densenet-book/2",
]


class Scaled(nn.Module):
    """A join that does work of its own: a shortcut, a learnt scale, a functional sigmoid and a squeeze."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.path = nn.Conv2d(channels, channels, 3, padding=1)
        self.scale = nn.Parameter(torch.full((1, channels, 1, 1), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * torch.sigmoid(self.path(x))


class Functional(nn.Module):
    """A net written without layers."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(4, 3, 3, 3))
        self.weight = nn.Parameter(torch.randn(5, 4))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.conv2d(x, self.kernel, stride=2).relu().mean((2, 3)), self.weight)


class Shared(nn.Module):
    """One convolution run twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.conv(x).relu())


class Tokens(nn.Module):
    """Attention over patches: linear layers on three dimensions, a batched product, parameters used by a parent."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.inward = nn.Linear(8, 24)
        self.outward = nn.Linear(8, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.inward(self.patches(x).flatten(2).mT).chunk(3, -1)
        return self.outward((query @ key.mT).softmax(-1) @ value).mean(1)


def kinds_of_convolution() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, stride=2, padding=1),
        nn.Conv2d(12, 12, 3, groups=12, dilation=2, padding=2),
        nn.Conv2d(12, 8, (1, 5), groups=4),
        nn.ConvTranspose2d(8, 6, 3, stride=2, groups=2, output_padding=1),
        nn.ReLU(inplace=True),
        nn.Flatten(2),
        nn.Conv1d(6, 4, 3),
        nn.Flatten(),
        nn.LazyLinear(3),
    )


def plain(name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    if name == "convolutions":
        net = kinds_of_convolution()
        net(torch.zeros(2, 3, 16, 16))  # gives the lazy layer its shape
        return net, (3, 16, 16)
    return {
        "scaled": (nn.Sequential(Scaled(3), nn.BatchNorm2d(3), Scaled(3)), (3, 9, 9)),
        "functional": (Functional(), (3, 9, 9)),
        "shared": (Shared(), (3, 8, 8)),
        "tokens": (Tokens(), (3, 8, 8)),
        "norms": (nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4), nn.GELU(), nn.LocalResponseNorm(3),
                                nn.Dropout(), nn.LPPool2d(2, 2), nn.AvgPool2d(2), nn.Flatten(), nn.LayerNorm(16)),
                  (3, 8, 8)),
        "frozen": (nn.Sequential(nn.Conv2d(3, 4, 3).requires_grad_(False), nn.ReLU(), nn.Conv2d(4, 2, 3)), (3, 8, 8)),
        "attention": (nn.Sequential(nn.Flatten(2), nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)), (3, 4, 4)),
    }[name]  # fmt: skip


PLAIN = ["convolutions", "scaled", "functional", "shared", "tokens", "norms", "frozen", "attention"]


def counted_by_torch(net: nn.Module, image: tuple[int, int, int]) -> float:
    with FlopCounterMode(display=False) as counter:
        net.train()(torch.zeros(2, *image))
    return counter.get_total_flops() / 2 / 2


def kept_by_a_real_run(net: nn.Module, image: tuple[int, int, int], batch_size: int) -> int:
    """Bytes of the storages that autograd really keeps, told apart by their addresses."""
    packed: list[Tensor] = []  # kept, so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        packed.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = net.train()(torch.randn(batch_size, *image))
    own = {tensor.untyped_storage().data_ptr() for tensor in (*net.parameters(), *net.buffers())}
    sizes = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in packed}
    assert output is not None
    return sum(size for address, size in sizes.items() if address not in own)


@pytest.mark.parametrize("name", PLAIN)
def test_plain_nets_agree_with_torch_and_a_real_run(name: str) -> None:
    net, image = plain(name)
    whole = total(layer_table(net, image))
    assert whole.macs == counted_by_torch(copy.deepcopy(net), image)
    assert whole.params == sum(parameter.numel() for parameter in net.parameters())
    for batch_size in (1, 4):
        assert saved_bytes(net, image, batch_size) == kept_by_a_real_run(copy.deepcopy(net), image, batch_size)


@pytest.mark.parametrize("name", BUILT)
def test_built_nets_agree_with_torch_and_a_real_run(name: str) -> None:
    image = find_net(name).image
    net = build(name)
    whole = total(layer_table(net, image, 3))
    assert whole.macs == counted_by_torch(net, image)
    assert whole.saved_bytes == kept_by_a_real_run(net, image, 3)
    assert whole.params == sum(parameter.numel() for parameter in net.parameters())
    assert layer_table(sketch(name), image, 3) == layer_table(net, image, 3)


def test_vgg11_costs_what_is_published() -> None:
    layers = layer_table(sketch("vgg11"), (3, 224, 224))
    whole = total(layers)
    assert (whole.params, whole.macs) == (132_863_336, 7_609_090_048)
    assert round(whole.saved_bytes / 2**20, 1) == 46.6
    indices = sum(math.prod(layer.output_shape) * 8 for layer in layers if layer.kind == "MaxPool2d")
    assert round(indices / whole.saved_bytes, 3) == 0.251
    assert whole.output_shape == (1000,)


def test_lines_of_a_small_net() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(18, 5))
    assert layer_table(net, (1, 8, 8), batch_size=2) == (
        Layer("0", "Conv2d", (2, 6, 6), 20, 2 * 9 * 36, 2 * 64 * 4),  # keeps its input
        Layer("1", "ReLU", (2, 6, 6), 0, 0, 2 * 72 * 4),  # keeps its output, which the pool shares
        Layer("2", "MaxPool2d", (2, 3, 3), 0, 0, 2 * 18 * 8),  # keeps the int64 indices
        Layer("3", "Flatten", (18,), 0, 0, 0),
        Layer("4", "Linear", (5,), 95, 90, 2 * 18 * 4),
    )


def test_bytes_saved_between_the_layers_are_not_lost() -> None:
    layers = layer_table(nn.Sequential(Scaled(3)), (3, 9, 9), batch_size=2)
    assert [layer.name for layer in layers] == ["0.path", "0"]
    # The join keeps the sigmoid's output; its scale is the one parameter that belongs to no leaf.
    assert (layers[1].kind, layers[1].params, layers[1].saved_bytes) == ("Scaled", 3, 2 * 243 * 4)


def test_a_layer_that_runs_twice_has_two_lines_and_its_parameters_once() -> None:
    layers = layer_table(Shared(), (3, 8, 8))
    assert [(layer.name, layer.params) for layer in layers if layer.kind == "Conv2d"] == [("conv", 84), ("conv", 0)]
    assert layers[0].macs == layers[1].macs == 81 * 64


def test_tied_weights_are_counted_once() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 12), nn.Linear(12, 12))
    net[2].weight = net[1].weight
    assert total(layer_table(net, (3, 2, 2))).params == 144 + 24


def test_parameters_of_children_that_do_not_run_stay_with_their_parent() -> None:
    net = Shared()
    net.unused = nn.Linear(2, 3)
    assert [(layer.name, layer.params) for layer in layer_table(net, (3, 8, 8))] == [("conv", 84), ("conv", 0), ("", 9)]


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_one_image_is_counted_where_batch_norm_would_refuse_it(batch_size: int) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 8), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2))
    # Input of the convolution, of the norm and of the last layer (the ReLU's own output); mean and deviation once.
    expected = batch_size * (192 + 4 + 4) * 4 + 2 * 4 * 4
    assert saved_bytes(net, (3, 8, 8), batch_size) == expected
    assert total(layer_table(net, (3, 8, 8), batch_size)).macs == 3 * 4 * 64 + 8


def test_auxiliary_heads_run() -> None:
    image = find_net("googlenet").image
    plain_net, headed = (total(layer_table(sketch("googlenet", aux=aux), image)) for aux in (False, True))
    assert plain_net.macs == 1_498_376_192
    assert (headed.params, headed.macs > plain_net.macs) == (13_004_888, True)
    assert headed.saved_bytes > plain_net.saved_bytes


def test_the_net_is_left_as_it_was() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(4 * 36, 2)).eval()
    net[1].train()
    calls: list[str] = []
    net[0].register_forward_hook(lambda *_: calls.append("forward"))
    net[4].register_forward_pre_hook(lambda *_: calls.append("pre"))
    before = {name: (tensor.data_ptr(), tensor.clone()) for name, tensor in net.state_dict().items()}
    modes, random = [module.training for module in net.modules()], torch.get_rng_state()
    layer_table(net, (3, 8, 8), 4)
    assert not calls
    assert [module.training for module in net.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in net.parameters())
    for name, tensor in net.state_dict().items():
        assert (tensor.data_ptr(), True) == (before[name][0], torch.equal(tensor, before[name][1]))
    net(torch.zeros(1, 3, 8, 8))
    assert calls == ["forward", "pre"]  # and the hooks are still there


def test_works_wherever_it_is_called() -> None:
    net, image = plain("scaled")
    expected = layer_table(net, image, 2)
    with torch.no_grad():
        assert layer_table(net, image, 2) == expected
    with torch.inference_mode():
        assert layer_table(net, image, 2) == expected
        made_here = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        assert saved_bytes(made_here, image, 2) > 0
    assert layer_table(copy.deepcopy(net).eval(), image, 2) == expected
    assert layer_table(net.half(), image, 2)[0].saved_bytes == expected[0].saved_bytes / 2


def test_weights_that_are_computed() -> None:
    normed = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), nn.ReLU())
    assert total(layer_table(normed, (3, 8, 8))).macs == 4 * 27 * 36
    assert total(layer_table(normed, (3, 8, 8))).params == sum(p.numel() for p in normed.parameters())
    with pytest.warns(FutureWarning):
        older = nn.Sequential(nn.utils.weight_norm(nn.Conv2d(3, 4, 3)))
    older(torch.zeros(1, 3, 8, 8))
    assert total(layer_table(older, (3, 8, 8))).macs == 4 * 27 * 36


def test_recomputation_saves_less() -> None:
    class Recomputed(nn.Sequential):
        def forward(self, input: Tensor) -> Tensor:
            return checkpoint(super().forward, input, use_reentrant=False)

    def block() -> list[nn.Module]:
        return [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()]

    assert saved_bytes(Recomputed(*block()), (3, 9, 9), 2) < saved_bytes(nn.Sequential(*block()), (3, 9, 9), 2) / 2


class ReadsValues(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x.max().item()


def locked() -> nn.Module:
    import threading

    net = nn.Sequential(nn.ReLU())
    net.lock = threading.Lock()
    return net


@pytest.mark.parametrize(
    ("net", "image", "message"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 9)), (3, 8, 8), "the net cannot take images of 3x8x8"),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 9)), (3, 8, 8), "layer 1 -"),
        (nn.Sequential(nn.Conv2d(3, 4, 3)), (1, 8, 8), "layer 0 -"),
        (nn.Sequential(nn.ReLU(), ReadsValues()), (3, 8, 8), "cannot run without numbers"),
        (nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), (3, 8, 8), "a lazy layer has no shape yet, LazyLinear - run"),
        (locked(), (3, 8, 8), "the net cannot be copied"),
        (nn.ReLU(), (3, 8), "is not a shape"),
        (nn.ReLU(), (3, 0, 8), "is not a shape"),
    ],
)
@pytest.mark.parametrize("batch_size", [1, 2])
def test_refusals_are_one_line_and_name_the_layer(
    net: nn.Module, image: tuple[int, int, int], message: str, batch_size: int
) -> None:
    with pytest.raises(UsageError) as refusal:
        layer_table(net, image, batch_size)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not torch.is_inference_mode_enabled()


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_a_scripted_net_is_refused() -> None:
    scripted = nn.Sequential(torch.jit.script(nn.ReLU()))
    with pytest.raises(UsageError, match="a scripted net does not show its layers"):
        layer_table(scripted, (3, 8, 8))


@pytest.mark.parametrize("batch_size", [0, -1, True, 2.0])
def test_a_batch_size_that_is_none(batch_size: int) -> None:
    with pytest.raises(UsageError, match="is not a number of images"):
        layer_table(nn.ReLU(), (3, 8, 8), batch_size)


def test_total_of_nothing() -> None:
    assert total(()) == Layer("total", "", (), 0, 0, 0)
