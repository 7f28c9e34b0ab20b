"""Doctoring: every question about a training program in its order, and which answers make others moot."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from conviction.findings import (
    budget,
    data_seen,
    limits,
    losses_seen,
    mistaken,
    modes,
    ownership,
    signals_seen,
    stepping,
)
from conviction.findings.budget import last_resort
from conviction.findings.crashes import explain_error
from conviction.findings.learning import read_learning
from conviction.findings.metrics_told import metric_wrong
from conviction.findings.observation import Observation
from conviction.findings.records import Finding

Check = Callable[[Observation], Finding | None]

# As in docs: whose net, which step, which mode; what comes in; head and loss; the signal; the step; how long.
TOPICS: tuple[tuple[str, tuple[Check, ...]], ...] = (
    ("error", (explain_error,)),
    ("ownership", (mistaken.wrong_model_passed, ownership.optimizer_owns_other_net, ownership.forward_uses_other_net,
                   ownership.loss_detached, ownership.frozen_params, ownership.step_missing,
                   ownership.zero_grad_missing)),
    ("mode", (modes.eval_mode_training, modes.bn_tiny_batch, modes.no_eval_at_test)),
    ("labels and images", (data_seen.labels_malformed, data_seen.classes_mismatch, data_seen.not_shuffled,
                           data_seen.channel_order, data_seen.input_unscaled, data_seen.labels_shuffled)),
    ("head and loss", (losses_seen.double_softmax, losses_seen.activation_on_logits, losses_seen.nll_on_logits,
                       losses_seen.sign_flipped, losses_seen.mixed_batch, losses_seen.wrong_loss)),
    ("signal", (signals_seen.non_finite, signals_seen.init_symmetric, signals_seen.init_tiny, signals_seen.init_huge,
                signals_seen.saturating_activations, signals_seen.init_collapse)),
    ("step", (stepping.optimizer_settings, stepping.schedule_kills_lr, limits.clip_too_low,
              stepping.weight_decay_dominates, limits.amp_underflow, stepping.lr_absurd, stepping.lr_too_high,
              stepping.lr_too_low, signals_seen.dead_relu)),
    ("regularisation", (limits.dropout_too_high, data_seen.augmentation_destroys, data_seen.class_imbalance)),
    ("measuring", (data_seen.train_test_leak, metric_wrong, budget.loss_graph_kept, data_seen.worker_seed)),
    ("budget", (budget.too_few_steps,)),
)  # fmt: skip

_RATES = frozenset({"lr-absurd", "lr-too-high", "lr-too-low"})
_STARTS = frozenset({"init-collapse", "init-tiny", "init-huge", "init-symmetric", "saturating-activations",
                     "dead-relu"})  # fmt: skip
_PACE = _RATES | {"too-few-steps", "schedule-kills-lr", "weight-decay-dominates", "clip-too-low", "dropout-too-high",
                  "optimizer-settings"}  # fmt: skip
_DATA = frozenset({"labels-shuffled", "class-imbalance", "augmentation-destroys", "classes-mismatch"})
# Of whatever does not learn at all for another reason nothing can be said about these.
_ALL = _STARTS | _PACE | _DATA | {"non-finite", "amp-underflow", "wrong-loss", "frozen-params", "input-unscaled"}

# What a cause makes moot: its symptoms look like these, or they cannot be told while it is there.
EXPLAINS: dict[str, frozenset[str]] = {
    "wrong-model-passed": _STARTS | _RATES | {"non-finite", "too-few-steps", "input-unscaled", "wrong-loss",
                                              "optimizer-settings", "no-eval-at-test"},
    "optimizer-owns-other-net": _ALL | {"loss-detached", "step-missing", "eval-mode-training"},
    "forward-uses-other-net": _ALL | {"loss-detached", "step-missing", "wrong-model-passed"},
    "step-missing": _ALL | {"zero-grad-missing", "wrong-model-passed"},
    "loss-detached": _ALL | {"step-missing", "zero-grad-missing"},
    "frozen-params": (_ALL - {"frozen-params"}) | {"loss-detached"},
    "zero-grad-missing": _RATES | {"non-finite", "dead-relu", "too-few-steps", "optimizer-settings", "clip-too-low",
                                   "labels-shuffled"},
    "eval-mode-training": _STARTS | _RATES | {"no-eval-at-test", "too-few-steps", "bn-tiny-batch", "labels-shuffled"},
    "bn-tiny-batch": frozenset({"no-eval-at-test", "lr-too-high", "too-few-steps"}),
    "labels-malformed": _ALL | {"classes-mismatch"},
    "not-shuffled": _PACE | {"class-imbalance", "labels-malformed", "dead-relu", "no-eval-at-test", "labels-shuffled",
                             "init-collapse", "non-finite", "augmentation-destroys"},
    "channel-order": _PACE | _DATA | _STARTS,
    "input-unscaled": _STARTS | {"lr-too-high", "lr-too-low", "non-finite", "too-few-steps", "clip-too-low",
                                 "labels-shuffled", "weight-decay-dominates"},
    "labels-shuffled": _RATES | {"too-few-steps", "augmentation-destroys", "class-imbalance", "dropout-too-high",
                                 "init-collapse", "weight-decay-dominates"},
    "double-softmax": _RATES | {"too-few-steps", "init-collapse", "init-tiny", "dead-relu", "wrong-loss",
                                "activation-on-logits", "saturating-activations"},
    "activation-on-logits": frozenset({"lr-too-low", "lr-too-high", "too-few-steps", "dead-relu",
                                       "saturating-activations"}),
    "nll-on-logits": _RATES | {"non-finite", "too-few-steps", "dead-relu", "sign-flipped"},
    "sign-flipped": _RATES | {"non-finite", "dead-relu", "wrong-loss", "too-few-steps", "weight-decay-dominates",
                              "clip-too-low", "optimizer-settings"},
    "mixed-batch": _ALL | {"no-eval-at-test"},
    "wrong-loss": _RATES | {"non-finite", "dead-relu", "too-few-steps", "clip-too-low"},
    "init-symmetric": _STARTS - {"init-symmetric"} | _RATES | {"too-few-steps"},
    "init-tiny": frozenset({"init-collapse", "dead-relu", "saturating-activations", "too-few-steps"}) | _RATES,
    "init-huge": frozenset({"saturating-activations", "dead-relu", "non-finite", "clip-too-low", "too-few-steps",
                            "init-collapse"}) | _RATES,
    "saturating-activations": frozenset({"init-collapse", "init-tiny", "too-few-steps"}) | _RATES,
    "init-collapse": frozenset({"lr-too-low", "lr-too-high", "dead-relu", "too-few-steps"}),
    "dead-relu": frozenset({"init-collapse", "init-tiny", "lr-too-low", "too-few-steps", "saturating-activations"}),
    "non-finite": frozenset({"lr-too-high", "lr-too-low", "dead-relu", "too-few-steps"}),
    "optimizer-settings": _RATES | {"non-finite", "dead-relu", "too-few-steps"},
    "schedule-kills-lr": frozenset({"lr-too-low", "too-few-steps"}),
    "clip-too-low": frozenset({"lr-too-low", "too-few-steps", "dead-relu"}),
    "weight-decay-dominates": _RATES | {"dead-relu", "too-few-steps"},
    "amp-underflow": _RATES | {"dead-relu", "non-finite", "too-few-steps"},
    "lr-absurd": frozenset({"lr-too-high", "lr-too-low", "dead-relu", "non-finite", "too-few-steps",
                            "weight-decay-dominates", "class-imbalance", "dropout-too-high"}),
    "lr-too-high": frozenset({"dead-relu", "non-finite", "lr-too-low", "too-few-steps", "class-imbalance"}),
    "lr-too-low": frozenset({"too-few-steps", "class-imbalance"}),
    "dropout-too-high": frozenset({"lr-too-low", "too-few-steps", "no-eval-at-test"}),
    "augmentation-destroys": frozenset({"too-few-steps", "lr-too-low"}),
    "class-imbalance": frozenset({"too-few-steps"}),
    "classes-mismatch": frozenset({"too-few-steps"}),
}  # fmt: skip
# These do not keep a net from learning: where something does, it is the answer.
_BESIDE = frozenset({"metric-wrong", "loss-graph-kept", "worker-seed", "train-test-leak"})
# A cause this much surer than its explanation stands beside it.
_SURER = 0.15
_MOST = 3
# What is more likely wrong than right is not said: of a healthy program that is slow, half a suspicion is too much.
_LEAST_SURE = 0.5


def ask(observation: Observation) -> tuple[Finding, ...]:
    """Ask everything that the observation can answer.

    At most three findings, the answer first; none of a program that learns as it should. One that ended without having
    learned anything is not well: where no check answers, the likeliest of what is left is told, as possible.
    """
    found = [finding for _, checks in TOPICS for check in checks if (finding := check(observation)) is not None]
    found = [finding for finding in found if finding.confidence >= _LEAST_SURE]
    told = list({finding.cause: finding for finding in reversed(found)}.values())[::-1]
    left = explain_away(told)
    if any(finding.cause != "too-few-steps" for finding in left):
        left = [finding for finding in left if finding.cause != "too-few-steps"]
    left = left or [finding for finding in [last_resort(observation)] if finding is not None]
    fails = not read_learning(observation).learns
    left.sort(key=lambda finding: (fails and finding.cause in _BESIDE, not finding.hard, -finding.confidence))
    return tuple(left[:_MOST])


def explain_away(found: Iterable[Finding]) -> list[Finding]:
    """Drop the findings that others make moot, unless they are much surer than those.

    Of two that could be each other's symptom the surer one stays, of equals the first.
    """
    findings = list(found)
    ranks = {id(finding): (finding.confidence, -place) for place, finding in enumerate(findings)}
    left = [
        finding for finding in findings
        if not any(_makes_moot(other, finding)
                   and (not _makes_moot(finding, other) or ranks[id(other)] > ranks[id(finding)]) for other in findings)
    ]  # fmt: skip
    return left or findings[:1]


def _makes_moot(cause: Finding, symptom: Finding) -> bool:
    return symptom.cause in EXPLAINS.get(cause.cause, ()) and cause.confidence >= symptom.confidence - _SURER
