"""Checks of train and eval mode, and of what batch norm averages over."""

from __future__ import annotations

from conviction.findings.learning import read_learning
from conviction.findings.observation import ModeGap, NetSeen, Observation
from conviction.findings.readings import (
    blame,
    called,
    has_moods,
    line_of,
    notes_of,
    trained_net,
    training_loader,
)
from conviction.findings.records import Finding
from conviction.findings.trials import STATISTICS, confirmed, trial

_SOME_TESTS = 3  # fewer may be a look at the shapes
_SETTLED = 100  # steps after which running statistics (momentum 0.1: 20 steps) have to follow the batches
_FEW_VALUES = 4  # with batches of this size the deviation itself is a guess


def eval_mode_training(observation: Observation) -> Finding | None:
    """The net is stepped in eval mode: dropout sleeps, batch norm uses the statistics of before."""
    net = trained_net(observation)
    if net is None or not has_moods(net) or net.training_forwards_in_eval < 3:
        return None
    share = net.training_forwards_in_eval / net.training_forwards
    told = notes_of(observation, "eval-without-train")
    # Fine-tuning in eval mode keeps the statistics of the pretraining, and is meant.
    if net.pretrained or share < (0.05 if told else 0.3):
        return None
    what = " and ".join(["batch norm"] * net.has_batch_norm + ["dropout"] * net.has_dropout)
    return blame(
        "eval-mode-training",
        f"{net.training_forwards_in_eval:,} of {net.training_forwards:,} training forwards of {called(net)} ran in "
        f"eval mode, with {what} in the net",
        "train mode in every training step", f"call .train() on {net.names[0] if net.names else 'the net'} "
        "at the start of every epoch",
        line_of(observation, "eval-without-train", otherwise=net.forward_at or net.test_at),
        confidence=0.95 if told or share > 0.5 else 0.85,
    )  # fmt: skip


def no_eval_at_test(observation: Observation) -> Finding | None:
    """The net is tested in train mode, or its batch norm's running statistics are not those of the images."""
    net = trained_net(observation)
    return None if net is None else _tested_in_train(observation, net) or _wrong_statistics(observation, net)


def bn_tiny_batch(observation: Observation) -> Finding | None:
    """Batch norm averages over next to nothing."""
    net, loader = trained_net(observation), training_loader(observation)
    if net is None or not net.has_batch_norm:
        return None
    size = None if loader is None else loader.batch_size
    values = net.smallest_statistics
    single = size is not None and size <= 2 and loader is not None and loader.batches >= 5
    if not single and (values is None or values > _FEW_VALUES):
        return None
    gap = observation.mode_gap
    if read_learning(observation).state == "well" and not (gap is not None and _is_wide(gap)):
        return None
    over = f"as few as {values} values" if values is not None else "few values"
    smallest = "" if loader is None or loader.smallest_batch is None else f", the smallest of {loader.smallest_batch}"
    return blame(
        "bn-tiny-batch", f"batch norm averages over {over}, in batches of {size or '?'}{smallest}",
        "a few dozen values or more", "use drop_last=True, larger batches, or group norm",
        loader.made_at if loader is not None else net.forward_at, confidence=0.85,
    )  # fmt: skip


def _tested_in_train(observation: Observation, net: NetSeen) -> Finding | None:
    """Nets that play parts in each other's training (GANs, teachers) run in train mode without gradients, and may."""
    alone = sum(1 for seen in observation.nets if seen.training_forwards) == 1
    always = net.testing_forwards_in_train >= max(_SOME_TESTS, 0.9 * net.testing_forwards)
    told = notes_of(observation, "eval-missing")
    if alone and told and has_moods(net) and net.testing_forwards_in_train == net.testing_forwards < _SOME_TESTS:
        return _to_be_tested_in_train(observation, net)
    gap = observation.mode_gap
    if not alone or not always or not has_moods(net) or (gap is not None and gap.by_gradients):
        return None
    wide = gap is not None and _is_wide(gap)
    tests = any(not loader.trains and loader.batches for loader in observation.loaders)
    if not (told or tests or wide):
        return None
    differs = "" if gap is None else (f"; one batch has loss {gap.train_loss:.3g} in train mode and "
                                      f"{gap.eval_loss:.3g} in eval mode")  # fmt: skip
    return blame(
        "no-eval-at-test",
        f"{net.testing_forwards_in_train:,} of {net.testing_forwards:,} testing forwards ran in train mode{differs}",
        "eval mode in every test", "call .eval() before testing and .train() after it",
        line_of(observation, "eval-missing", otherwise=net.test_at), confidence=0.95 if told or wide else 0.8,
    )  # fmt: skip


def _to_be_tested_in_train(observation: Observation, net: NetSeen) -> Finding:
    """The observation ended before the test, whose text says it all."""
    what = " and ".join(["batch norm"] * net.has_batch_norm + ["dropout"] * net.has_dropout)
    return blame(
        "no-eval-at-test",
        f"{called(net)} has {what}, and its test, {observation.steps} steps later, does not call eval()",
        "eval mode in every test", "call .eval() before testing and .train() after it",
        line_of(observation, "eval-missing"), confidence=0.8,
    )  # fmt: skip


def _wrong_statistics(observation: Observation, net: NetSeen) -> Finding | None:
    """One batch is answered in train mode and not in eval mode, by the same weights."""
    gap = observation.mode_gap
    if gap is None or not _is_wide(gap) or gap.train_loss >= 0.9 * _start(observation, gap):
        return None
    still = gap.statistics_moved is False
    mended = confirmed(observation, STATISTICS) or (
        gap.repaired_loss is not None and gap.repaired_loss < 0.5 * (gap.train_loss + gap.eval_loss)
    )
    # Early on, with large steps, statistics lag behind in healthy nets too.
    if not still and not (observation.steps >= _SETTLED and mended):
        return None
    tried = trial(observation, STATISTICS)
    moved = "its running statistics have not moved" if still else "its running statistics are far off"
    return blame(
        "no-eval-at-test",
        f"the same batch has accuracy {gap.train_accuracy:.2f} in train mode and {gap.eval_accuracy:.2f} in eval mode "
        f"(loss {gap.train_loss:.3g} and {gap.eval_loss:.3g}): {moved}",
        "nearly the same answers in both modes",
        "update running mean and variance in train mode, with a momentum near 0.1, and use them in eval mode",
        net.made_at, layer=gap.layer, confidence=0.95 if still else 0.85,
        experiment=tried.line if tried is not None and confirmed(observation, STATISTICS) else _repaired(gap),
    )  # fmt: skip


def _start(observation: Observation, gap: ModeGap) -> float:
    """The loss that shows that something was learned has to lie below this."""
    blind = read_learning(observation).blind
    return gap.eval_loss if blind is None else blind


def _is_wide(gap: ModeGap) -> bool:
    """Whether eval mode forgets what train mode knows: much larger loss and fewer right answers, or other logits."""
    worse = gap.eval_loss > 1.5 * gap.train_loss and gap.eval_accuracy < 0.7 * gap.train_accuracy
    return worse or (gap.correlation < 0.5 and gap.eval_loss > 1.2 * gap.train_loss)


def _repaired(gap: ModeGap) -> str | None:
    if gap.repaired_loss is None:
        return None
    return f"with statistics computed anew the loss in eval mode is {gap.repaired_loss:.3g}"
