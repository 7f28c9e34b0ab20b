"""The followed step against real steps on the CPU, torch's FLOP counter, and itself at other batches."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from conviction.errors import UsageError
from conviction.nets import build, find_net, names, sketch
from conviction.planning.casting import Casting
from conviction.planning.program import live_bytes, make_program
from conviction.planning.step_trace import Setting, StepTrace, trace_step
from conviction.training.recompute import recomputing

MIB = 1 << 20
SMALL = ("lenet", "lenet-relu", "alexnet-small/4", "vgg7-bn/4", "nin-small/4", "googlenet-small/2", "resnet18-cifar/8",
         "densenet-book/2")  # fmt: skip
SETTINGS = {
    "sgd": Setting(),
    "plain sgd": Setting(momentum=0.0),
    "foreach": Setting(kernel="foreach"),
    "loop": Setting(kernel="loop"),
    "adamw": Setting(optimizer="adamw"),
    "adamw foreach": Setting(optimizer="adamw", kernel="foreach"),
    "bf16": Setting(precision="bf16", channels_last=True),
    "parts": Setting(parts=2),
    "averaged": Setting(averaged=True, optimizer="adamw"),
}


def peaks(trace: StepTrace) -> dict[str, int]:
    """The most bytes alive in each section, without the stand-ins for scratch."""
    live = most = begin = 0
    found = {}
    for section, end in trace.sections.items():
        most = live
        for event in trace.events[begin:end]:
            slot = trace.slots[event if event >= 0 else ~event]
            live += 0 if slot.kind == "workspace" else slot.bytes if event >= 0 else -slot.bytes
            most = max(most, live)
        begin, found[section] = end, most
    return found


def real(net: nn.Module, image: tuple[int, int, int], batch: int, setting: Setting) -> StepTrace:
    return trace_step(net, image, batch, setting, copied=copy.deepcopy, device="cpu")


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_net_without_numbers_holds_what_a_real_one_holds(setting: str) -> None:
    for name in ("vgg7-bn/4", "lenet-relu"):
        net, image = build(name), find_net(name).image
        ghost, true = trace_step(net, image, 4, SETTINGS[setting]), real(net, image, 4, SETTINGS[setting])
        assert ghost.sections.keys() == true.sections.keys()
        for section, most in peaks(true).items():
            assert abs(peaks(ghost)[section] - most) < 0.1 * MIB, (section, most)


@pytest.mark.parametrize("name", SMALL)
def test_each_family_holds_what_a_real_run_holds(name: str) -> None:
    net, image = build(name), find_net(name).image
    ghost, true = trace_step(net, image, 3), real(net, image, 3, Setting())
    assert peaks(ghost) == peaks(true)
    assert {key: work.macs for key, work in ghost.work.items()} == {key: work.macs for key, work in true.work.items()}


@pytest.mark.parametrize("name", ["lenet", "vgg7", "googlenet-small", "resnet18-cifar", "densenet-book", "nin-small"])
def test_macs_of_both_passes_are_those_that_torch_counts(name: str) -> None:
    net, image = build(name), find_net(name).image
    trace = trace_step(net, image, 2)
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(net.train()(torch.randn(2, *image)), torch.zeros(2, dtype=torch.int64)).backward()
    training = sum(work.macs for (phase, _), work in trace.work.items() if phase != "predict")
    assert 2 * training == counter.get_total_flops()
    forward, backward = (
        {layer: work.macs for (at, layer), work in trace.work.items() if at == phase and work.macs}
        for phase in ("forward", "backward")
    )
    first = next(iter(forward))  # the images need no gradient
    assert backward == {layer: macs * (1 if layer == first else 2) for layer, macs in forward.items()}


def test_grouped_convolutions_count_each_weight_once_a_position() -> None:
    net = nn.Sequential(nn.Conv2d(4, 8, 3, groups=4, padding=1), nn.Conv2d(8, 8, 3, groups=8), nn.Flatten())
    trace = trace_step(net, (4, 6, 6), 2)
    macs = {key: work.macs for key, work in trace.work.items() if work.macs and key[0] != "predict"}
    one, two = 2 * 36 * 8 * 9, 2 * 16 * 8 * 9
    assert macs == {("forward", "0"): one, ("forward", "1"): two, ("backward", "0"): one, ("backward", "1"): 2 * two}


@pytest.mark.parametrize(
    ("name", "setting"),
    [*((name, "sgd") for name in (*SMALL, "vgg11-bn")),
     *((name, setting) for name in ("lenet-relu", "vgg7-bn/4", "densenet-book/2") for setting in ("bf16", "parts"))],
)  # fmt: skip
def test_two_traces_give_every_event_at_any_batch(name: str, setting: str) -> None:
    image, chosen = find_net(name).image, SETTINGS[setting]
    net = sketch(name, find_net(name).num_classes, image)
    program = make_program(lambda batch, parts: trace_step(net, image, batch, chosen), chosen.parts)
    direct = make_program(
        lambda batch, parts: trace_step(net, image, batch * 5 * chosen.parts // parts, chosen), chosen.parts
    ).small
    images, whole = direct.batch_size // chosen.parts, direct.batch_size
    predicting = {event for event in program.sections["predict"] if event >= 0}  # which is done in one part
    sizes, predicted = program.sizes(images).tolist(), program.sizes(whole).tolist()
    sizes = [predicted[slot] if slot in predicting else sizes[slot] for slot in range(len(sizes))]
    assert sizes == [slot.bytes for slot in direct.slots]
    assert [slot.kind for slot in program.slots] == [slot.kind for slot in direct.slots]
    assert program.layers(images) == direct.layers
    work, predicted_work = program.work(images), program.work(whole)
    assert {key: (predicted_work if key[0] == "predict" else work)[key] for key in work} == direct.work


@pytest.mark.slow
@pytest.mark.parametrize("name", names())
def test_two_traces_give_every_event_of_every_net(name: str) -> None:
    test_two_traces_give_every_event_at_any_batch(name, "sgd")


@pytest.mark.parametrize("parts", [3, 5])
def test_two_parts_show_what_more_parts_do(parts: int) -> None:
    net, image = sketch("vgg7-bn/4", 10, (1, 28, 28)), (1, 28, 28)

    def trace(batch: int, traced: int) -> StepTrace:
        return trace_step(net, image, batch, Setting(parts=traced))

    program, direct = make_program(trace, parts), trace(4 * parts, parts)
    assert live_bytes(program, (("setup", 4), ("first", 4))).max() == rounded_peak(direct, "first")
    # An average would be off by what the first part alone does: clearing and making the gradients.
    counted = program.work(4)
    for key, work in direct.work.items():
        assert counted[key].macs == work.macs, key


def rounded_peak(trace: StepTrace, section: str) -> int:
    live = most = 0
    for event in trace.events[: trace.sections[section]]:
        slot = trace.slots[event if event >= 0 else ~event]
        size = 0 if slot.kind == "workspace" else -(-slot.bytes // 512) * 512
        live += size if event >= 0 else -size
        most = max(most, live)
    return most


def test_the_steady_step_can_be_played_again_and_again() -> None:
    net = sketch("vgg7-bn/4", 10, (1, 28, 28))
    program = make_program(lambda batch, parts: trace_step(net, (1, 28, 28), batch))
    schedule = (("setup", 8), ("first", 8), ("steady", 8), ("steady", 3), ("steady", 8))
    lengths = [len(program.sections[section]) for section, _ in schedule]
    live = live_bytes(program, schedule)
    ends = [sum(lengths[: count + 1]) - 1 for count in range(len(lengths))]
    assert live[ends[2]] == live[ends[4]] > live[ends[3]] > live[ends[0]]
    assert live.min() >= 0


def test_casting_keeps_what_autocast_keeps() -> None:
    """On nets without norms and dropout the lists of CPU and CUDA agree, so that torch itself is the witness."""
    net, image = build("vgg7/4").eval(), find_net("vgg7/4").image  # without dropout

    def kept(context: object) -> int:
        sizes: dict[int, int] = {}
        packed = []

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            packed.append(tensor)
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with context, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):  # ty: ignore
            net(torch.randn(2, *image))
        return sum(sizes.values())

    assert kept(Casting(torch.bfloat16)) == kept(torch.autocast("cpu", torch.bfloat16)) < kept(Casting(None))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_recomputed_activations_are_not_kept(precision: str) -> None:
    net, image = sketch("resnet18-cifar/4", 10, (1, 32, 32)), (1, 32, 32)
    without = trace_step(net, image, 64, Setting(precision=precision))
    again = trace_step(net, image, 64, Setting(precision=precision, checkpointing=True), recomputing=recomputing)
    assert peaks(again)["steady"] < 0.7 * peaks(without)["steady"]
    forward = {layer: work.macs for (phase, layer), work in without.work.items() if phase == "forward"}
    backward = {layer: work.macs for (phase, layer), work in again.work.items() if phase == "backward"}
    again_run = [layer for layer, macs in forward.items() if macs and backward[layer] == 3 * macs]
    assert len(again_run) > len([macs for macs in forward.values() if macs]) / 2


def test_dropout_keeps_one_byte_a_number() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(1024, 1024), nn.Dropout(), nn.Linear(1024, 2))
    dropped = {slot.bytes for slot in trace_step(net, (1, 32, 32), 2).slots if slot.kind == "saved"}
    assert dropped == {4, 16, 2 * 1024, 4 * 2 * 1024}


def test_the_net_is_left_as_it_was() -> None:
    net = build("vgg7-bn/4").eval()
    before, draws = copy.deepcopy(net.state_dict()), torch.random.get_rng_state()
    for setting in SETTINGS.values():
        trace_step(net, (1, 28, 28), 4, setting)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert torch.equal(draws, torch.random.get_rng_state())
    assert not net.training and not any(module._forward_hooks for module in net.modules())
    assert all(parameter.grad is None for parameter in net.parameters())


class Branching(nn.Module):
    """A forward that depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x.flatten(1)) if x.sum() > 0 else self.head(-x.flatten(1))


class Counting(nn.Module):
    """Operations that depend on the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([self.head(image.flatten()) for image in x])


class Hoarding(Counting):
    """Keeps something of every step."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.kept = [*getattr(self, "kept", []), self.head(x.flatten(1)).detach().clone()]
        return self.head(x.flatten(1))


@pytest.mark.parametrize(
    ("net", "image", "told"),
    [
        (Branching(), (1, 2, 2), "cannot run without numbers"),
        (Counting(), (1, 2, 2), "depend on how many images"),
        (Hoarding(), (1, 2, 2), "leaves more behind"),
        (nn.Sequential(nn.Flatten(), nn.Linear(5, 2)), (1, 2, 2), "layer 1"),
        (nn.Flatten(), (1, 2, 2), "no trainable parameter"),
        (nn.Conv2d(1, 2, 1), (1, 2, 2), "not logits"),
        (nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), (1, 0, 2), "is not a shape"),
        (nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), (1, 10**9, 10**9), "cannot take images"),
    ],
)
def test_what_cannot_be_followed_is_refused_in_one_line(net: nn.Module, image: tuple[int, int, int], told: str) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        make_program(lambda batch, parts: trace_step(net, image, batch))
    assert "\n" not in str(caught.value)


def test_settings_change_what_they_name() -> None:
    net, image = sketch("vgg7/4", 10, (1, 28, 28)), (1, 28, 28)

    def held(setting: Setting, kind: str) -> int:
        return sum(slot.bytes for slot in trace_step(net, image, 64, setting).slots if slot.kind == kind)

    weights = held(Setting(), "weights")
    assert held(Setting(), "optimizer") == weights
    assert held(Setting(momentum=0.0), "optimizer") == 0
    assert 2 * weights < held(Setting(optimizer="adamw"), "optimizer") < 2.01 * weights
    assert held(Setting(averaged=True), "averaged") == weights
    assert held(Setting(precision="bf16"), "saved") < held(Setting(), "saved")
    assert replace(Setting(), parts=2) != Setting()
