"""Plan: what a run will cost, with every figure under the name that its JSON has."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from conviction.planning.remedies import Remedy
from conviction.planning.smallest import Smallest
from conviction.planning.step_trace import Setting
from conviction.planning.timeline import Moment
from conviction.planning.verdicts import Range

CHECKED = "not yet checked on a GPU"


@dataclass(frozen=True)
class LayerCost:
    """One running of a layer: `macs` forward for one image; the other figures for one training step, whole batch.

    `flops` of the forward and the backward (two a multiply-accumulate), `saved_bytes` for the backward, `moved_bytes`
    read and written by its operations in all phases. A layer that runs twice has both figures where it ran first.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    params: int
    macs: int
    flops: int
    saved_bytes: int
    moved_bytes: int

    @property
    def arithmetic_intensity(self) -> float:
        """FLOP a byte moved."""
        return self.flops / self.moved_bytes if self.moved_bytes else 0.0


@dataclass(frozen=True)
class Verdict:
    """What a plan says about a device.

    `fits` is `yes` (also by the high figures), `likely` (by the expected ones) or `no`; `largest_batch` fits by the
    expected figures, `safe_batch` by the high ones. `outside_bytes` is what a process takes beside its tensors.
    """

    key: str
    name: str
    memory_bytes: int
    fits: str
    largest_batch: int
    safe_batch: int
    outside_bytes: Range
    advice: tuple[Remedy, ...] = ()
    peak_flop_per_second: float | None = None
    bandwidth_bytes_per_second: float | None = None


@dataclass(frozen=True)
class Time:
    """Seconds of a training step and of an epoch (training and one evaluation), None where nothing is known.

    `how` is `calibrated` (measured here) or `extrapolated` (reckoned from datasheets, not measured). `epoch_steps` is
    how many training steps take as long as an epoch, its evaluation included; known wherever the data are.
    """

    step: tuple[float, float, float] | None = None
    epoch: tuple[float, float, float] | None = None
    how: str = ""
    epoch_steps: float | None = None


@dataclass(frozen=True)
class Plan:
    """What training and predicting with a net will cost; nothing has run yet.

    `params` and `macs` are of one image, forward. `saved_bytes`, `bytes_moved` and `arithmetic_intensity` are of one
    training step of `batch_size` images. `train_peak_bytes` is the most that the allocator gives out, workspaces
    included, `train_reserved_bytes` the most that it takes from the device (expected). `peak` is the steady step's
    fullest moment by kind of memory, `timeline` all its moments.
    """

    net: str
    image: tuple[int, int, int]
    num_classes: int
    batch_size: int
    setting: Setting
    params: int
    macs: int
    weights_bytes: int
    saved_bytes: int
    train_peak_bytes: Range
    train_reserved_bytes: int
    predict_peak_bytes: int
    bytes_moved: int
    predict_bytes_moved: int
    arithmetic_intensity: float
    device: Verdict
    layers: tuple[LayerCost, ...]
    peak: Moment
    timeline: tuple[Moment, ...] = field(repr=False)
    min_image: Smallest | None = None
    time: Time = Time()
    notes: tuple[str, ...] = ()

    @property
    def optimizer(self) -> str:
        """The optimizer's name."""
        return self.setting.optimizer

    @property
    def precision(self) -> str:
        """The number format of the layers."""
        return self.setting.precision

    @property
    def largest_allocation_bytes(self) -> int:
        """The largest single tensor that the steady step makes, by what its moments grow."""
        totals = [moment.total_bytes for moment in self.timeline]
        return max((after - before for before, after in pairwise(totals)), default=0)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan's fields as JSON has them."""
        smallest, step, epoch = self.min_image, self.time.step, self.time.epoch
        return {
            "net": self.net, "image": list(self.image), "num_classes": self.num_classes,
            "batch_size": self.batch_size, "optimizer": self.optimizer, "precision": self.precision,
            "channels_last": self.setting.channels_last, "micro_batch": self.batch_size // self.setting.parts,
            "checkpointing": self.setting.checkpointing, "params": self.params, "macs": self.macs,
            "weights_bytes": self.weights_bytes, "saved_bytes": self.saved_bytes,
            "train_peak_bytes": self.train_peak_bytes._asdict(), "train_reserved_bytes": self.train_reserved_bytes,
            "predict_peak_bytes": self.predict_peak_bytes, "bytes_moved": self.bytes_moved,
            "predict_bytes_moved": self.predict_bytes_moved,
            "arithmetic_intensity": round(self.arithmetic_intensity, 3), "peak_by_kind": self.peak.bytes,
            "min_image": None if smallest is None else
                {"eval": smallest.eval, "train": smallest.train, "fails_at": smallest.fails_at},
            "device": self._device(), "seconds_per_step": step and step[1], "seconds_per_epoch": epoch and epoch[1],
            "time": {"step": step, "epoch": epoch, "how": self.time.how},
            "layers": [self._layer(layer) for layer in self.layers], "notes": list(self.notes),
        }  # fmt: skip

    def _device(self) -> dict[str, Any]:
        device = self.device
        return {
            "name": device.name, "memory_bytes": device.memory_bytes, "fits": device.fits,
            "largest_batch": device.largest_batch, "safe_batch": device.safe_batch,
            "outside_bytes": device.outside_bytes._asdict(), "checked": CHECKED,
            "advice": [
                {"change": each.change, "fits": each.fits, "train_reserved_bytes": each.peak_bytes,
                 "saves_bytes": each.saves_bytes, "costs": each.costs, "why": each.why}
                for each in device.advice
            ],
        }  # fmt: skip

    @staticmethod
    def _layer(layer: LayerCost) -> dict[str, Any]:
        return {
            "name": layer.name, "kind": layer.kind, "output_shape": list(layer.output_shape), "params": layer.params,
            "macs": layer.macs, "flops": layer.flops, "saved_bytes": layer.saved_bytes,
            "moved_bytes": layer.moved_bytes, "arithmetic_intensity": round(layer.arithmetic_intensity, 3),
        }  # fmt: skip

    def __str__(self) -> str:
        from conviction.planning.words import describe  # it describes this record

        return describe(self)
