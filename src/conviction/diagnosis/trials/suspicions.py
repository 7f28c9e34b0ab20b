"""Suspicions: which experiments a program's observation calls for, the likeliest first. Cheap rules, no tensors."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from conviction.diagnosis.trials.changes import usual_lr
from conviction.findings import trials
from conviction.findings.observation import LossSeen, NetSeen, Observation, OptimizerSeen

# A program that learns loses the first share of the loss of a net that never looks, one that learns well keeps less
# than the second.
_LEARNED, _WELL = 0.1, 0.6
# Of what makes the logits: what belongs there only where the loss takes it.
_ENDS = {"softmax", "relu", "sigmoid", "hardsigmoid", "hardtanh", "tanh", "dropout", "nativedropout", "threshold"}
_CLASS_LOSSES = {"cross_entropy", "nll_loss"}
# Without a suspicion of its own a program that does not learn gets these.
_GENERAL = (trials.USUAL_LR, trials.NEW_INIT, trials.NEW_INIT_AND_LR, trials.RELU, trials.STANDARDISED,
            trials.HIGHER_LR, trials.LOWER_LR, trials.NO_DECAY, trials.USUAL_SETTINGS)  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """What the rules look at, gathered once. The inputs' figures are of the captured batches."""

    observation: Observation
    net: NetSeen | None
    optimizer: OptimizerSeen
    loss: LossSeen | None
    inputs_std: float | None
    inputs_mean: float | None
    lr: float | None
    tests_differ: bool = False  # little is learned, and test images of the same classes look different

    @property
    def update_ratio(self) -> float | None:
        """Median over the measured steps of update over weight."""
        return _median([step.update_ratio for step in self.observation.measured])


def suspect(scene: Scene, learns: bool | None) -> tuple[str, ...]:
    """Return the changes that something speaks for, in the order of questioning."""
    asked = (
        (trials.UNFROZEN, _frozen(scene) and (not learns or _told(scene, "parameters-frozen"))),
        (trials.TRAIN_MODE, trained_in_eval(scene.net)),
        (trials.STATISTICS, _modes_differ(scene.observation)),
        (trials.SHUFFLED, _sorted(scene.observation)),
        (trials.STANDARDISED, _unscaled(scene)),
        (trials.NO_AUGMENTATION, scene.tests_differ),
        (trials.CROSS_ENTROPY, _odd_loss(scene)),
        (trials.SIGN_TURNED, _rises(scene)),
        (trials.NO_CLIPPING, _clipped(scene.observation) and not learns),
        (trials.FULL_PRECISION, "16" in scene.observation.autocast and not learns),
        (trials.NEW_INIT, _bad_start(scene.observation) and not learns),
        (trials.RELU, _flat_slopes(scene.observation) and not learns),
        (trials.USUAL_SETTINGS, _odd_settings(scene.optimizer)),
        (trials.NO_DROPOUT, scene.net is not None and keeps(scene.net) < 0.3),
        (trials.NO_DECAY, _decays(scene) and not learns),
        (trials.USUAL_LR, (_lr_high(scene) or _lr_low(scene)) and not learns),
        (trials.LOWER_LR, _lr_high(scene) and (not learns or _steady(scene))),
        (trials.HIGHER_LR, _lr_low(scene) and not learns),
    )
    return tuple(change for change, speaks in asked if speaks)


def learns_little(observation: Observation, blind_loss: float | None) -> bool:
    """Whether most of what there is to learn is not learned by the end."""
    losses = _losses(observation)
    few = max(2, len(losses) // 4)
    return bool(losses) and blind_loss is not None and not statistics.fmean(losses[-few:]) < _WELL * blind_loss


def general(suspected: tuple[str, ...]) -> tuple[str, ...]:
    """Return what else to try on a program that does not learn."""
    return tuple(change for change in _GENERAL if change not in suspected)


def learns(observation: Observation, blind_loss: float | None) -> bool | None:
    """Whether the measured steps show that the program learns; None where there are too few of them.

    `blind_loss` is the loss of a net that never looks, where it is known.
    """
    losses = _losses(observation)
    if any(not math.isfinite(loss) for loss in losses):
        return False
    if len(losses) < 8:
        return None
    few = max(2, len(losses) // 4)
    end, start = statistics.fmean(losses[-few:]), statistics.fmean(losses[:2])
    level = start if blind_loss is None or not math.isfinite(blind_loss) else min(start, blind_loss)
    error = statistics.stdev(losses[-few:]) / math.sqrt(few)
    return end < level - max(_LEARNED * abs(level), 2 * error)


def keeps(net: NetSeen) -> float:
    """Return the least share that any dropout keeps, or that of all of them on maps together."""
    shares = [1 - p for _, p, _ in net.dropouts]
    together = math.prod(1 - p for _, p, on_maps in net.dropouts if on_maps)
    return min([1.0, together, *shares])


def trained_in_eval(net: NetSeen | None) -> bool:
    """Whether most training forwards ran in eval mode."""
    return net is not None and 2 * net.training_forwards_in_eval > net.training_forwards > 0


def _losses(observation: Observation) -> list[float]:
    """Return the losses of the measured steps: what the loss function said, else what went backward."""
    told = (step.loss if step.told is None else step.told for step in observation.measured)
    return [loss for loss in told if loss is not None]


def _frozen(scene: Scene) -> bool:
    net = scene.net
    return net is not None and not net.pretrained and net.params > 0 and net.trainable < 0.5 * net.params


def _modes_differ(observation: Observation) -> bool:
    gap = observation.mode_gap
    return gap is not None and (gap.eval_loss > 1.3 * gap.train_loss + 0.05 or not math.isfinite(gap.eval_loss))


def _sorted(observation: Observation) -> bool:
    for loader in observation.loaders:
        if loader.trains and loader.entropy is not None and loader.entropy_all:
            return loader.entropy < 0.7 * loader.entropy_all
        if loader.trains and loader.shuffled is False and (loader.runs or 0.0) > 2:
            return True
    return False


def _unscaled(scene: Scene) -> bool:
    std, mean = scene.inputs_std, scene.inputs_mean
    if std is None or mean is None:
        return False
    return not 0.05 <= std <= 5 or abs(mean) > 5 * std


def _odd_loss(scene: Scene) -> bool:
    """Whether something stands between the net and the usual loss on class numbers, or another loss is used."""
    loss = scene.loss
    if loss is None:
        return False
    if loss.kind not in _CLASS_LOSSES:
        return loss.target_distinct is not None and loss.target_distinct <= 1000
    if loss.reduction == "sum" or (loss.kind == "nll_loss" and (loss.highest or 0.0) > 1e-3):
        return True
    seen = scene.observation.evidence.probe if scene.observation.evidence else None
    ends = {loss.made_by, seen.made_by if seen else ""}
    if loss.kind == "cross_entropy" and loss.lowest is not None and loss.lowest >= 0 and scene.observation.steps > 1:
        return True  # a ReLU before an average pool leaves this trace only
    return loss.rows_sum_to_one or bool(ends & _ENDS)


def _rises(scene: Scene) -> bool:
    if scene.optimizer.setting("maximize"):
        return True
    losses = _losses(scene.observation)
    turned = any(step.told and step.loss and step.told * step.loss < 0 for step in scene.observation.measured)
    if turned or any(not math.isfinite(loss) for loss in losses):
        return turned
    few = len(losses) // 4
    return few >= 2 and statistics.fmean(losses[-few:]) > 1.2 * abs(statistics.fmean(losses[:few]))


def _clipped(observation: Observation) -> bool:
    shares = [step.clip_norm / step.clip_found for step in observation.measured if step.clip_norm and step.clip_found]
    return bool(shares) and statistics.median(shares) < 0.1


def _bad_start(observation: Observation) -> bool:
    seen = observation.evidence.probe if observation.evidence else None
    if seen is None or any(net.pretrained for net in observation.nets):
        return False
    blind = observation.evidence.expected_loss if observation.evidence else math.inf
    faint = seen.input_dependence is None or seen.input_dependence < 0.1
    tiny = any(not 1e-3 < signal.rms < 1e3 for signal in seen.signals[:-1])
    alike = any(signal.alike for signal in seen.signals[:-1])
    return faint or tiny or alike or not seen.cross_entropy < 2 * blind


def _flat_slopes(observation: Observation) -> bool:
    seen = observation.evidence.probe if observation.evidence else None
    return seen is not None and sum(signal.slope is not None for signal in seen.signals) > 1


def _odd_settings(optimizer: OptimizerSeen) -> bool:
    settings = dict(optimizer.settings)
    eps = settings.get("eps", 1e-8)
    return (
        not 0 <= settings.get("momentum", 0.0) < 0.985
        or not 0.5 <= settings.get("beta1", 0.9) < 0.985
        or not 0.8 <= settings.get("beta2", 0.999) < 0.99999
        or not 1e-13 < eps < 1e-3
    )


def _decays(scene: Scene) -> bool:
    decay, norms = scene.optimizer.setting("weight_decay") or 0.0, []
    norms = [norm for step in scene.observation.measured if (norm := step.weight_norm)]
    return decay > 5e-3 or (decay > 0 and len(norms) > 3 and norms[-1] < 0.5 * norms[0])


def _steady(scene: Scene) -> bool:
    """Whether no schedule changes the rate."""
    return len({step.lr for step in scene.observation.measured}) == 1


def _told(scene: Scene, kind: str) -> bool:
    return any(note.kind == kind for note in scene.observation.notes)


def _lr_high(scene: Scene) -> bool:
    ratio = scene.update_ratio
    return (scene.lr is not None and scene.lr > 10 * usual_lr(scene.optimizer)) or (ratio is not None and ratio > 0.05)


def _lr_low(scene: Scene) -> bool:
    ratio = scene.update_ratio
    low = scene.lr is not None and scene.lr < 0.05 * usual_lr(scene.optimizer)
    return low or (ratio is not None and ratio < 1e-4)


def _median(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return statistics.median(known) if known else None
