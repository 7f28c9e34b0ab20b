"""Operations that no net of the house has, in nets as others write them: the plan beside real runs and counters."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from conviction.planning import accumulation
from conviction.planning.accumulation import sole_holders
from conviction.planning.casting import Casting
from conviction.planning.devices import find_device
from conviction.planning.layers import total
from conviction.planning.planner import make_plan
from conviction.planning.program import make_program
from conviction.planning.smallest import smallest_image
from conviction.planning.step_trace import Setting, StepTrace, trace_step

IMAGE = (3, 48, 48)
MIB = 1 << 20


def dropped_paths(x: Tensor, share: float, training: bool) -> Tensor:
    """Stochastic depth as timm and torchvision draw it: a number an image."""
    if not training:
        return x
    kept = x.new_empty((len(x), *[1] * (x.ndim - 1))).bernoulli_(1 - share)
    return x * kept.div_(1 - share)


class Mixer(nn.Module):
    """A ConvNeXt block: depthwise, LayerNorm over channels put last, GELU, a learnt scale, stochastic depth."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.widen, self.narrow = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.scale * self.narrow(F.gelu(self.widen(y)))
        return x + dropped_paths(y.permute(0, 3, 1, 2), 0.1, self.training)


class Squeezed(nn.Module):
    """An inverted bottleneck with a gate, as in MobileNetV3 (Hardswish) and EfficientNet (SiLU), in place as theirs."""

    def __init__(self, channels: int, activation: type[nn.Module], gate: type[nn.Module]) -> None:
        super().__init__()
        wide = 4 * channels
        self.widen = nn.Sequential(nn.Conv2d(channels, wide, 1, bias=False), nn.BatchNorm2d(wide), activation(True))
        self.depthwise = nn.Sequential(
            nn.Conv2d(wide, wide, 5, padding=2, groups=wide, bias=False), nn.BatchNorm2d(wide), activation(True)
        )
        self.squeeze = nn.Sequential(nn.Conv2d(wide, 8, 1), nn.ReLU(True), nn.Conv2d(8, wide, 1), gate())
        self.narrow = nn.Sequential(nn.Conv2d(wide, channels, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(self.widen(x))
        y = self.narrow(y * self.squeeze(y.mean((2, 3), keepdim=True)))
        return x + dropped_paths(y, 0.2, self.training)


class Averaged(nn.Module):
    """A head whose mean belongs to no layer, so that the last layer is not the logits."""

    def __init__(self, body: nn.Module, channels: int) -> None:
        super().__init__()
        self.body, self.head = body, nn.Conv2d(channels, 7, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x)).mean((2, 3))


def grouped() -> nn.Module:
    """RegNet's bottleneck: groups of eight."""
    conv = nn.Conv2d(32, 32, 3, padding=1, groups=4, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(32), nn.ReLU(True), nn.Conv2d(32, 16, 1))


def net_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    stem = nn.Conv2d(3, 16, 4, 2)
    body: dict[str, list[nn.Module]] = {
        "mixers": [Mixer(16), Mixer(16)],
        "hardswish": [Squeezed(16, nn.Hardswish, nn.Hardsigmoid), nn.Hardswish()],
        "silu": [Squeezed(16, nn.SiLU, nn.Sigmoid), Squeezed(16, nn.SiLU, nn.Sigmoid)],
        "groups": [nn.Conv2d(16, 32, 1), grouped()],
        "shuffled": [nn.Conv2d(16, 64, 1), nn.PixelShuffle(2), nn.ChannelShuffle(4), nn.SELU(inplace=True)],
    }
    return Averaged(nn.Sequential(stem, *body[name]), 16)


NETS = ("mixers", "hardswish", "silu", "groups", "shuffled")


def peak_bytes(trace: StepTrace) -> int:
    """The most bytes alive in two training steps."""
    live = most = 0
    for event in trace.events[: trace.sections["steady"]]:
        slot = trace.slots[event if event >= 0 else ~event]
        live += 0 if slot.kind == "workspace" else slot.bytes if event >= 0 else -slot.bytes
        most = max(most, live)
    return most


def profiled_peak_bytes(net: nn.Module, batch: int) -> int:
    """The same by the profiler's memory events, in plain steps without a tracker."""
    net = copy.deepcopy(net).train()
    live = most = sum(t.untyped_storage().nbytes() for t in (*net.parameters(), *net.buffers()))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4, fused=True)
        images = labels = None
        for _ in range(2):
            images, labels = torch.randn(batch, *IMAGE), torch.zeros(batch, dtype=torch.int64)
            optimizer.zero_grad()
            with Casting(None):
                loss = F.cross_entropy(net(images).float(), labels)
            loss.backward()
            del loss
            optimizer.step()
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        most = max(most, live)
    return most


@pytest.mark.parametrize("name", NETS)
def test_peaks_are_those_of_a_real_run_with_and_without_the_tracker(name: str) -> None:
    net = net_of(name)
    traced = peak_bytes(trace_step(net, IMAGE, 4))
    assert abs(traced - peak_bytes(trace_step(net, IMAGE, 4, copied=copy.deepcopy, device="cpu"))) < 0.1 * MIB
    profiled = profiled_peak_bytes(net, 4)
    # What an operation takes and gives back inside itself only the profiler sees.
    assert 0.95 * profiled <= traced <= profiled + 0.01 * MIB


@pytest.mark.parametrize("name", NETS)
def test_macs_and_params_are_those_that_torch_counts(name: str) -> None:
    net = net_of(name)
    whole = total(trace_step(net, IMAGE, 2).layers)
    with FlopCounterMode(display=False) as counter:
        net.train()(torch.randn(2, *IMAGE))
    assert (4 * whole.macs, whole.params) == (counter.get_total_flops(), sum(p.numel() for p in net.parameters()))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", NETS)
def test_two_traces_give_every_event_at_another_batch(name: str, precision: str) -> None:
    net, setting = net_of(name), Setting(precision=precision)
    program = make_program(lambda batch, parts: trace_step(net, IMAGE, batch, setting))
    direct = make_program(lambda batch, parts: trace_step(net, IMAGE, batch * 5, setting)).small
    assert program.sizes(10).tolist() == [slot.bytes for slot in direct.slots]
    assert program.layers(10) == direct.layers
    assert program.work(10) == direct.work


def test_the_classes_are_those_of_the_logits() -> None:
    made = make_plan(lambda image: net_of("groups"), IMAGE, 8, Setting(), find_device("t4"))
    assert made.layers[-1].output_shape == (7, 23, 23) and made.num_classes == 7


class Asserting(nn.Module):
    """Takes one size, and says so by an assertion, as vision transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[-1] == 32, f"height {x.shape[-1]} does not match"
        return self.head(x.mean((2, 3)))


def test_a_net_of_one_size_that_asserts_it_is_told_so() -> None:
    found = smallest_image(lambda side: Asserting(), 3, 32)
    assert (found.eval, found.train, found.only) == (32, 32, True) and "Asserting" in found.fails_at


class Branched(nn.Module):
    """Uses what it makes as `join` says."""

    def __init__(self, join: str) -> None:
        super().__init__()
        self.stem, self.side, self.join = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 1), join

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        joined = {
            "sum": lambda: y + self.side(y).sin(),
            "three": lambda: y.sin() + y.cos() + self.side(y),
            "twice": lambda: y + y,
            "parts": lambda: torch.cat([y.sin(), self.side(y).sin(), y.exp()], 1),
            "square": lambda: y * y,
        }[self.join]()
        return joined.mean((2, 3))


@pytest.mark.parametrize("join", ["sum", "three", "twice", "parts", "square"])
def test_gradients_are_summed_where_autograd_sums_them(join: str) -> None:
    net = Branched(join)
    traced, profiled = peak_bytes(trace_step(net, IMAGE, 8)), profiled_peak_bytes(net, 8)
    assert 0.95 * profiled <= traced <= profiled + 0.01 * MIB


def test_a_real_step_under_the_tracker_gives_the_same_gradients() -> None:
    for join in ("sum", "three", "twice", "parts", "square"):
        net, images = Branched(join), torch.randn(2, *IMAGE)
        labels, found = torch.zeros(2, dtype=torch.int64), []
        for tracked in (False, True):
            ours = copy.deepcopy(net)
            if tracked:
                from conviction.planning.watching import watching

                with watching(ours):
                    F.cross_entropy(ours(images), labels).backward()
            else:
                F.cross_entropy(ours(images), labels).backward()
            found.append([parameter.grad for parameter in ours.parameters() if parameter.grad is not None])
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True)), join


def test_without_known_counts_sums_are_new_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sole_holders() is not None and math.prod(sole_holders() or ()) > 0
    now = len(trace_step(Branched("three"), IMAGE, 8).slots)
    monkeypatch.setattr("conviction.planning.watching.sole_holders", lambda: None)
    assert len(trace_step(Branched("three"), IMAGE, 8).slots) == now + 2 * 2  # two sums in each of two steps
    assert accumulation.summed_in_place(torch.ops.aten.mul.Tensor, (torch.ones(1), torch.ones(1)), (4, 2, 4)) is None
