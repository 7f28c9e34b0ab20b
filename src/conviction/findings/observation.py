"""Observation: what a training program was seen to do, as plain values; what was not seen is None or empty.

Written by the observer (`diagnosis/`), read by the checks. Nothing here refers to a live tensor or module. Counts are
of the time under observation; `nets` and `optimizers` are in the order in which they were made or first seen.
"""

from __future__ import annotations

from dataclasses import dataclass

from conviction.findings.evidence import Evidence


@dataclass(frozen=True)
class Place:
    """A line of the user's program (a notebook's are counted as in its exported script)."""

    file: str
    line: int


@dataclass(frozen=True)
class NetSeen:
    """A net: the outermost module of a forward pass, or one whose parameters an optimizer was given.

    `owned` counts the trainable parameters (numbers, not tensors) that some optimizer has, `graded` those that a
    backward pass reached, `moved` those that a step changed. A forward counts as training when gradients were enabled
    and a backward followed; as testing when gradients were off or no backward followed.
    """

    number: int
    kind: str
    params: int
    trainable: int
    owned: int = 0
    graded: int = 0
    moved: int = 0
    names: tuple[str, ...] = ()  # variables of the program that hold it, as far as is known
    made_at: Place | None = None
    forward_at: Place | None = None
    training_forwards: int = 0
    training_forwards_in_eval: int = 0
    testing_forwards: int = 0
    testing_forwards_in_train: int = 0
    test_at: Place | None = None
    has_batch_norm: bool = False
    has_dropout: bool = False
    dropouts: tuple[tuple[str, float, bool], ...] = ()  # layer, p, whether on maps (2d or after a convolution)
    pretrained: bool = False  # weights were loaded by load_state_dict
    smallest_statistics: int | None = None  # least N x H x W that a batch norm in training mode averaged over


@dataclass(frozen=True)
class OptimizerSeen:
    """An optimizer and its settings at its first step (else when made); `nets` are those it has parameters of.

    `carried` counts the steps before which gradients of the step before were still there, to be added to. `alike` is
    the share of its weight matrices that held one and the same number at its first step.
    """

    number: int
    kind: str
    settings: tuple[tuple[str, float], ...]  # lr, momentum, beta1, beta2, eps, weight_decay, maximize
    params: int
    nets: tuple[int, ...] = ()
    steps: int = 0
    zero_grads: int = 0
    carried: int = 0
    made_at: Place | None = None
    step_at: Place | None = None
    alike: float | None = None

    def setting(self, name: str) -> float | None:
        """Return one setting."""
        return dict(self.settings).get(name)


@dataclass(frozen=True)
class LossSeen:
    """A loss function as it was called in training, by its functional name (`cross_entropy`, `nll_loss`, `mse_loss`).

    `made_by` is the operation that made its input, in autograd's words. `lowest` and `highest` are of the input.
    """

    kind: str
    calls: int
    at: Place | None = None
    reduction: str = "mean"
    input_shape: tuple[int, ...] = ()
    lowest: float | None = None
    highest: float | None = None
    rows_sum_to_one: bool = False
    made_by: str = ""
    requires_grad: bool = True
    target_shape: tuple[int, ...] = ()
    target_kind: str = ""  # dtype without "torch."
    target_lowest: float | None = None
    target_highest: float | None = None
    target_distinct: int | None = None
    label_smoothing: float = 0.0
    weighted: bool = False


@dataclass(frozen=True)
class LoaderSeen:
    """A DataLoader that was iterated over, or the batches of a program without one.

    `entropy` is the mean entropy of the labels within a batch (nats), `entropy_all` that of all labels seen; `runs` the
    mean length of runs of equal labels. `trains` says that its batches were stepped on.
    """

    number: int
    batch_size: int | None
    shuffled: bool | None
    drop_last: bool | None
    workers: int
    samples: int | None
    trains: bool
    made_at: Place | None = None
    batches: int = 0
    smallest_batch: int | None = None
    entropy: float | None = None
    entropy_all: float | None = None
    runs: float | None = None
    classes: int | None = None
    largest_class_share: float | None = None
    duplicates: int = 0  # images equal to another of the same pass
    shared_with_training: float | None = None  # of a testing loader: share of its images that training saw too


@dataclass(frozen=True)
class StepSeen:
    """One optimizer step that was measured (the first ones all, later ones sampled).

    `loss` is the value that went backward; `told` the loss function's own last value before it. Norms are over all
    parameters of the optimizer; `update_ratio` is the median over weight matrices of update over weight.
    """

    index: int
    optimizer: int
    loss: float | None
    told: float | None
    lr: float
    samples: int | None = None
    gradient_norm: float | None = None
    weight_norm: float | None = None
    update_ratio: float | None = None
    largest_update_ratio: float | None = None
    changed: bool | None = None
    zero_gradient_share: float | None = None
    clip_norm: float | None = None  # max_norm of a clip_grad_norm_ before this step, and the norm it found
    clip_found: float | None = None
    accuracy: float | None = None


@dataclass(frozen=True)
class Printed:
    """A line that the program printed with numbers in it, after `step` steps."""

    text: str
    numbers: tuple[float, ...]
    step: int
    at: Place | None = None


@dataclass(frozen=True)
class Ending:
    """How the observation ended: `finished`, `budget` (enough was seen), `error`, `exit`, `killed`."""

    how: str
    error: str = ""  # type and message, one line
    at: Place | None = None  # in the user's own file
    layer: str = ""  # the module that raised, by its name in its net
    code: int | None = None


@dataclass(frozen=True)
class ModeGap:
    """One training batch answered in train and in eval mode (dropout asleep in both) by the net as it ended.

    `repaired_loss` is eval mode's after batch norm's statistics were computed anew. `statistics_moved` says that
    running statistics (buffers, or tensors kept by the module) changed during training; None where there are none.
    `by_gradients` says that the net asks whether gradients are on, and not for its mode.
    """

    train_loss: float
    eval_loss: float
    train_accuracy: float
    eval_accuracy: float
    correlation: float
    repaired_loss: float | None = None
    statistics_moved: bool | None = None
    layer: str = ""
    by_gradients: bool = False


@dataclass(frozen=True)
class Trial:
    """An experiment on a clone: what was changed (`as it is` for the control), and the losses of its steps.

    `change` is one of `findings/trials`. `blind_loss` is what a net reaches that never looks at its inputs. `accuracy`
    is that at the end on `judged` images, of whose labels the commonest has the share `chance`;
    `held_loss` is their mean loss.
    """

    change: str
    losses: tuple[float, ...]
    blind_loss: float
    accuracy: float | None = None
    line: str = ""  # in a few words for the report
    judged: int = 0
    chance: float | None = None
    held_loss: float | None = None


@dataclass(frozen=True)
class SourceNote:
    """Something in the program's text that a check may use; `kind` is one of the reader's (see diagnosis/source)."""

    kind: str
    at: Place
    names: tuple[str, ...] = ()
    text: str = ""


@dataclass(frozen=True)
class Observation:
    """All that is known of a program when the questions are asked.

    `evidence` is the preflight's view (probe, inputs, labels, step, one update, one-batch overfit) of the trained net
    at its first step, on a clone. `mixing` is how far other images change an image's logits in eval mode, relative to
    their own spread. `graphs_kept` counts the steps whose graph outlived them by three steps and more;
    `test_graphs_kept` is the most graphs of passes without a backward that were there at once.
    """

    steps: int
    seconds: float
    backwards: int = 0
    nets: tuple[NetSeen, ...] = ()
    optimizers: tuple[OptimizerSeen, ...] = ()
    losses: tuple[LossSeen, ...] = ()
    loaders: tuple[LoaderSeen, ...] = ()
    measured: tuple[StepSeen, ...] = ()
    printed: tuple[Printed, ...] = ()
    ending: Ending = Ending("finished")
    evidence: Evidence | None = None
    mode_gap: ModeGap | None = None
    mixing: float | None = None
    graphs_kept: int = 0
    test_graphs_kept: int = 0
    memory_growth_bytes: float | None = None  # per step
    not_finite: str = ""  # first module with outputs that are not finite
    not_finite_at_step: int | None = None
    autocast: str = ""  # dtype of autocast in training forwards
    scaler: bool = False
    schedule: str = ""  # kind of the lr scheduler that stepped
    schedule_steps: int = 0
    schedule_at: Place | None = None
    notes: tuple[SourceNote, ...] = ()
    trials: tuple[Trial, ...] = ()
