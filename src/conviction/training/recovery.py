"""Recovery: a training that blows up goes back to its last good step and on with a smaller rate, a few times at most.

The guard is a reader of the loop like any other: it looks at each step that it is handed, keeps a copy of the last good
state, and puts the training back to it between two steps. The schedule goes on and so do the batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from conviction.errors import DivergedError
from conviction.randomness import random_state_kept
from conviction.training.checkpoint import collect_state, load_kept, restore_state
from conviction.training.loop import Batches, Step, Training
from conviction.training.verdicts import Course, Verdict, has_begun

# Steps between two copies of the state within an epoch, and until the next try where the state was not good enough.
COPY_EVERY, TRY_EVERY = 100, 10
# To read a loss on an accelerator is to wait for it.
_READ_EVERY = 16
# In a batch of so many shuffled images there is more than one class.
_ENOUGH_IMAGES = 8
# Logits whose largest difference between images is a smaller share of them are the same but for rounding.
_SAME = 1e-5
# What is left of the rate at which a training broke.
_SMALLER = 1 / 3


@dataclass(frozen=True)
class Recovery:
    """One blow-up and what was done about it.

    `step` (from 0) of `epoch` (from 1) is where it was seen, `lr` the largest rate since the last good step, and
    `cause` a code of the findings. The training went back to the state after step `back_to` (-1 is the start) and on
    with `rate_factor` times the schedule; where `back_to` is None it was only noted.
    """

    step: int
    epoch: int
    cause: str
    seen: str
    expected: str
    lr: float
    rate_factor: float
    back_to: int | None

    def __str__(self) -> str:
        told = f"step {self.step}, epoch {self.epoch}: {self.seen} ({self.cause}, lr {self.lr:.3g})"
        if self.back_to is None:
            return f"{told}; noted only, as recoveries are off"
        back = "the start" if self.back_to < 0 else f"step {self.back_to}"
        return f"{told}; back to {back}, and on with {self.rate_factor:.3g} of the rate"

    def to_finding(self, *, held: bool) -> dict[str, Any]:
        """Return the finding that a report shows. `held` tells that the training never broke again."""
        experiment = None
        if self.back_to is not None and held:
            experiment = f"with {self.rate_factor:.3g} of the rate the training went on and did not break again"
        return {
            "cause": self.cause, "where": {"file": None, "line": None, "layer": None},
            "seen": f"{self.seen} at step {self.step}, lr {self.lr:.3g}", "expected": self.expected,
            "try": _remedy(self.cause, self.lr), "confidence": 0.9 if experiment else 0.7, "experiment": experiment,
        }  # fmt: skip


class Copy:
    """A state of a training and the course it had come, held in ordinary memory; the room is used again by the next."""

    def __init__(self) -> None:
        self.step = -1
        self.tensors: dict[str, Tensor] = {}
        self.facts: dict[str, Any] = {}

    @torch.no_grad()
    def take(self, training: Training, course: Course, step: int) -> None:
        """Copy the state after step `step`."""
        tensors, facts = collect_state(training)
        self.step, self.facts = step, {**facts, "course": course.to_dict()}
        if self.tensors.keys() != tensors.keys():
            self.tensors = {name: torch.empty_like(tensor, device="cpu") for name, tensor in tensors.items()}
        for name, tensor in tensors.items():
            self.tensors[name].copy_(tensor)

    def put_back(self, training: Training) -> Course:
        """Put the training back to this state, all but its rate factor; returns the course it had come."""
        restore_state(training, self.tensors, self.facts, Path())
        return Course(**self.facts["course"])


class Guard:
    """Watches a training and recovers it, at most `recipe.recoveries` times; `where` is named by its errors.

    With `recoveries` of 0 it stops at a loss that is not finite, only notes all else, and keeps no copy. Else the copy
    of weights, optimizer state and average stays in the host's memory, and is made anew at most once an epoch and every
    `COPY_EVERY` steps: with AdamW 12 bytes a parameter, 1.7 GB for VGG-16, and 4 more with an average.

    `for step in training.run(guard.feeding(batches)): guard.check(step)`, before anything else reads the step.
    """

    def __init__(self, training: Training, where: str = "", read_every: int | None = None) -> None:
        self.training, self.where, self.most = training, where, training.recipe.recoveries
        self.read_every = read_every or (1 if training.device.type == "cpu" else _READ_EVERY)
        self.course, self.good = Course(), Copy()
        self.recoveries: list[Recovery] = []
        self._fresh = True  # the state at the next epoch's start is good
        self._unread: list[Tensor] = []
        self._batch: tuple[Tensor, Tensor] | None = None

    def feeding(self, batches: Batches) -> Batches:
        """Return `batches` as the training is to be fed with them."""

        def fed(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
            if self._fresh and self.most:
                self.good.take(self.training, self.course, epoch * self.training.steps_per_epoch - 1)
            for images, targets in batches(epoch):
                self._batch = images, targets
                yield images, targets

        return fed

    def check(self, step: Step) -> Recovery | None:
        """Look at a step; returns what was done where it went wrong.

        Raises `DivergedError` where nothing is left to try.
        """
        self._unread.append(step.loss)
        due = step.index - self.good.step >= COPY_EVERY and (step.in_epoch + 1) % TRY_EVERY == 0
        copies = self.most > 0 and (step.ends_epoch or due)
        if not copies and not step.ends_epoch and step.in_epoch % self.read_every:
            return None
        verdict = self._look()
        if verdict is not None:
            recovery = self._recover(step, verdict)
            if step.ends_epoch:  # the good state is back, unless nothing was done
                self._fresh = not self.most or recovery is not None
            return recovery
        good = copies and self._proved()
        if step.ends_epoch:
            self._fresh = good or not self.most  # copied when the next epoch begins, as a resumed run does
        elif good:
            self.good.take(self.training, self.course, step.index)
        return None

    def to_dict(self) -> dict[str, Any]:
        """Return at an epoch's end what a resumed run has to know, beside `kept`."""
        good = None if self._fresh else {"step": self.good.step, "facts": self.good.facts}
        recoveries = [asdict(recovery) for recovery in self.recoveries]
        return {"course": self.course.to_dict(), "recoveries": recoveries, "good": good}

    @property
    def kept(self) -> dict[str, Tensor]:
        """The last good state, where that is not the training's own."""
        return {} if self._fresh else self.good.tensors

    def go_on(self, told: dict[str, Any] | None, checkpoint: Path) -> None:
        """Take up what `to_dict` told, and `kept` from the checkpoint; of older checkpoints there is nothing."""
        if told is None:
            return
        self.course = Course(**told["course"])
        self.recoveries = [Recovery(**recovery) for recovery in told["recoveries"]]
        if told["good"] is not None:
            self._fresh, self.good.tensors = False, load_kept(checkpoint)
            self.good.step, self.good.facts = told["good"]["step"], told["good"]["facts"]

    def counting(self, steps: list[Step]) -> list[Step]:
        """Return those of `steps` that were not taken back, or all where none is left."""
        undone = [range(each.back_to + 1, each.step + 1) for each in self.recoveries if each.back_to is not None]
        return [step for step in steps if not any(step.index in those for those in undone)] or steps

    def findings(self) -> list[dict[str, Any]]:
        """Return the blow-ups as a report shows them."""
        return [recovery.to_finding(held=recovery is self.recoveries[-1]) for recovery in self.recoveries]

    def _look(self) -> Verdict | None:
        """Read the losses since the last look; the first that went wrong counts."""
        losses = torch.stack(self._unread).tolist()
        self._unread.clear()
        alive = self._answers_images(losses[-1])
        for number, loss in enumerate(losses, 1):
            seen = alive if number == len(losses) else None
            verdict = self.course.look(loss, seen, self._guessing)
            if verdict is not None:
                return verdict
        return None

    @property
    def _guessing(self) -> float:
        assert self.training.guessing_loss is not None, "the guard looks after a step"
        return self.training.guessing_loss

    def _answers_images(self, loss: float) -> bool | None:
        """Whether the logits depend on the images; None where one batch cannot tell, or its loss is answer enough.

        In front of a layer that is dead no weight has a gradient; but nor has one in a branch that is gated off or
        pruned, and behind a dead layer biases keep gradients alive. So the gradient of the first weights only asks the
        question.
        """
        weights = (parameter.grad for parameter in self.training.net.parameters() if parameter.ndim > 1)
        first = next((gradient for gradient in weights if gradient is not None), None)
        if first is None or bool(first.any()):
            return True
        if has_begun(loss, self._guessing) or self._batch is None or len(self._batch[0]) < 2:
            return None
        outputs, _ = self._try(training=False)  # dropout would tell constants apart
        logits = outputs[0] if isinstance(outputs, tuple) else outputs
        return not bool((logits - logits[:1]).abs().max() <= _SAME * logits.abs().max())

    def _proved(self) -> bool:
        """Whether the net is well after its last update: it answers the last batch as it answered those before it."""
        if not self.course.calm(self._guessing):
            return False
        return float(self._try(training=True)[1]) < self.course.high(self._guessing)  # which NaN is not

    @torch.no_grad()
    def _try(self, *, training: bool) -> tuple[Any, Tensor]:
        """Return the outputs for the last batch, and their loss, in train or eval mode; nothing is changed."""
        assert self._batch is not None
        net = self.training.net.train(training)
        before = [buffer.clone() for buffer in net.buffers()]
        with random_state_kept(self.training.device):
            answer = self.training.answer(*self._batch)
        for buffer, was in zip(net.buffers(), before, strict=True):
            buffer.copy_(was)
        net.train()  # as the loop does
        return answer

    def _recover(self, step: Step, verdict: Verdict) -> Recovery | None:
        """Go back to the last good state with a smaller rate, or give up."""
        assert self._batch is not None
        training, cause, (images, targets) = self.training, verdict.cause, self._batch
        self.course.begin_again()  # the last losses are no longer those of the net
        if cause == "lr-too-high" and _of_one_class(targets):
            return None  # sorted data: each class is hard when it comes up, at any rate
        # On an accelerator the batch may be some steps back, and a recovery with a smaller rate does no harm.
        broken_batch = cause == "non-finite" and not bool(images.isfinite().all())
        seen = f"{verdict.seen}: its images are not finite" if broken_batch else verdict.seen
        broke = self._largest_rate(step, verdict.ago)
        told = (step.index, step.epoch + 1, cause, seen, verdict.expected, broke)
        if not self.most and cause != "non-finite":
            if any(each.cause == cause for each in self.recoveries):
                return None
            self.recoveries.append(Recovery(*told, training.rate_factor, None))
            return self.recoveries[-1]
        hopeless = not broken_batch and (self.course.first is None or (cause == "dead-relu" and not self.course.lived))
        if hopeless or len(self.recoveries) >= self.most:
            raise self._given_up(step, seen, cause, broke, hopeless)
        if not broken_batch:  # which no rate would have survived
            training.rate_factor *= self._smaller(step, broke)
        self.course = self.course.back_at(self.good.put_back(training))
        self.recoveries.append(Recovery(*told, training.rate_factor, self.good.step))
        return self.recoveries[-1]

    def _largest_rate(self, step: Step, ago: int) -> float:
        """Return the largest rate between the last good state, or the last recovery, and `ago` steps before `step`."""
        since = max([self.good.step, *(recovery.step for recovery in self.recoveries)])
        until = max(step.index - ago, since + 1)
        return max(self.training.rate_at(index) for index in range(since + 1, until + 1))

    def _smaller(self, step: Step, broke: float) -> float:
        """Return by what to scale the rates: the rest of the run stays below a third of the rate that broke it."""
        ahead = (self.training.rate_at(index) for index in range(step.index + 1, self.training.steps))
        return _SMALLER * min(1.0, broke / max(max(ahead, default=broke), 1e-300))

    def _given_up(self, step: Step, seen: str, cause: str, broke: float, hopeless: bool) -> DivergedError:
        count = sum(recovery.back_to is not None for recovery in self.recoveries)
        after = f" after {count} {'recovery' if count == 1 else 'recoveries'}" if count else ""
        what = f"{seen} at step {step.index}, lr {broke:.3g}{after} ({cause})"
        return DivergedError(what, self.where, _remedy("start" if hopeless else cause, broke))


def _of_one_class(targets: Tensor) -> bool:
    return len(targets) >= _ENOUGH_IMAGES and bool((targets == targets[0]).all())


def _remedy(cause: str, lr: float) -> str:
    remedies = {
        "non-finite": f"lower --lr below {lr * _SMALLER:.2g}, or set clip_norm; look for images that are not finite",
        "lr-too-high": f"lower --lr below {lr * _SMALLER:.2g}, or set clip_norm",
        "dead-relu": f"lower --lr below {lr * _SMALLER:.2g}; what is dead does not come back",
        "start": "it was so from the first step: choose another init, and check the images",
    }
    return remedies[cause]
