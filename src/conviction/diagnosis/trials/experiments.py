"""Experiments: what a program is suspected of is tried on clones of its net, one factor at a time, on its own batches.

Which trials are made, and their numbers, depend on the observation, the net and the time that is granted, not on the
machine's speed: a trial that the clock cuts off is dropped whole.
"""

from __future__ import annotations

import contextlib
import math
import os
import statistics
import time
import warnings
from collections.abc import Generator, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from conviction.diagnosis.trials.answers import Batch, entropy, label_shares
from conviction.diagnosis.trials.changes import CHANGES
from conviction.diagnosis.trials.lone_trials import by_heart, probe_pixels, recompute_statistics
from conviction.diagnosis.trials.plain_images import are_of_another_kind, look_different
from conviction.diagnosis.trials.setups import OutOfTime, Setup, copy_net, cut, make_trial, mixed, seed_all
from conviction.diagnosis.trials.suspicions import Scene, general, learns, learns_little, suspect, trained_in_eval
from conviction.findings import trials
from conviction.findings.learning import read_learning
from conviction.findings.observation import Observation, OptimizerSeen, Trial
from conviction.randomness import random_state_kept

if TYPE_CHECKING:
    from conviction.diagnosis.trials.captured import Captured

_MOST_STEPS, _STEPS, _LEAST_STEPS, _LEAST_SAMPLES, _JUDGED_BATCHES = 60, 30, 20, 16, 6
# Every fourth batch, or sample of every batch, is kept for judging: labels can be learned by heart.
_HELD = 4
# Time is planned for so many trials, at a speed that any machine has: work is counted, not timed.
_PLANNED, _FLOPS = 4, {"cpu": 3e10}
_FLOPS_OTHERS = 1e12
_OVERHEAD_SECONDS = 0.004  # of a step, however small


def try_out(observation: Observation, captured: Captured | None, seconds: float = 15.0) -> Observation:
    """Return the observation with trials, made in at most about `seconds`; the likeliest suspects come first.

    A program that learns and arouses no suspicion gets none. Never raises: what cannot be cloned, run or differentiated
    was not tried. The program's net, gradients and random states stay as they are.
    """
    made: list[Trial] = []
    try:
        usable = [] if captured is None else _usable(captured)
        if captured is None or not usable:
            return observation
        deadline = time.monotonic() + seconds
        with _undisturbed(usable[0][0].device):
            for trial in _Bench(observation, captured, usable, seconds, deadline).trials():
                made.append(trial)
    except Exception:  # whatever a user's own parts raise
        return replace(observation, trials=(*observation.trials, *made))
    return replace(observation, trials=(*observation.trials, *made))


class _Bench:
    """The trials of one program."""

    def __init__(
        self, observation: Observation, captured: Captured, batches: list[Batch], seconds: float, deadline: float
    ) -> None:
        self.observation, self.captured, self.deadline = observation, captured, deadline
        self.net = max(observation.nets, key=lambda net: net.training_forwards, default=None)
        self.optimizer = max(
            observation.optimizers, key=lambda seen: seen.steps, default=OptimizerSeen(0, "SGD", (), 0)
        )
        self.lr = _rate(observation, self.optimizer)
        self.everything = batches
        self.steps, self.batches = _affordable(captured, batches, seconds)
        self.batches, judged = _hold_out(self.batches)
        dealt = mixed(judged) or judged
        self.judged = dealt[:: -(-len(dealt) // _JUDGED_BATCHES)]
        shares = label_shares(batches)
        self.entropy = None if shares is None else entropy(shares)

    def trials(self) -> Generator[Trial]:
        """Make one trial after another."""
        learning = learns(self.observation, self.entropy)
        suspected = suspect(self._scene(), learning and not read_learning(self.observation).poor)
        if learning and not suspected:
            return
        control = self._attempt(trials.AS_IT_IS, None)
        self.observation = replace(self.observation, trials=())
        yield from self._known(control)
        pixels = None
        if trials.NO_AUGMENTATION in suspected and not are_of_another_kind(self.everything, self._tests()):
            # Images that were moved or mirrored can be learned; if not, and test images can, the labels may be wrong.
            pixels = probe_pixels(self.everything)
            yield from self._known(pixels)
            if trials.labels_unrelated(self.observation):
                suspected = tuple(change for change in suspected if change != trials.NO_AUGMENTATION)
        for change in suspected:
            yield from self._try(change, control)
        if learning or (control is not None and trials.learned(control)):
            return
        if trials.cures(self.observation):
            return
        if pixels is None:
            yield from self._known(probe_pixels(self.everything))
        if trials.labels_unrelated(self.observation):
            yield from self._by_heart()
        for change in general(suspected):
            yield from self._try(change, control)
            if trials.cures(self.observation):
                return
        if trials.by_heart(self.observation) is None:
            yield from self._by_heart()

    def _try(self, change: str, control: Trial | None) -> Generator[Trial]:
        yield from self._known(self._statistics() if change == trials.STATISTICS else self._attempt(change, control))

    def _by_heart(self) -> Generator[Trial]:
        """Can one batch be learned by heart, and only with its inputs."""
        for name in (trials.BY_HEART, trials.BY_HEART_BLIND):
            yield from self._known(self._attempt(name, None))

    def _known(self, trial: Trial | None) -> Generator[Trial]:
        """Add what a trial has shown to what is known."""
        if trial is not None:
            self.observation = replace(self.observation, trials=(*self.observation.trials, trial))
            yield trial

    def _statistics(self) -> Trial | None:
        judged = self._tests() or self.judged
        try:
            return recompute_statistics(self.captured.net, self.batches, judged, self.captured.loss)
        except Exception:  # a net that cannot be copied, a loss that takes other targets
            return None

    def _tests(self) -> list[Batch]:
        return [(inputs, targets) for inputs, targets in self.captured.test_batches if targets is not None]

    def _attempt(self, change: str, control: Trial | None) -> Trial | None:
        """Train a clone with one change; None where there is nothing to change or it cannot be done."""
        try:
            seed_all(0)
            setup = self._control()
            if change in CHANGES:
                changed = CHANGES[change](setup, self.optimizer)
            elif change == trials.AS_IT_IS:
                changed = setup
            else:
                changed = by_heart(setup, blank=change == trials.BY_HEART_BLIND)
            if changed is None:
                return None
            trial = make_trial(changed, change, self.steps, self.deadline)
        except OutOfTime:
            return None
        except Exception:  # whatever a user's own net or loss raises
            return None
        return replace(trial, line=_tell(trial, control)) if trial.losses else None

    def _control(self) -> Setup:
        """Return the program in small, as it is."""
        net = copy_net(self.captured.start)
        return Setup(
            net, self.batches, self.judged, self.captured.loss,
            optimizer=self._make_optimizer, settings={} if self.lr is None else {"lr": self.lr},
            clip_norm=self.captured.clip_norm, autocast=self.captured.autocast,
            scaled=self.captured.scaled or self.observation.scaler, factor=_factor(self.observation),
            training=False if trained_in_eval(self.net) else None, tests=self._tests(),
        )  # fmt: skip

    def _make_optimizer(self, parameters: Iterable[nn.Parameter], settings: dict[str, Any]) -> torch.optim.Optimizer:
        """Make the program's optimizer; one that never stepped from what was seen of it, none as plain SGD."""
        if self.captured.optimizer is not None:
            return self.captured.optimizer(parameters, settings)
        seen = dict(self.optimizer.settings)
        kind = getattr(torch.optim, self.optimizer.kind, torch.optim.SGD)
        given: dict[str, Any] = {name: seen[name] for name in ("lr", "momentum", "eps", "weight_decay") if name in seen}
        if "beta1" in seen:
            given["betas"] = (seen["beta1"], seen.get("beta2", 0.999))
        if seen.get("maximize"):
            given["maximize"] = True
        return kind(parameters, **{**given, **settings})

    def _scene(self) -> Scene:
        floats = [inputs.float() for inputs, _ in self.batches if inputs.is_floating_point()]
        values = torch.cat([part.flatten() for part in floats]) if floats else None
        loss = max(self.observation.losses, key=lambda seen: seen.calls, default=None)
        tests = self._tests()
        return Scene(
            self.observation, self.net, self.optimizer, loss,
            None if values is None else float(values.std(correction=0)),
            None if values is None else float(values.mean()), self.lr,
            learns_little(self.observation, self.entropy)
            and (look_different(self.everything, tests) or are_of_another_kind(self.everything, tests)),
        )  # fmt: skip


def _usable(captured: Captured) -> list[Batch]:
    return [batch for batch in captured.batches if _answered(batch) and len(batch[0])]


def _answered(batch: tuple[object, object]) -> bool:
    inputs, targets = batch
    return isinstance(inputs, torch.Tensor) and isinstance(targets, torch.Tensor) and inputs.ndim > 0


def _affordable(captured: Captured, batches: list[Batch], seconds: float) -> tuple[int, list[Batch]]:
    """Return how many steps a trial makes and its batches, cut where the whole would take too long.

    The batch size is kept where that is possible: the learning rate is worth what it is with it.
    """
    largest = max(len(inputs) for inputs, _ in batches)
    room = seconds / _PLANNED
    a_sample = 3 * _work(captured, batches[0][0]) / _FLOPS.get(batches[0][0].device.type, _FLOPS_OTHERS)
    for samples in (largest, *(size for size in (64, 32, _LEAST_SAMPLES) if size < largest)):
        steps = int(room / (_OVERHEAD_SECONDS + samples * a_sample))
        if steps >= _STEPS or samples <= _LEAST_SAMPLES:
            return max(_LEAST_STEPS, min(_MOST_STEPS, steps)), cut(batches, samples)
    return _LEAST_STEPS, batches


def _hold_out(batches: list[Batch]) -> tuple[list[Batch], list[Batch]]:
    """Return batches to train on and others to judge by; samples of each where batches are few or sorted by class."""
    shares = label_shares(batches)
    inside = [part for batch in batches if (part := label_shares([batch])) is not None]
    alike = shares is None or statistics.fmean(map(entropy, inside)) > 0.7 * entropy(shares)
    if len(batches) >= _HELD and alike:
        return [batch for number, batch in enumerate(batches, 1) if number % _HELD], batches[_HELD - 1 :: _HELD]
    if any(len(inputs) < 2 * _HELD or len(inputs) != len(targets) for inputs, targets in batches):
        return batches, batches
    out = [torch.arange(len(inputs), device=inputs.device) % _HELD == _HELD - 1 for inputs, _ in batches]
    kept = [(inputs[~held], targets[~held]) for (inputs, targets), held in zip(batches, out, strict=True)]
    return kept, [(inputs[held], targets[held]) for (inputs, targets), held in zip(batches, out, strict=True)]


def _work(captured: Captured, inputs: torch.Tensor) -> float:
    """Count the operations of one sample's way forward; 0 where that cannot be known."""
    try:
        net = copy_net(captured.start).eval()
        few = inputs[:2]
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            net(few)
        return counter.get_total_flops() / len(few)
    except Exception:  # a net that cannot be copied or does not run: the trials will find that out
        return 0.0


def _rate(observation: Observation, optimizer: OptimizerSeen) -> float | None:
    """Return the rate that the program steps with: in the middle of what a schedule made of it.

    Of updates written by hand it is read off the weights: how far they moved for their gradient.
    """
    if observation.optimizers:
        seen = [step.lr for step in observation.measured if step.optimizer == optimizer.number]
        return statistics.median(seen) if seen else optimizer.setting("lr")
    moved = [step.update_ratio * step.weight_norm / step.gradient_norm for step in observation.measured
             if step.update_ratio and step.weight_norm and step.gradient_norm]  # fmt: skip
    return float(f"{statistics.median(moved):.1g}") if moved else None


def _factor(observation: Observation) -> float:
    """Return what the program multiplies its loss by before it goes backward; of accumulated parts only the sign."""
    ratios = [step.loss / step.told for step in observation.measured if step.loss and step.told]
    ratios = [ratio for ratio in ratios if math.isfinite(ratio)]
    if not ratios:
        return 1.0
    middle = statistics.median(ratios)
    steady = all(math.isclose(ratio, middle, rel_tol=1e-3) for ratio in ratios)
    alone = observation.backwards < 1.5 * observation.steps
    return middle if steady and alone else math.copysign(1.0, middle)


def _tell(trial: Trial, control: Trial | None) -> str:
    """Put a trial into words, beside the control."""
    line = f"{trial.line}: {_course(trial)} in {len(trial.losses)} steps"
    return line if control is None else f"{line}; as it is {_course(control)}"


def _course(trial: Trial) -> str:
    """Return the losses at the start and at the end, and the answers where there are any."""
    end = trials.settled(trial) if not trials.broke(trial) else math.nan
    answers = "" if trial.accuracy is None else f" ({trial.accuracy:.0%} correct)"
    return f"loss {trial.losses[0]:.3g} -> {end:.3g}{answers}"


@contextlib.contextmanager
def _undisturbed(device: torch.device) -> Generator[None]:
    """Keep random states and modes of autograd; what a net prints or warns of in a trial is not shown."""
    with (
        random_state_kept(device), torch.inference_mode(False), torch.enable_grad(), warnings.catch_warnings(),
        Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere),
    ):  # fmt: skip
        warnings.simplefilter("ignore")
        yield
