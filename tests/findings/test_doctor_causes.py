"""Every cause: an observation of a sick program, and of a twin that differs in what decides and is healthy."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from patients import ADAM, GAP, LOSS, NET, TESTS, chain, failed, layers, note, patient, told, tried

from conviction.findings import trials
from conviction.findings.doctoring import ask
from conviction.findings.evidence import Inputs, Labels, Overfit
from conviction.findings.observation import Ending, Observation, Place, Printed, StepSeen, Trial

OTHER = replace(NET, number=1, kind="OldNet", names=("old",), made_at=Place("t.py", 5), training_forwards=0,
                testing_forwards=0, owned=60_000, graded=0, moved=0)  # fmt: skip
FLAT = Overfit(2.3, 2.25, 25, 16, 2.25, input_dependence=5e-4, spread=5e-5)
FADING = chain(rms=(0.03, 1e-4, 1e-6, 1e-8), std=(0.01, 1e-5, 1e-7, 1e-9))
SQUASHED = chain(slope=(0.2, 0.05, 0.05, None), gradient_rms=(1e-6, 1e-5, 1e-3, 1e-2))
DROWNED: dict[str, Any] = {"input_dependence": 4e-4, "signals": chain(std=(0.5, 0.05, 0.005, 0.0005))}
BUDGET = Ending("budget")
BN: dict[str, Any] = {"has_batch_norm": True}
PIXELS = Trial("linear probe on pixels", (2.3, 2.3), 2.303, 0.1, "a linear probe answers 10 % right", 1000, 0.1)
HEART = (Trial(trials.BY_HEART, (2.3, 1.0, 0.1, 0.05, 0.05, 0.05, 0.05, 0.05), 2.2, 1.0, "", 16, 0.1),
         Trial(trials.BY_HEART_BLIND, (2.3, 2.3, 2.3, 2.3), 2.2, 0.1, "", 16, 0.1))  # fmt: skip
LITTLE = (Trial(trials.AS_IT_IS, (2.3, *[0.8] * 40), 2.303, 0.6, "as it is", 384, 0.1, 1.0),
          Trial(trials.USUAL_SETTINGS, (2.3, *[0.6] * 40), 2.303, 0.74, "momentum 0.9", 384, 0.1, 0.7))  # fmt: skip
SLOWER = (LITTLE[0], replace(LITTLE[1], change=trials.LOWER_LR))
SCALED = (LITTLE[0], replace(LITTLE[1], change=trials.STANDARDISED))
FREED = (LITTLE[0], replace(LITTLE[1], change=trials.UNFROZEN))
JOINED = replace(TESTS, shared_with_training=1.0, samples=1000, made_at=Place("t.py", 16))
STEPPED: dict[str, Any] = {"schedule": "StepLR", "schedule_steps": 300, "schedule_at": Place("t.py", 35)}
DYING_LRS = [0.01 * 0.1 ** min(9, number // 3) for number in range(60)]
COSINE_LRS = [0.01 * (1 + math.cos(math.pi * number / 59)) / 2 + 1e-9 for number in range(60)]
SGD: dict[str, Any] = {"kind": "SGD", "settings": (("lr", 0.05), ("momentum", 0.9), ("weight_decay", 0.0))}


def owner(made: int, optimizers: int, forward: int, **net: Any) -> Observation:
    """A loop that runs one net, an optimizer of another; the lines at which they were made."""
    run = replace(NET, owned=0, moved=0, made_at=Place("t.py", forward), forward_at=Place("t.py", 30), **net)
    rule = replace(ADAM, nets=(1,), made_at=Place("t.py", optimizers))
    return patient("stuck", nets=(run, replace(OTHER, made_at=Place("t.py", made))), optimizers=(rule,))


def kernel(size: str) -> Observation:
    return failed(f"RuntimeError: Calculated padded input size per channel: ({size}). Kernel size: (5 x 5). "
                  "Kernel size can't be greater than actual input size")  # fmt: skip


def exploded() -> tuple[StepSeen, ...]:
    losses = (2.3, 1e12, 4e11, 1e9, *(5.0 - 0.05 * min(at, 53) for at in range(56)))
    return tuple(
        replace(step, told=loss, loss=loss, lr=2.0) for step, loss in zip(patient().measured, losses, strict=True)
    )


def penalised(penalty: float) -> tuple[StepSeen, ...]:
    """A penalty on the weights goes backward beside a loss that stays; they shrink where it is large."""
    steps = patient("stuck").measured
    shrink = 0.9 if penalty > 1 else 1.0
    return tuple(
        replace(step, loss=(step.told or 0) + penalty, weight_norm=10 * shrink**at) for at, step in enumerate(steps)
    )


def falling(first: float, last: float) -> tuple[StepSeen, ...]:
    steps = patient().measured
    losses = [first * (last / first) ** (at / (len(steps) - 1)) for at in range(len(steps))]
    return tuple(
        replace(step, index=at, told=None, loss=loss) for at, (step, loss) in enumerate(zip(steps, losses, strict=True))
    )


# cause, the sick one, its twin, the line to change (None: not told)
CASES: list[tuple[str, Observation, Observation, int | None]] = [
    ("optimizer-owns-other-net", owner(5, 8, 12), patient(nets=(NET, OTHER)), 8),
    (
        "optimizer-owns-other-net",
        replace(owner(5, 8, 12), optimizers=(replace(ADAM, nets=()),)),
        replace(owner(5, 8, 12, pretrained=True), optimizers=(replace(ADAM, nets=()),)),
        20,
    ),  # style transfer
    ("optimizer-owns-other-net", failed("ValueError: optimizer got an empty parameter list"), patient(), 33),
    (
        "optimizer-owns-other-net",
        patient("stuck", notes=note("layers-in-list")),
        patient(notes=note("layers-in-list")),
        7,
    ),
    ("forward-uses-other-net", owner(12, 20, 5), patient(nets=(NET, OTHER)), 30),
    (
        "forward-uses-other-net",
        replace(owner(5, 8, 12), notes=note("forward-other-net", 31)),
        patient(notes=note("forward-other-net", 31)),
        31,
    ),
    (
        "step-missing",
        patient("stuck", net={"moved": 0}, optimizer={"steps": 0}, steps=0),
        patient(
            "stuck", net={"moved": 0}, optimizer={"steps": 0, "zero_grads": 1}, steps=0, backwards=16, ending=BUDGET
        ),
        31,
    ),
    (
        "step-missing",
        patient("stuck", net={"moved": 0}, optimizer={"steps": 0}, notes=note("step-missing", 32)),
        patient(optimizer={"steps": 0}),
        32,
    ),  # its weights are moved by hand
    (
        "zero-grad-missing",
        patient("rises", optimizer={"carried": 299, "zero_grads": 0}),
        patient(optimizer={"carried": 0, "zero_grads": 0}),
        34,
    ),  # net.zero_grad()
    (
        "zero-grad-missing",
        patient(optimizer={"carried": 295, "zero_grads": 3}),
        patient(optimizer={"steps": 75, "zero_grads": 75, "carried": 0}),
        34,
    ),  # accumulation over four
    (
        "loss-detached",
        failed("RuntimeError: element 0 of tensors does not require grad and does not have a grad_fn"),
        failed("KeyError: 'x'"),
        33,
    ),
    ("loss-detached", patient("stuck", net={"graded": 0, "moved": 0}, notes=note("loss-detached", 29)), patient(), 29),
    (
        "loss-detached",
        patient("stuck", net={"graded": 0, "moved": 0, "training_forwards": 0}, backwards=0),
        patient(),
        31,
    ),
    (
        "frozen-params",
        patient("stuck", net={"trainable": 850, "owned": 850, "moved": 850}),
        patient("stuck", net={"trainable": 850, "pretrained": True}),
        10,
    ),
    (
        "frozen-params",
        failed(
            "RuntimeError: element 0 of tensors does not require grad and does not have a grad_fn",
            nets=(replace(NET, trainable=0),),
        ),
        patient(net={"trainable": 850}),
        10,
    ),
    (
        "eval-mode-training",
        patient("partly", net={**BN, "training_forwards_in_eval": 200}),
        patient(net={"training_forwards_in_eval": 200}),
        30,
    ),
    (
        "eval-mode-training",
        patient(net={"has_dropout": True, "training_forwards_in_eval": 40}, notes=note("eval-without-train", 41)),
        patient(net={"has_dropout": True, "training_forwards_in_eval": 290, "pretrained": True}),
        41,
    ),
    (
        "no-eval-at-test",
        patient(net={**BN, "testing_forwards_in_train": 40}),
        patient(net={"testing_forwards_in_train": 40}),
        40,
    ),
    (
        "no-eval-at-test",
        patient(
            net=BN,
            mode_gap=replace(
                GAP,
                train_loss=0.3,
                eval_loss=2.9,
                train_accuracy=0.905,
                eval_accuracy=0.1,
                correlation=0.1,
                statistics_moved=False,
            ),
        ),
        patient(net=BN, mode_gap=replace(GAP, statistics_moved=True)),
        10,
    ),
    (
        "no-eval-at-test",
        patient(net=BN, mode_gap=replace(GAP, eval_loss=4.0, eval_accuracy=0.2, repaired_loss=0.6)),
        patient("learns", net=BN, steps=40, mode_gap=replace(GAP, eval_loss=4.0, eval_accuracy=0.2, repaired_loss=0.6)),
        10,
    ),
    (
        "no-eval-at-test",
        patient(net={**BN, "testing_forwards": 0}, notes=note("eval-missing", 46), ending=BUDGET),
        patient(net={**BN, "testing_forwards": 9}, notes=note("eval-missing", 46), ending=BUDGET),
        46,
    ),
    (
        "lr-too-low",
        patient(
            "stuck",
            optimizer=SGD,
            settings={"lr": 1e-3},
            step={"update_ratio": 1.3e-5},
            trials=tried(trials.HIGHER_LR, helps=False),
        ),
        patient(
            "stuck",
            optimizer=SGD,
            settings={"lr": 1e-3},
            step={"update_ratio": 3e-3},
            trials=tried(trials.HIGHER_LR, helps=False),
        ),
        20,
    ),
    (
        "zero-grad-missing",
        patient("rises", optimizer={"kind": "by hand", "zero_grads": 0}, notes=note("zero-grad-missing", 36)),
        patient(optimizer={"kind": "by hand", "zero_grads": 0}, notes=note("zero-grad-missing", 36)),
        36,
    ),
    (
        "mixed-batch",
        patient(blind=math.log(64), loss={"kind": "nll_loss", "highest": -0.1, "made_by": "logsoftmax"}),
        patient(loss={"kind": "nll_loss", "highest": -0.1, "made_by": "logsoftmax"}),
        31,
    ),
    (
        "mixed-batch",
        patient(
            loss={"kind": "nll_loss", "highest": -0.1, "made_by": "logsoftmax"},
            notes=note("softmax-dim", 35, "log_softmax"),
        ),
        patient(
            loss={"kind": "nll_loss", "highest": -0.1, "made_by": "logsoftmax"}, notes=note("softmax-dim", 35, "argmax")
        ),
        35,
    ),
    ("lr-absurd", patient("huge", settings={"lr": 10.0}), patient(settings={"lr": 0.05}), 20),
    ("lr-absurd", patient("stuck", settings={"lr": 0.0}), patient(optimizer=SGD), 20),
    (
        "lr-absurd",
        patient("stuck", settings={"lr": 1e-9}),
        patient("stuck", settings={"lr": 1e-9}, lrs=[1e-9 * (number + 1) for number in range(60)]),
        20,
    ),  # warming up
    ("lr-absurd", failed("ValueError: Invalid learning rate: -0.1"), patient(), 33),
    (
        "lr-absurd",
        patient("rises", optimizer=SGD, settings={"lr": 0.9}, step={"update_ratio": 0.6}),
        patient(optimizer=SGD, settings={"lr": 0.9}, step={"update_ratio": 0.6}),
        20,
    ),
    (
        "lr-too-high",
        patient("lost", optimizer=SGD, settings={"lr": 0.3}, step={"largest_update_ratio": 0.2}),
        patient(optimizer=SGD, settings={"lr": 0.3}, step={"largest_update_ratio": 0.2}),
        20,
    ),
    (
        "lr-too-high",
        patient("breaks", step={"largest_update_ratio": 0.4}, not_finite_at_step=120),
        patient(step={"largest_update_ratio": 0.4}),
        20,
    ),
    (
        "lr-too-high",
        patient("stuck", trials=tried(trials.LOWER_LR)),
        patient(trials=tried(trials.LOWER_LR, helps=False)),
        20,
    ),
    (
        "lr-too-low",
        patient("slow", optimizer=SGD, settings={"lr": 1e-4}, trials=tried(trials.HIGHER_LR)),
        patient("slow", settings={"lr": 1e-4}, trials=tried(trials.HIGHER_LR, helps=False), ending=BUDGET),
        20,
    ),
    (
        "lr-too-low",
        patient("stuck", optimizer=SGD, settings={"lr": 1e-5}, step={"update_ratio": 1e-6}),
        patient("stuck", step={"update_ratio": 1e-6}, lrs=[1e-6 * (number + 1) for number in range(60)]),
        20,
    ),
    (
        "init-collapse",
        patient("stuck", seen=DROWNED, evidence={"overfit": FLAT}),
        patient("plateau", seen=DROWNED, evidence={"overfit": FLAT}),
        10,
    ),
    (
        "init-tiny",
        patient("stuck", seen={"signals": FADING}, evidence={"overfit": FLAT}),
        patient(seen={"signals": FADING}),
        10,
    ),
    (
        "init-tiny",
        patient("stuck", seen={"signals": FADING}, evidence={"overfit": FLAT}, notes=note("init-scale", 12)),
        patient(notes=note("init-scale", 12)),
        12,
    ),
    (
        "init-huge",
        patient("huge", seen={"cross_entropy": 36.0, "max_softmax": 0.97}, evidence={"overfit": FLAT}),
        patient(seen={"cross_entropy": 5.0, "max_softmax": 0.6}),
        10,
    ),
    ("init-symmetric", patient("stuck", seen={"signals": layers(alike=True)}), patient(seen={"signals": layers()}), 10),
    (
        "saturating-activations",
        patient("stuck", seen={"signals": SQUASHED}, evidence={"overfit": FLAT}),
        patient("plateau", seen={"signals": SQUASHED}, evidence={"overfit": FLAT}),
        10,
    ),
    (
        "dead-relu",
        patient("stuck", seen={"signals": chain(dead_share=(0.1, 1.0, 0.1, None))}, evidence={"overfit": FLAT}),
        patient(seen={"signals": layers(dead_share=0.8)}),
        10,
    ),
    (
        "dead-relu",
        patient("stuck", step={"gradient_norm": 0.0, "zero_gradient_share": 1.0}),
        patient(step={"gradient_norm": 0.0, "zero_gradient_share": 1.0}),
        10,
    ),
    (
        "activation-on-logits",
        patient("partly", loss={"made_by": "relu", "lowest": 0.0}),
        patient(loss={"made_by": "mean", "lowest": 0.0}),
        31,
    ),
    (
        "activation-on-logits",
        patient("stuck", loss={"made_by": "mean", "lowest": 0.0}, notes=note("relu-on-logits", 9, "relu")),
        patient(loss={"made_by": "mean", "lowest": 0.0}, notes=note("relu-on-logits", 9, "relu")),
        9,
    ),
    (
        "activation-on-logits",
        patient(loss={"made_by": "mul"}, notes=note("relu-on-logits", 9, "dropout")),
        patient(loss={"made_by": "mul"}),
        9,
    ),
    (
        "double-softmax",
        patient("falls", loss={"made_by": "softmax", "rows_sum_to_one": True}),
        patient(loss={"made_by": "logsoftmax"}),
        31,
    ),
    (
        "nll-on-logits",
        patient("falls", loss={"kind": "nll_loss"}),
        patient(loss={"kind": "nll_loss", "highest": -1e-4, "made_by": "logsoftmax"}),
        31,
    ),
    ("mixed-batch", patient("stuck", mixing=0.4), patient(mixing=1e-6), 10),
    (
        "mixed-batch",
        patient("stuck", loss={"kind": "nll_loss", "highest": 0.0, "made_by": "softmax"}),
        patient(loss={"kind": "nll_loss", "highest": 0.0, "made_by": "logsoftmax"}),
        31,
    ),
    (
        "mixed-batch",
        failed("ValueError: Expected input batch_size (128) to match target batch_size (64)."),
        failed("ValueError: too many values to unpack"),
        33,
    ),
    (
        "wrong-loss",
        patient("stuck", loss={"kind": "mse_loss", "input_shape": (64, 1), "target_shape": (64,)}),
        patient(loss={"kind": "mse_loss", "input_shape": (64, 1), "target_shape": (64, 1)}),
        31,
    ),
    (
        "wrong-loss",
        patient("rises", loss={"reduction": "sum"}, blind=64 * math.log(10)),
        patient(loss={"reduction": "sum"}, blind=64 * math.log(10)),
        31,
    ),
    (
        "wrong-loss",
        patient(
            "stuck",
            loss={"kind": "mse_loss", "target_shape": (64, 10), "target_distinct": 2, "target_highest": 1},
            blind=0.09,
        ),
        patient(
            loss={
                "kind": "mse_loss",
                "input_shape": (64, 784),
                "target_shape": (64, 784),
                "target_distinct": 2,
                "target_highest": 1,
            }
        ),
        31,
    ),  # an autoencoder
    ("wrong-loss", failed("RuntimeError: Found dtype Long but expected Float"), failed("RuntimeError: other"), 33),
    (
        "labels-malformed",
        failed("IndexError: Target 10 is out of bounds.", losses=(replace(LOSS, target_lowest=1),)),
        patient(),
        33,
    ),
    ("labels-malformed", patient("learns", loader={"classes": 1, "entropy": 0.0, "entropy_all": 0.0}), patient(), 15),
    (
        "labels-malformed",
        patient("stuck", evidence={"labels": Labels(64, -1, 8, 10)}),
        patient(evidence={"labels": Labels(64, 3, 3, 1)}),
        15,
    ),
    (
        "classes-mismatch",
        failed("IndexError: Target 11 is out of bounds.", losses=(replace(LOSS, target_lowest=0),)),
        patient(),
        10,
    ),
    (
        "classes-mismatch",
        patient("stuck", loss={"input_shape": (64, 1000)}, blind=math.log(10)),
        patient(loss={"input_shape": (64, 1000)}),
        10,
    ),
    (
        "labels-shuffled",
        patient("stuck", trials=(*tried("usual lr", helps=False), PIXELS, *HEART)),
        patient("stuck", trials=(*tried("usual lr", helps=False), replace(PIXELS, accuracy=0.8), *HEART)),
        15,
    ),
    (
        "input-unscaled",
        patient("stuck", evidence={"inputs": Inputs(64, True, 255, 116, 90, False)}),
        patient(evidence={"inputs": Inputs(64, True, 255, 116, 90, False)}),
        15,
    ),
    (
        "input-unscaled",
        failed("RuntimeError: Input type (unsigned char) and bias type (float) should be the same"),
        patient(),
        33,
    ),
    (
        "channel-order",
        failed(
            "RuntimeError: Given groups=1, weight of size [6, 1, 5, 5], expected input[64, 28, 28, 1] to have "
            "1 channels, but got 28 channels instead"
        ),
        patient(),
        33,
    ),
    ("channel-order", patient("partly", notes=note("view-for-permute")), patient(notes=note("view-for-permute")), 7),
    ("input-too-small", kernel("1 x 1"), patient(), 33),
    (
        "input-too-small",
        failed(
            "RuntimeError: Given input size: (512x1x1). Calculated output size: (512x0x0). Output size is too small"
        ),
        patient(),
        33,
    ),
    (
        "input-too-small",
        failed("RuntimeError: mat1 and mat2 shapes cannot be multiplied (64x256 and 400x120)"),
        failed("RuntimeError: mat1 and mat2 shapes cannot be multiplied (1792x28 and 28x28)"),
        33,
    ),
    (
        "dropout-too-high",
        patient("stuck", net={"has_dropout": True, "dropouts": (("drop", 0.95, False),)}),
        patient("learns", net={"has_dropout": True, "dropouts": (("drop", 0.95, False),)}),
        10,
    ),
    (
        "dropout-too-high",
        patient("partly", net={"dropouts": (("a", 0.7, True), ("b", 0.7, False))}, trials=tried(trials.NO_DROPOUT)),
        patient("partly", net={"dropouts": (("a", 0.5, False), ("b", 0.5, False))}, trials=tried(trials.NO_DROPOUT)),
        10,
    ),
    (
        "weight-decay-dominates",
        patient(
            "stuck",
            settings={"weight_decay": 0.5},
            measured=tuple(
                replace(step, weight_norm=10 * 0.97**number) for number, step in enumerate(patient("stuck").measured)
            ),
        ),
        patient(
            "stuck",
            settings={"weight_decay": 5e-4},
            measured=tuple(
                replace(step, weight_norm=10 * 0.97**number) for number, step in enumerate(patient("stuck").measured)
            ),
        ),
        20,
    ),
    (
        "optimizer-settings",
        patient("stuck", optimizer=SGD, settings={"momentum": 0.999}),
        patient("stuck", optimizer=SGD, settings={"momentum": 0.98}),
        20,
    ),
    ("optimizer-settings", patient("stuck", settings={"eps": 1.0}), patient(settings={"eps": 1.0}), 20),
    (
        "clip-too-low",
        patient("stuck", step={"clip_norm": 1e-4, "clip_found": 2.0}),
        patient("stuck", step={"clip_norm": 1.0, "clip_found": 2.0}),
        34,
    ),
    (
        "amp-underflow",
        patient("stuck", autocast="float16", step={"zero_gradient_share": 0.6}),
        patient("stuck", autocast="float16", scaler=True, step={"zero_gradient_share": 0.6}),
        31,
    ),
    ("non-finite", patient("breaks", not_finite="features.2", not_finite_at_step=0), patient(), 31),
    (
        "bn-tiny-batch",
        failed(
            "ValueError: Expected more than 1 value per channel when training, got input size "
            "torch.Size([1, 512, 1, 1])"
        ),
        patient(),
        15,
    ),
    (
        "bn-tiny-batch",
        patient("partly", net={**BN, "smallest_statistics": 2}),
        patient(net={**BN, "smallest_statistics": 8}),
        15,
    ),
    (
        "not-shuffled",
        patient(loader={"shuffled": False, "entropy": 0.1, "runs": 500.0}),
        patient(loader={"shuffled": False}),
        15,
    ),
    (
        "not-shuffled",
        patient(loader={"shuffled": None, "batch_size": 1, "entropy": 0.0, "runs": 40.0}),
        patient(loader={"batch_size": 8, "entropy": 1.6, "shuffled": None}),
        15,
    ),
    (
        "not-shuffled",
        patient(
            loader={"shuffled": False, "batches": 30, "classes": 1, "entropy": 0.0, "entropy_all": 0.0},
            evidence={"labels": Labels(64, 0, 0, 1)},
        ),
        patient(loader={"shuffled": False, "batches": 30}),
        15,
    ),
    (
        "class-imbalance",
        patient("stuck", blind=0.5, loader={"entropy": 0.5, "entropy_all": 0.5, "largest_class_share": 0.9}),
        patient(blind=0.5, loader={"entropy": 0.5, "entropy_all": 0.5, "largest_class_share": 0.9}),
        15,
    ),
    (
        "augmentation-destroys",
        patient("stuck", trials=tried("without augmentation")),
        patient("stuck", trials=tried("without augmentation", helps=False)),
        15,
    ),
    (
        "sign-flipped",
        patient("rises", measured=tuple(replace(step, loss=-(step.told or 0)) for step in patient("rises").measured)),
        patient(settings={"maximize": 1.0}),
        31,
    ),
    ("sign-flipped", patient("rises", settings={"maximize": 1.0}, notes=note("loss-negated", 32)), patient(), 32),
    ("schedule-kills-lr", patient("stuck", lrs=DYING_LRS, **STEPPED), patient("stuck", lrs=COSINE_LRS, **STEPPED), 35),
    (
        "train-test-leak",
        patient(tests={"shared_with_training": 0.4}),
        patient(tests={"shared_with_training": 0.005}),
        16,
    ),
    (
        "train-test-leak",
        patient(tests={"shared_with_training": 1.0}, notes=note("data-on-test", 13)),
        patient(loaders=(*patient().loaders, replace(TESTS, shared_with_training=1.0))),
        13,
    ),
    (
        "metric-wrong",
        patient(
            "stuck", printed=told("epoch 1, loss 0.018, acc 0.1", "epoch 2, loss 0.018, acc 0.1"), step={"samples": 128}
        ),
        patient("stuck", printed=told("epoch 1, loss 2.303", "epoch 2, loss 2.302")),
        36,
    ),
    (
        "metric-wrong",
        patient("stuck", printed=told("loss: 115.2", "loss: 115.0", every=50)),
        patient("stuck", printed=told("total loss: 115.2", "total loss: 115.0", every=50)),
        36,
    ),
    (
        "metric-wrong",
        patient(notes=note("metric-miscounted", 52, "correct", text="`correct` is never set back")),
        patient(notes=note("metric-divided", 52, "correct")),
        52,
    ),
    ("metric-wrong", patient(printed=told("acc 812.5", "acc 873")), patient(printed=told("acc 81.25", "acc 87.3")), 36),
    (
        "metric-wrong",
        patient(printed=told("acc 0.0125", "acc 0.0125"), step={"accuracy": 0.8}),
        patient(printed=told("acc 0.79", "acc 0.8"), step={"accuracy": 0.8}),
        36,
    ),
    (
        "wrong-model-passed",
        patient(
            "huge",
            settings={"lr": 10.0},
            notes=note("arguments-swapped", 44, text="train(net, 10, 0.1)"),
            evidence={"inputs": Inputs(64, True, 255, 116, 90, False)},
        ),
        patient(notes=note("arguments-swapped", 44)),
        44,
    ),
    (
        "wrong-model-passed",
        patient(
            "stuck",
            notes=note("net-unused", 22, "net2", "LeNet", text="`net2` (LeNet) is made and never called"),
            seen=DROWNED,
            evidence={"overfit": FLAT},
        ),
        patient(notes=note("net-unused", 22, "net2", "LeNet", text="`net2` (LeNet) is made and never called")),
        22,
    ),
    (
        "wrong-model-passed",
        patient("stuck", notes=note("variable-unused", 6, "lr", text="`lr = 0.1` is never read")),
        patient("stuck", notes=note("variable-unused", 6, "lr", text="`lr = 0.001` is never read")),
        6,
    ),
    (
        "wrong-model-passed",
        patient(
            nets=(
                replace(NET, testing_forwards=0),
                replace(OTHER, testing_forwards=9, owned=0, test_at=Place("t.py", 50)),
            ),
            printed=told("accuracy: 0.098"),
        ),
        patient(
            nets=(replace(NET, testing_forwards=0), replace(OTHER, testing_forwards=9, owned=0, names=("ema",))),
            printed=told("accuracy: 0.098"),
        ),
        50,
    ),
    (
        "lr-absurd",
        patient("huge", settings={"lr": 2.0}, measured=exploded()),
        patient(settings={"lr": 0.02}),
        20,
    ),  # a loss that has come down from an explosion to what guessing gives has learned nothing
    (
        "lr-too-high",
        patient(optimizer=SGD, settings={"lr": 0.2}, trials=SLOWER),
        patient(optimizer=SGD, settings={"lr": 0.2}, trials=SLOWER, lrs=COSINE_LRS),
        20,
    ),  # it learns, and would learn more; of a schedule a trial at one rate says nothing
    (
        "input-unscaled",
        patient(evidence={"inputs": Inputs(64, True, 255, 116, 90, False)}, trials=SCALED),
        patient(evidence={"inputs": Inputs(64, True, 255, 116, 90, False)}, trials=SCALED[:1]),
        15,
    ),
    (
        "frozen-params",
        patient(
            net={"trainable": 9000, "owned": 9000, "moved": 9000}, notes=note("parameters-frozen", 12), trials=FREED
        ),
        patient(net={"trainable": 9000, "owned": 9000, "moved": 9000}, trials=FREED),
        12,
    ),
    (
        "labels-shuffled",
        patient("partly", net={"kind": "tensors"}, notes=note("labels-shuffled", 19, text="`x` alone is shuffled")),
        patient(notes=note("labels-shuffled", 19, text="`x` alone is shuffled")),
        19,
    ),
    (
        "loss-detached",
        patient("stuck", notes=note("loss-detached", 29, text="the loss has left its graph here")),
        patient(notes=note("loss-detached", 29, text="the loss has left its graph here")),
        29,
    ),  # a penalty on the weights goes backward all the same
    ("init-symmetric", patient("partly", optimizer={"alike": 1.0}), patient(optimizer={"alike": 0.1}), 10),
    (
        "dead-relu",
        patient("stuck", step={"zero_gradient_share": 0.9999}, trials=tried(trials.NEW_INIT)),
        patient("stuck", step={"zero_gradient_share": 0.6}, trials=tried(trials.NEW_INIT)),
        10,
    ),
    (
        "weight-decay-dominates",
        patient("stuck", measured=penalised(20.0)),
        patient("stuck", measured=penalised(0.1)),
        20,
    ),
    (
        "sign-flipped",
        patient(loss={"kind": "by hand"}, measured=falling(-2.3, -5e4)),
        patient(loss={"kind": "by hand"}, measured=falling(-2.3, -40.0)),
        31,
    ),
    (
        "forward-uses-other-net",
        replace(owner(5, 8, 12), nets=(replace(owner(5, 8, 12).nets[0], names=("shadow",)), owner(5, 8, 12).nets[1])),
        patient(nets=(NET, OTHER)),
        30,
    ),
    (
        "too-few-steps",
        patient(steps=16, measured=falling(2.3, 0.01)[:16]),
        patient(steps=16, measured=falling(2.3, 0.01)[:16], optimizer={"kind": "LBFGS"}),
        15,
    ),
    (
        "train-test-leak",
        patient(
            loaders=(patient().loaders[0], replace(TESTS, made_at=None, batch_size=200, shared_with_training=0.6)),
            notes=note("test-joined", 13),
        ),
        patient(
            loaders=(
                patient().loaders[0],
                replace(TESTS, made_at=None, batch_size=200, shared_with_training=0.6),
                replace(TESTS, made_at=None, shared_with_training=0.0),
            )
        ),
        13,
    ),  # what a trunk answers to training images are features
    (
        "sign-flipped",
        patient("rises", measured=tuple(replace(step, loss=-(step.told or 0)) for step in patient("rises").measured)),
        patient(
            "stuck",
            settings={"maximize": 1.0},
            measured=tuple(replace(step, loss=-(step.told or 0)) for step in patient("stuck").measured),
        ),
        31,
    ),  # minus the loss, made larger
    (
        "labels-malformed",
        patient("stuck", steps=0, measured=(), evidence={"labels": Labels(64, -1, 9, 11)}),
        patient(evidence={"labels": Labels(64, -1, 9, 11)}),
        15,
    ),  # labels that the loss leaves out
    # What no healthy program shows is believed of one that learned little and has ended, or levelled off.
    (
        "init-huge",
        patient("partly", seen={"cross_entropy": 36.0, "max_softmax": 0.97}),
        patient(
            "partly",
            seen={"cross_entropy": 36.0, "max_softmax": 0.97},
            steps=40,
            measured=patient("partly").measured[:8],
        ),
        10,
    ),
    (
        "frozen-params",
        patient("partly", net={"trainable": 850, "owned": 850, "moved": 850}, notes=note("parameters-frozen", 12)),
        patient("partly", net={"trainable": 850, "owned": 850, "moved": 850}),
        12,
    ),
    (
        "optimizer-settings",
        patient(optimizer={"kind": "SGD"}, settings={"momentum": 0.999}, trials=LITTLE),
        patient(optimizer={"kind": "SGD"}, settings={"momentum": 0.999}, trials=LITTLE[:1]),
        20,
    ),
    (
        "activation-on-logits",
        patient("partly", loss={"lowest": 0.0, "made_by": "mean"}, notes=note("relu-on-logits", 18, "relu")),
        patient(loss={"lowest": 0.0, "made_by": "mean"}, notes=note("relu-on-logits", 18, "relu")),
        18,
    ),
    (
        "schedule-kills-lr",
        patient(lrs=DYING_LRS, notes=note("scheduler-per-batch", 34, "StepLR"), **STEPPED),
        patient(lrs=DYING_LRS, **STEPPED),
        34,
    ),
    (
        "wrong-model-passed",
        patient("partly", notes=note("net-unused", 22, "net", "LeNet", text="`net` is made and never called")),
        patient("partly", notes=note("class-unused", 22, "LeNet", text="LeNet is never made")),
        22,
    ),
    (
        "class-imbalance",
        patient(
            blind=0.4,
            loader={"entropy": 0.38, "entropy_all": 0.4, "largest_class_share": 0.9},
            step={"accuracy": 0.91},
        ),
        patient(
            blind=0.4,
            loader={"entropy": 0.38, "entropy_all": 0.4, "largest_class_share": 0.9},
            step={"accuracy": 0.98},
        ),
        15,
    ),
    (
        "train-test-leak",
        patient(loaders=(replace(patient().loaders[0], samples=5000), JOINED)),
        patient(loaders=(replace(patient().loaders[0], samples=1000), JOINED)),
        16,
    ),
    (
        "lr-absurd",
        patient(
            "huge",
            net={**BN, "testing_forwards_in_train": 40},
            settings={"lr": 10.0},
            mode_gap=replace(GAP, by_gradients=True),
        ),
        patient(
            net={**BN, "testing_forwards_in_train": 40},
            mode_gap=replace(GAP, by_gradients=True),
        ),
        20,
    ),  # batch norm by hand, which goes by whether gradients are on and not by the mode
    (
        "loss-graph-kept",
        patient(test_graphs_kept=15, notes=note("no-grad-missing", 48)),
        patient(test_graphs_kept=1, notes=note("no-grad-missing", 48)),
        48,
    ),
    (
        "worker-seed",
        patient(loader={"workers": 2}, notes=note("loader-worker-random", 17, text="each gets a copy")),
        patient(loader={"workers": 0}, notes=note("loader-worker-random", 17, text="each gets a copy")),
        17,
    ),
    (
        "dead-relu",
        patient(
            "stuck", seen={**DROWNED, "signals": chain(dead_share=(0.5, 1.0, 1.0, None))}, evidence={"overfit": FLAT}
        ),
        patient(seen={**DROWNED, "signals": chain(dead_share=(0.5, 1.0, 1.0, None))}),
        10,
    ),
    ("too-few-steps", patient("falls"), patient("falls", ending=BUDGET), 15),
    (
        "loss-graph-kept",
        patient(graphs_kept=290, memory_growth_bytes=40_000.0, notes=note("loss-kept", 37)),
        patient(graphs_kept=1, notes=note("loss-kept", 37)),
        37,
    ),
    ("loss-graph-kept", failed("RuntimeError: Trying to backward through the graph a second time"), patient(), 33),
    (
        "worker-seed",
        patient(loader={"workers": 4, "duplicates": 12_000}),
        patient(loader={"workers": 4, "duplicates": 40}),
        15,
    ),
]


@pytest.mark.parametrize(("cause", "sick", "healthy", "line"), CASES, ids=lambda v: v if isinstance(v, str) else "")
def test_sick_is_named_and_its_twin_is_not(
    cause: str, sick: Observation, healthy: Observation, line: int | None
) -> None:
    findings = ask(sick)
    assert findings, "nothing found"
    assert findings[0].cause == cause, [str(finding) for finding in findings]
    assert findings[0].line == line
    assert [finding for finding in ask(healthy) if finding.confidence > 0.5] == [], (
        "but for what is said of any failure"
    )


def test_printed_lines_without_training_loss_tell_nothing() -> None:
    lines = (
        Printed("test loss 0.018", (), 100),
        Printed("test loss 0.018", (), 200),
        Printed("step 128 of 300", (), 300),
    )
    assert ask(patient(printed=lines)) == ()
