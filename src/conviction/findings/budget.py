"""Checks of how long a program trains, and of what it keeps while it does."""

from __future__ import annotations

from conviction.findings.learning import has_ended, read_learning
from conviction.findings.observation import Observation
from conviction.findings.readings import (
    blame,
    line_of,
    main_loss,
    main_optimizer,
    measured_steps,
    middle,
    notes_of,
    trained_net,
    training_loader,
)
from conviction.findings.records import Finding
from conviction.findings.trials import labels_unrelated

_FEW_STEPS = 500  # a program that takes more and still falls is slow for another reason
_VERY_FEW = 30  # and one that ends while it falls has not made use of its images, however well it does
_HARDLY_ANY = 10  # steps in which nothing can be learned, whatever the losses say
_ENOUGH_TO_LEARN = 100  # steps in which whatever learns has learned something
_QUIET, _LOUD = 3e-4, 0.03  # update over weight between which a rate is hardly the cause
_SEEN = 0.8  # of the steps that must lie before the last measured one: what came after it may have levelled off
_KEPT = 5  # graphs that outlive their steps; a loss that is still in a variable is one


def too_few_steps(observation: Observation) -> Finding | None:
    """The program ended by itself while its loss was still falling, far from learned, or before it could fall."""
    learning = read_learning(observation)
    if not has_ended(observation) or learning.blind is None:
        return None
    falls = learning.still_falling and learning.state in {"slow", "partly"} and observation.steps <= _FEW_STEPS
    falls = falls and learning.steps >= _SEEN * observation.steps
    optimizer = main_optimizer(observation)
    whole = optimizer is not None and optimizer.kind == "LBFGS"  # of which each step is many
    falls |= learning.still_falling and observation.steps <= _VERY_FEW and not whole
    hardly_began = 0 < observation.steps <= _HARDLY_ANY and learning.state in {"unknown", "slow", "partly"}
    if not (falls or hardly_began):
        return None
    loader = training_loader(observation)
    how = "while the loss was still falling" if falls else "when it had hardly begun"
    return blame(
        "too-few-steps", f"the program ended {how}: {learning}",
        "training until the loss hardly falls any more", "train for more epochs, or on more of the images",
        line_of(observation, "epochs", otherwise=loader.made_at if loader is not None else None), confidence=0.65,
    )  # fmt: skip


def last_resort(observation: Observation) -> Finding | None:
    """Name the likeliest cause of a program that came to its end and learned nothing, where no check has an answer."""
    learning, optimizer = read_learning(observation), main_optimizer(observation)
    if not learning.fails or not learning.ended or learning.blind is None or learning.steps < _ENOUGH_TO_LEARN:
        return None
    ratio = middle(step.update_ratio for step in measured_steps(observation))
    net = trained_net(observation)
    at = net.made_at if net is not None else None
    if labels_unrelated(observation):
        cause, remedy = "labels-shuffled", "look at ten images beside their labels, as they go into the net"
        loader = training_loader(observation)
        at = loader.made_at if loader is not None else at
    elif ratio is not None and not _QUIET < ratio < _LOUD:
        cause = "lr-too-low" if ratio <= _QUIET else "lr-too-high"
        remedy = f"{'raise' if ratio <= _QUIET else 'lower'} lr tenfold, or let `conviction lr` find one"
        at = optimizer.made_at if optimizer is not None else at
    else:
        cause, remedy = "init-collapse", "start from Kaiming's weights, and make one batch be learned by heart first"
    updates = "" if ratio is None else f", steps change the weights by {ratio:.1g} of their size"
    return blame(
        cause, f"the program ended and has learned nothing: {learning}{updates}; no other cause was found",
        "a loss below that of guessing", remedy, at, confidence=0.5,
    )  # fmt: skip


def loss_graph_kept(observation: Observation) -> Finding | None:
    """Losses that are kept keep all that they were computed from."""
    return _kept_in_training(observation) or _kept_in_tests(observation)


def _kept_in_tests(observation: Observation) -> Finding | None:
    net = trained_net(observation)
    if observation.test_graphs_kept < _KEPT or net is None:
        return None
    return blame(
        "loss-graph-kept", f"the graphs of {observation.test_graphs_kept} test passes were there at once, for a "
        "backward that never comes", "a test without graphs",
        "test under torch.no_grad(), and keep outputs.detach() or the numbers only",
        line_of(observation, "loss-kept", "no-grad-missing", otherwise=net.test_at), confidence=0.85,
    )  # fmt: skip


def _kept_in_training(observation: Observation) -> Finding | None:
    told = notes_of(observation, "loss-kept")
    least = 2 if told else _KEPT
    if observation.graphs_kept < least or observation.graphs_kept < 0.05 * observation.steps:
        return None
    growth = observation.memory_growth_bytes
    memory = "" if growth is None or growth < 1024 else f", and memory grows by {growth / 1024:.0f} KiB a step"
    loss = main_loss(observation)
    return blame(
        "loss-graph-kept",
        f"the graphs of {observation.graphs_kept:,} of {observation.steps:,} steps are still there{memory}",
        "a graph that is gone after its step", "add up loss.item() instead of loss",
        line_of(observation, "loss-kept", otherwise=loss.at if loss is not None else None),
        confidence=0.95 if told else 0.85,
    )  # fmt: skip
