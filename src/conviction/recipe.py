"""Recipe: every knob of a run with its default, unit, bounds and a one-line reason; read from and written to TOML."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conviction.errors import UsageError
from conviction.text import printable, suggest


def knob(
    default: Any, reason: str, *, low: float | None = None, high: float | None = None, choices: tuple[str, ...] = ()
) -> Any:
    """Declare one knob of `Recipe`: its default, why it is there, and which values it takes."""
    return field(default=default, metadata={"reason": reason, "low": low, "high": high, "choices": choices})


@dataclass(frozen=True)
class Recipe:
    """Every knob of a run. `None` means: decide for this net and data, and write down what was decided.

    Raises `UsageError` for a value of the wrong type, out of its bounds or not finite.
    """

    epochs: int | None = knob(None, "passes over the training split", low=1, high=100_000)
    batch_size: int | None = knob(None, "images in a step", low=1, high=1_000_000)
    micro_batch: int | None = knob(
        None, "most images that pass through the net at once; batch norm sees only these", low=1, high=1_000_000
    )
    image_size: int | None = knob(
        None, "side of the square image in pixels; kept as it is where the net accepts it", low=1, high=16_384
    )
    optimizer: str | None = knob(None, "how gradients become updates", choices=("sgd", "adamw"))
    lr: float | None = knob(None, "peak learning rate", low=0, high=100)
    momentum: float = knob(0.9, "SGD's (Nesterov) momentum; AdamW's first beta", low=0, high=0.9999)
    weight_decay: float | None = knob(None, "decoupled from norms and biases, which never decay", low=0, high=10)
    schedule: str | None = knob(
        None, "shape of the learning rate over the run", choices=("cosine", "onecycle", "linear", "constant")
    )
    warmup_epochs: float | None = knob(None, "epochs over which the rate rises from almost nothing", low=0, high=10_000)
    clip_norm: float | None = knob(None, "largest norm of the whole gradient; 0 never clips", low=0, high=1e9)
    label_smoothing: float | None = knob(
        None, "share of the target spread over all classes (Inception v3, section 7)", low=0, high=0.9
    )
    aux_weight: float = knob(0.3, "weight of each auxiliary loss (GoogLeNet, section 5)", low=0, high=10)
    flip: bool | None = knob(None, "mirror half of the images; only where a mirrored image keeps its label")
    crop: str | None = knob(
        None, "shift: pad and crop; resized: crop a random part and resize", choices=("none", "shift", "resized")
    )
    crop_pad: int = knob(2, "most pixels by which `shift` moves an image", low=0, high=64)
    crop_scale: float = knob(0.35, "smallest share of the area that `resized` keeps", low=0.01, high=1)
    erase: float | None = knob(None, "probability of erasing a random rectangle", low=0, high=1)
    mixup: float = knob(0.0, "alpha of mixup's Beta distribution; 0 is off", low=0, high=100)
    cutmix: float = knob(0.0, "alpha of CutMix's Beta distribution; 0 is off", low=0, high=100)
    ema: float | None = knob(
        None, "decay per step of the averaged weights that are evaluated; 0 is off", low=0, high=0.999_999
    )
    init: str = knob(
        "auto", "where the weights start", choices=("auto", "paper", "pytorch", "kaiming", "xavier", "lsuv")
    )
    preflight: str = knob("stop", "what to do where the checks before training fail", choices=("stop", "warn", "off"))
    recoveries: int = knob(
        3,
        "most times that a blown-up run goes back to its last good step, kept in host memory, with a smaller rate",
        low=0,
        high=100,
    )
    precise_bn: bool = knob(True, "recompute batch norm's running statistics before each evaluation")
    precision: str | None = knob(
        None, "number format of the layers (weights stay fp32)", choices=("fp32", "bf16", "fp16")
    )
    channels_last: bool | None = knob(None, "memory layout NHWC, which convolutions like on most hardware")
    checkpointing: bool = knob(
        False, "activation checkpointing: recompute activations in the backward pass, for less memory and more time"
    )
    device: str | None = knob(None, "cpu, cuda, cuda:1, mps")
    workers: int | None = knob(None, "processes that decode images which do not fit in memory", low=0, high=1024)
    seed: int = knob(0, "fixes the split, the order, the augmentation and the starting weights", low=0, high=2**31 - 1)
    valid_share: float = knob(
        0.1, "share of the training images held out where there is no validation split", low=0.001, high=0.9
    )
    on_bad: str = knob("stop", "what to do about images that cannot be read", choices=("stop", "skip"))

    def __post_init__(self) -> None:
        for knob_field in dataclasses.fields(self):
            value = _checked(knob_field, getattr(self, knob_field.name))
            object.__setattr__(self, knob_field.name, value)

    def replace(self, **changes: Any) -> Recipe:
        """Return a recipe with some knobs changed; unknown names are refused."""
        refuse_unknown(changes)
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return the knobs by name, `None` where still undecided."""
        return dataclasses.asdict(self)


def refuse_unknown(names: Mapping[str, Any], where: str = "") -> None:
    """Raise `UsageError` for the first name that is no knob of a recipe."""
    known = [knob_field.name for knob_field in dataclasses.fields(Recipe)]
    for name in names:
        if name not in known:
            raise UsageError(
                f"unknown recipe key {printable(name)!r}{suggest(name, known)}",
                where,
                "see `conviction fit --help` for the keys",
            )


def parse_toml(text: str, where: str = "recipe") -> dict[str, Any]:
    """Parse TOML into knobs by name; the table `[run]`, which tells what a recipe was used for, is left aside."""
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a whole number of thousands of digits is a plain ValueError
        raise UsageError(f"not TOML: {printable(error)}", where, "write lines such as `lr = 0.05`") from error
    values.pop("run", None)
    refuse_unknown(values, where)
    return values


def read_knobs(path: Path) -> dict[str, Any]:
    """Read the knobs that a TOML file sets, by name."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:  # not there, not UTF-8, not a path
        raise UsageError("the recipe cannot be read", printable(path), "give a TOML file in UTF-8") from error
    return parse_toml(text, printable(path))


def read_recipe(path: Path) -> Recipe:
    """Read a recipe from a TOML file."""
    return Recipe(**read_knobs(path))


def format_toml(recipe: Recipe, run: Mapping[str, Any] | None = None) -> str:
    """Write a recipe as TOML, one knob a line with its reason; `run` becomes a table of its own at the end."""
    lines = []
    for knob_field in dataclasses.fields(recipe):
        value = getattr(recipe, knob_field.name)
        line = f"{knob_field.name} = {_toml(value)}" if value is not None else f"# {knob_field.name} = undecided"
        lines.append(f"{line:<32}# {knob_field.metadata['reason']}")
    if run:
        lines += ["", "[run]", *(f"{key} = {_toml(value)}" for key, value in run.items() if value is not None)]
    return "\n".join(lines) + "\n"


def parse_setting(setting: str) -> tuple[str, Any]:
    """Parse `key=value` of `--set`; the value is read as TOML, and as a plain word where it is none."""
    key, equals, value = setting.partition("=")
    key = key.strip().replace("-", "_")
    if not equals:
        raise UsageError(f"--set {printable(setting)!r} has no value", "", "write it as --set key=value")
    refuse_unknown({key: value}, "--set")
    with contextlib.suppress(ValueError, RecursionError):
        return key, tomllib.loads(f"value = {value}")["value"]
    with contextlib.suppress(ValueError):
        return key, float(value)  # people write .05, which TOML does not
    return key, value.strip()


def _checked(knob_field: dataclasses.Field[Any], value: Any) -> Any:
    """Return `value` in the type of its knob, or raise `UsageError` that names the key and what it takes."""
    annotation = str(knob_field.type)
    if value is None and annotation.endswith("| None"):
        return None
    kind = annotation.removesuffix(" | None")
    good = {
        "int": isinstance(value, int) and not isinstance(value, bool),
        "float": isinstance(value, (int, float)) and not isinstance(value, bool),
        "bool": isinstance(value, bool),
        "str": isinstance(value, str),
    }[kind]
    if not good:
        raise UsageError(
            f"{knob_field.name} = {printable(repr(value))} is not {_kind_in_words(kind)}",
            f"recipe key {knob_field.name}",
            _allowed(knob_field),
        )
    if kind in ("int", "float"):
        _check_bounds(knob_field, value)
    if knob_field.metadata["choices"] and value not in knob_field.metadata["choices"]:
        raise UsageError(
            f"{knob_field.name} = {printable(value)!r} is unknown{suggest(value, knob_field.metadata['choices'])}",
            f"recipe key {knob_field.name}",
            _allowed(knob_field),
        )
    return float(value) if kind == "float" else value


def _check_bounds(knob_field: dataclasses.Field[Any], value: float) -> None:
    low, high = knob_field.metadata["low"], knob_field.metadata["high"]
    # Bounds first: a whole number beyond every float is refused by them, and NaN passes them.
    if (low is not None and value < low) or (high is not None and value > high) or math.isnan(value):
        raise UsageError(
            f"{knob_field.name} = {value} is out of range", f"recipe key {knob_field.name}", _allowed(knob_field)
        )


def _allowed(knob_field: dataclasses.Field[Any]) -> str:
    data = knob_field.metadata
    if data["choices"]:
        return f"use one of {', '.join(data['choices'])}"
    if data["low"] is not None:
        return f"use a number from {data['low']:g} to {data['high']:g}"
    return f"use {_kind_in_words(str(knob_field.type).removesuffix(' | None'))}"


def _kind_in_words(kind: str) -> str:
    return {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a word in quotes"}[kind]


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    # File names that are not UTF-8 reach Python as surrogates, which no UTF-8 file may hold: they are spelled out.
    text = str(value).encode("utf-8", "backslashreplace").decode()
    escaped = "".join(
        f"\\u{ord(c):04x}" if ord(c) < 0x20 or ord(c) == 0x7F else c
        for c in text.replace("\\", "\\\\").replace('"', '\\"')
    )
    return f'"{escaped}"'
