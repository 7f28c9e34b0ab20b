"""Checks of the error that ended a program: the usual ones of PyTorch, each with what caused it."""

from __future__ import annotations

import re
from collections.abc import Callable

from conviction.findings.observation import Observation, Place
from conviction.findings.readings import (
    blame,
    class_count,
    line_of,
    main_loss,
    trained_net,
    training_loader,
)
from conviction.findings.records import Finding

Explain = Callable[[Observation, "re.Match[str]"], Finding | None]


def explain_error(observation: Observation) -> Finding | None:
    """Name the cause of the error that ended the program; None where none of the known ones did."""
    if observation.ending.how != "error":
        return None
    for pattern, explain in _ERRORS:
        match = pattern.search(observation.ending.error)
        if match is not None:
            return explain(observation, match)
    return None


def _blame(
    observation: Observation, cause: str, seen: str, expected: str, remedy: str,
    at: Place | None = None, confidence: float = 0.95,
) -> Finding:  # fmt: skip
    return blame(
        cause, f"{seen} (the program ended with an error after {observation.steps} steps)", expected, remedy,
        at or observation.ending.at, layer=observation.ending.layer, confidence=confidence, hard=True,
    )  # fmt: skip


def _detached(observation: Observation, _: re.Match[str]) -> Finding:
    net = trained_net(observation) or next(iter(observation.nets), None)
    if net is not None and net.params and not net.trainable:
        return _blame(
            observation, "frozen-params", f"0 of {net.params:,} parameters are trainable",
            "parameters that may move", "leave requires_grad on for the layers that are to learn",
            line_of(observation, "parameters-frozen", otherwise=net.made_at),
        )  # fmt: skip
    return _blame(
        observation, "loss-detached", "the loss that goes backward hangs on no weight",
        "a loss computed from the net's output with gradients on",
        "pass the loss itself backward: no .item(), .detach(), .data, torch.tensor() or no_grad on the way",
        line_of(observation, "loss-detached"),
    )  # fmt: skip


def _channels(observation: Observation, match: re.Match[str]) -> Finding:
    shape = [int(size) for size in match.group(1).split(",")]
    wanted, got = int(match.group(2)), int(match.group(3))
    text = "x".join(str(size) for size in shape)
    if shape[-1] == wanted and shape[-1] != shape[1]:
        expected, remedy = "batch x channels x height x width", "move the channels forward: images.permute(0, 3, 1, 2)"
    elif shape[0] == 1 and wanted == 1:
        expected, remedy = f"batch x {wanted} x height x width", "give the images a channel: images.unsqueeze(1)"
    else:
        expected = f"images with {wanted} channels"
        remedy = f"build the first layer for {got} channels, or convert the images"
    return _blame(observation, "channel-order", f"images of {text} go into a layer for {wanted} channels",
                  expected, remedy)  # fmt: skip


def _dimensions(observation: Observation, match: re.Match[str]) -> Finding:
    return _blame(
        observation, "channel-order", f"images of {match.group(1).replace(', ', 'x')} go into a convolution",
        "batch x channels x height x width, 4 dimensions",
        "reshape them: images.view(-1, 1, height, width) of grey ones",
    )  # fmt: skip


def _flattened(observation: Observation, match: re.Match[str]) -> Finding | None:
    rows, got, wanted = (int(match.group(number)) for number in (1, 2, 3))
    if got >= wanted:
        return None  # a larger image, a forgotten flatten, or a slip: the error itself says as much
    return _blame(
        observation, "input-too-small", f"{got} features of each of {rows} images reach a layer for {wanted}",
        f"{wanted} features, those of a larger image",
        f"give images of the size that the net was made for, or make that layer nn.Linear({got}, ...)", confidence=0.6,
    )  # fmt: skip


def _small(observation: Observation, match: re.Match[str]) -> Finding:
    sizes = match.group(1).replace(" ", "")
    return _blame(
        observation, "input-too-small", f"a map of {sizes} is smaller than what the layer reads at a time",
        "maps that are larger than the kernel in every layer",
        "use larger images, or fewer pools and strides before it",
    )  # fmt: skip


def _single(observation: Observation, match: re.Match[str]) -> Finding:
    loader = training_loader(observation)
    return _blame(
        observation, "bn-tiny-batch", f"batch norm got {match.group(1)}: 1 value per channel to average over",
        "more than one image in the last batch too", "use drop_last=True, or another batch size",
        loader.made_at if loader is not None else None,
    )  # fmt: skip


def _target(observation: Observation, match: re.Match[str]) -> Finding:
    classes, label = class_count(observation), int(match.group(1))
    loss, loader = main_loss(observation), training_loader(observation)
    lowest = loss.target_lowest if loss is not None else None
    if lowest is None and observation.evidence is not None and observation.evidence.labels is not None:
        lowest = observation.evidence.labels.lowest
    from_one = label == classes and (lowest is None or lowest >= 1)
    at = line_of(observation, "labels-shifted")
    width = "the net's outputs" if classes is None else f"{classes} outputs"
    if label < 0 or from_one or (classes is not None and label >= 10 * classes):
        remedy = "subtract 1: the labels count from one" if from_one else "map the labels to 0, 1, 2 ..."
        return _blame(observation, "labels-malformed", f"label {label} does not fit {width}",
                      f"whole numbers from 0 to {classes - 1 if classes else 'classes - 1'}", remedy, at)  # fmt: skip
    many = max(label + 1, loader.classes or 0 if loader is not None else 0)
    net = trained_net(observation)
    return _blame(
        observation, "classes-mismatch", f"label {label} does not fit {width}", f"{many} outputs or more",
        f"make the last layer nn.Linear(..., {many})",
        net.made_at if net is not None else None, confidence=0.85,
    )  # fmt: skip


def _device_assert(observation: Observation, _: re.Match[str]) -> Finding:
    classes = class_count(observation)
    return _blame(
        observation, "labels-malformed", f"a label does not fit {classes or 'the net'}'s outputs (CUDA said so later)",
        "whole numbers from 0 to classes - 1", "run once with CUDA_LAUNCH_BLOCKING=1, and print the labels' range",
        confidence=0.7,
    )  # fmt: skip


def _kind_of_labels(observation: Observation, match: re.Match[str]) -> Finding:
    return _blame(
        observation, "labels-malformed", f"cross-entropy got labels it cannot read: {match.group(0)}",
        "class numbers, int64, one for each image", "give labels.long() of shape [batch], without one-hot or a column",
    )  # fmt: skip


def _kind_of_images(observation: Observation, _: re.Match[str]) -> Finding:
    return _blame(
        observation, "input-unscaled", "the images are whole numbers from 0 to 255 (uint8)",
        "float32 with a deviation near 1", "convert and scale them: images.float() / 255, then standardise",
        confidence=0.9,
    )  # fmt: skip


def _rows(observation: Observation, match: re.Match[str]) -> Finding:
    outputs, targets = match.group(1), match.group(2)
    return _blame(
        observation, "mixed-batch", f"{outputs} rows of outputs for {targets} labels", "one row for each image",
        "flatten each image by itself: x.flatten(1) or x.view(x.size(0), -1)",
        line_of(observation, "view-for-permute"), confidence=0.85,
    )  # fmt: skip


def _wrong_loss(observation: Observation, match: re.Match[str]) -> Finding:
    return _blame(
        observation, "wrong-loss", f"the loss cannot take these outputs and labels: {match.group(0)}",
        "cross-entropy of logits and class numbers", "use nn.CrossEntropyLoss()",
        line_of(observation, "mse-on-classes"), confidence=0.85,
    )  # fmt: skip


def _second_time(observation: Observation, _: re.Match[str]) -> Finding:
    return _blame(
        observation, "loss-graph-kept", "a graph of an earlier step goes backward for a 2nd time",
        "a loss that hangs on this step only",
        "add up loss.item(), and detach what is carried from step to step",
        line_of(observation, "loss-kept"), confidence=0.85,
    )  # fmt: skip


def _refused_rate(observation: Observation, match: re.Match[str]) -> Finding:
    return _blame(observation, "lr-absurd", f"a learning rate of {match.group(1)}", "a small positive number",
                  "use 0.001 with Adam, 0.1 or less with SGD")  # fmt: skip


def _refused_setting(observation: Observation, match: re.Match[str]) -> Finding:
    return _blame(observation, "optimizer-settings", f"the optimizer refuses a setting: {match.group(0)}",
                  "settings within their range", "leave them at their defaults")  # fmt: skip


def _no_parameters(observation: Observation, _: re.Match[str]) -> Finding:
    return _blame(
        observation, "optimizer-owns-other-net", "the optimizer was given 0 parameters",
        "the parameters of the net that is trained", "put layers in an nn.ModuleList, not in a plain list",
        line_of(observation, "layers-in-list"), confidence=0.85,
    )  # fmt: skip


def _compiled(pattern: str, explain: Explain) -> tuple[re.Pattern[str], Explain]:
    return re.compile(pattern, re.IGNORECASE), explain


# The first that fits explains the error.
_ERRORS = (
    _compiled(r"does not require grad and does not have a grad_fn", _detached),
    _compiled(r"expected input\[([\d, ]+)\] to have (\d+) channels, but got (\d+) channels", _channels),
    _compiled(r"expected 3D .* or 4D .* input to conv2d, but got input of size: \[([\d, ]+)\]", _dimensions),
    _compiled(r"mat1 and mat2 shapes cannot be multiplied \((\d+)x(\d+) and (\d+)x\d+\)", _flattened),
    _compiled(r"padded input size per channel: (\([\d x]+\))", _small),
    _compiled(r"given input size: (\([\d x]+\)).*output size is too small", _small),
    _compiled(r"more than 1 value per channel when training, got input size (torch\.Size\(\[[\d, ]+\]\))", _single),
    _compiled(r"target (-?\d+) is out of bounds", _target),
    _compiled(r"device-side assert|Assertion `t >= 0", _device_assert),
    _compiled(r"expected scalar type Long but found \w+|expected target dtype to be Long[^-]*|"
              r"0D or 1D target tensor expected[^-]*|"
              r"expected floating point type for target with class probabilities, got \w+", _kind_of_labels),
    _compiled(r"(?:input type \((?:unsigned char|torch\.\w*ByteTensor|Byte)\)|got Byte|found Byte|scalar type Byte)",
              _kind_of_images),
    _compiled(r"expected input batch_size \((\d+)\) to match target batch_size \((\d+)\)", _rows),
    _compiled(r"using a target size \(.*\) that is different to the input size|found dtype Long but expected Float|"
              r"result type Float can't be cast to the desired output type Long|"
              r"all elements of input should be between 0 and 1", _wrong_loss),
    _compiled(r"backward through the graph a second time", _second_time),
    _compiled(r"invalid learning rate: (\S+)", _refused_rate),
    _compiled(r"invalid (?:momentum|weight_decay|beta|epsilon|dampening)[^-]*-?[\d.e-]+", _refused_setting),
    _compiled(r"optimizer got an empty parameter list", _no_parameters),
)  # fmt: skip
