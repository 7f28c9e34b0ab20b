"""Laws of the doctor: nothing for healthy programs however odd, every cause reachable, never an error, one answer."""

from __future__ import annotations

import dataclasses
import math
import random
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from patients import (
    ADAM,
    GAP,
    LOADER,
    NET,
    TESTS,
    chain,
    curve,
    failed,
    layers,
    note,
    patient,
    told,
    tried,
)
from test_doctor_causes import CASES

from conviction.findings import trials
from conviction.findings.data_seen import _entropy_by_chance
from conviction.findings.doctoring import EXPLAINS, TOPICS, ask, explain_away
from conviction.findings.evidence import Inputs, Overfit
from conviction.findings.learning import read_learning
from conviction.findings.observation import Ending, Observation, Place
from conviction.findings.records import Finding

BUDGET = Ending("budget")
TWO = (replace(ADAM, nets=(0,)), replace(ADAM, number=1, nets=(1,)))
MSE: dict[str, Any] = {"kind": "mse_loss", "input_shape": (64, 1, 28, 28), "target_shape": (64, 1, 28, 28),
                       "target_kind": "float32", "target_distinct": 256, "target_highest": 1.0}  # fmt: skip
BCE = "binary_cross_entropy_with_logits"
BY_HAND: dict[str, Any] = {"kind": "by hand", "settings": (("lr", math.nan),), "zero_grads": 0, "carried": 0}
FROZEN: dict[str, Any] = {"trainable": 850, "owned": 850, "graded": 850, "moved": 850}
FLAT = Overfit(2.3, 2.25, 25, 16, 2.25, input_dependence=5e-4, spread=5e-5)

HEALTHY: dict[str, Observation] = {
    "plain": patient(),
    "nothing seen": Observation(0, 0.1),
    "tested only": patient(
        backwards=0,
        steps=0,
        measured=(),
        losses=(),
        optimizers=(),
        nets=(replace(NET, training_forwards=0, owned=0, graded=0, moved=0),),
    ),
    "gradients looked at": patient(
        "stuck",
        backwards=8,
        steps=0,
        optimizers=(),
        measured=(),
        nets=(replace(NET, training_forwards=8, owned=0, moved=0),),
    ),
    "frozen trunk with pretrained weights": patient("partly", net={**FROZEN, "pretrained": True}),
    "head on pretrained features, just begun": patient("slow", net={**FROZEN, "pretrained": True}, ending=BUDGET),
    "GAN": patient(
        "rises",
        loss={"kind": BCE, "input_shape": (64, 1), "target_shape": (64, 1), "target_distinct": 1},
        nets=tuple(
            replace(NET, number=number, testing_forwards_in_train=300, testing_forwards=300, has_batch_norm=True)
            for number in (0, 1)
        ),
        optimizers=TWO,
    ),
    "GAN that holds its balance": patient(
        "stuck",
        loss={"kind": BCE, "input_shape": (64, 1), "target_shape": (64, 1)},
        nets=(NET, replace(NET, number=1)),
        optimizers=TWO,
    ),
    "EMA copy that is tested": patient(
        nets=(
            replace(NET, testing_forwards=0),
            replace(NET, number=1, names=("ema",), training_forwards=0, owned=0, graded=0, moved=0),
        ),
        printed=told("accuracy: 0.11"),
    ),
    "teacher without gradients": patient(
        nets=(
            NET,
            replace(
                NET,
                number=1,
                names=("teacher",),
                training_forwards=0,
                testing_forwards=300,
                trainable=0,
                owned=0,
                graded=0,
                moved=0,
            ),
        )
    ),
    "teacher whose gradients nobody uses": patient(nets=(NET, replace(NET, number=1, owned=0, moved=0))),
    "two nets, two optimizers, one loss": patient(nets=(NET, replace(NET, number=1)), optimizers=TWO),
    "siamese": patient(net={"training_forwards": 600}, loss={"kind": BCE, "input_shape": (64,), "target_shape": (64,)}),
    "accumulation": patient(optimizer={"steps": 75, "zero_grads": 75}, backwards=300, steps=75),
    "long accumulation before its first step": patient(
        optimizer={"steps": 0, "zero_grads": 1}, net={"moved": 0}, backwards=32, steps=0, measured=(), ending=BUDGET
    ),
    "LBFGS": patient(
        optimizer={"kind": "LBFGS", "settings": (("lr", 1.0),), "steps": 20, "zero_grads": 400}, backwards=400, steps=20
    ),
    "SGD by hand": patient(optimizer=BY_HAND, lrs=[math.nan] * 60),
    "SGD by hand, optimizer made and not used": patient(optimizers=(replace(ADAM, steps=0, zero_grads=0),)),
    "SGD at the book's rate": patient("plateau", optimizer={"kind": "SGD", "settings": (("lr", 0.9),)}),
    "warm-up just begun": patient(
        "stuck", lrs=[1e-6 * number for number in range(60)], step={"update_ratio": 1e-6}, ending=BUDGET
    ),
    "warm-up, faster at ten times the rate": patient(
        "stuck", lrs=[1e-5 * (1 + number) for number in range(60)], trials=tried(trials.HIGHER_LR), ending=BUDGET
    ),
    "stopped within a batch, tested without a loader": patient(
        tests={"made_at": None, "batch_size": 1000, "shared_with_training": 0.06}, ending=BUDGET
    ),
    "a long plateau, and another start no better": patient(
        "stuck",
        seen={"input_dependence": 9e-4},
        evidence={"overfit": replace(FLAT, input_dependence=0.1)},
        trials=tried(trials.NEW_INIT, helps=False),
        ending=BUDGET,
    ),
    "80 % zeros": patient(seen={"signals": layers(dead_share=0.8)}),
    "dead units beside a shortcut": patient(seen={"signals": chain(dead_share=(0.1, 1.0, 0.1, None))}),
    "plateau, then falling": patient("plateau", seen={"input_dependence": 6e-4}, evidence={"overfit": FLAT}),
    "batch 8": patient(
        loader={"batch_size": 8, "smallest_batch": 8, "entropy": 1.6},
        net={"smallest_statistics": 8, "has_batch_norm": True},
        step={"samples": 8},
    ),
    "batch 8, in the order of the set": patient(
        loader={"batch_size": 8, "entropy": 1.62, "runs": 1.1, "shuffled": False}
    ),
    "batches of few classes for a metric loss": patient(loader={"shuffled": None, "entropy": 2.1, "runs": 4.0}),
    "mixup": patient(
        "partly",
        loss={"target_shape": (64, 10), "target_kind": "float32", "target_highest": 1.0, "target_distinct": 40},
    ),
    "label smoothing": patient("partly", loss={"label_smoothing": 0.1}),
    "several labels an image": patient(
        loss={
            "kind": BCE,
            "target_shape": (64, 10),
            "target_highest": 1,
            "target_kind": "float32",
            "target_distinct": 2,
        },
        blind=0.69,
    ),
    "one-hot labels and squares": patient(
        loss={
            "kind": "mse_loss",
            "target_shape": (64, 10),
            "target_highest": 1,
            "target_kind": "float32",
            "target_distinct": 2,
        },
        blind=0.09,
    ),
    "autoencoder": patient(loss=MSE, blind=0.2),
    "regression that has converged": patient("stuck", loss={**MSE, "input_shape": (64, 1), "target_shape": (64, 1)}),
    "VAE, summed": patient(
        loss={**MSE, "kind": "binary_cross_entropy", "reduction": "sum", "made_by": "sigmoid"}, blind=64 * 784 * 0.69
    ),
    "distillation": patient(loss={"kind": "kl_div", "made_by": "logsoftmax", "highest": 0.0}),
    "test in the middle of training": patient(net={"testing_forwards": 200}),
    "a look at the shapes first": patient(
        net={"testing_forwards": 1, "testing_forwards_in_train": 1, "has_batch_norm": True}
    ),
    "tested in train mode without batch norm or dropout": patient(net={"testing_forwards_in_train": 40}),
    "accuracy on the batch just trained on": patient(
        net={"has_batch_norm": True, "testing_forwards": 300, "testing_forwards_in_train": 300},
        mode_gap=GAP,
        loaders=(LOADER,),
    ),
    "eval mode while fine-tuning": patient(
        net={"pretrained": True, "has_batch_norm": True, "training_forwards_in_eval": 300}
    ),
    "batch norm lags behind at first": patient(
        net={"has_batch_norm": True},
        steps=30,
        ending=BUDGET,
        mode_gap=replace(GAP, eval_loss=3.0, eval_accuracy=0.2, repaired_loss=0.6, statistics_moved=True),
    ),
    "cosine to zero": patient(
        lrs=[1e-3 * (1 + math.cos(math.pi * at / 59)) / 2 for at in range(60)],
        schedule="CosineAnnealingLR",
        schedule_steps=300,
    ),
    "one cycle": patient(lrs=[4e-5 + 1e-3 * math.sin(math.pi * at / 59) for at in range(60)], schedule="OneCycleLR"),
    "steps down at the end": patient("partly", lrs=[1e-3] * 45 + [1e-6] * 15, schedule="MultiStepLR"),
    "log_softmax and NLL": patient(loss={"kind": "nll_loss", "made_by": "logsoftmax", "highest": -1e-6}),
    "log_softmax and cross-entropy": patient(loss={"made_by": "logsoftmax", "highest": -1e-6}),
    "NiN as published": patient(loss={"made_by": "mean", "lowest": 0.0}),
    "loss printed in percent": patient("stuck", printed=told("loss 230.3", "loss 230.2"), trials=(), ending=BUDGET),
    "accuracy printed in percent": patient(printed=told("acc: 81.2", "acc: 85.0 %"), step={"accuracy": 0.8}),
    "answers counted": patient(printed=told("accuracy: 8120/10000", "accuracy: 8500/10000")),
    "words like accuracy": patient(printed=told("accumulate 128", "accelerator 3000", "loss scale 65536")),
    "gradients often clipped": patient(step={"clip_norm": 1.0, "clip_found": 5.0}),
    "clipped hard under Adam": patient(step={"clip_norm": 1e-3, "clip_found": 5.0}),
    "float16 with a scaler": patient(autocast="float16", scaler=True, step={"zero_gradient_share": 0.3}),
    "bfloat16": patient(autocast="bfloat16"),
    "dropout of AlexNet": patient(
        "partly", net={"has_dropout": True, "dropouts": (("a", 0.5, False), ("b", 0.5, False))}
    ),
    "momentum .95, decay .05": patient(optimizer={"kind": "SGD"}, settings={"momentum": 0.95, "weight_decay": 0.05}),
    "converged: decay above the gradient": patient(settings={"weight_decay": 5e-4}, step={"gradient_norm": 1e-3}),
    "some twins in the test": patient(tests={"shared_with_training": 0.012}),
    "accuracy on the training images too": patient(
        loaders=(LOADER, TESTS, replace(TESTS, number=2, shared_with_training=1.0))
    ),
    "imbalanced and learned": patient(
        blind=0.4, loader={"entropy": 0.38, "entropy_all": 0.4, "largest_class_share": 0.9}
    ),
    "imbalanced, weighted": patient(
        "falls", loss={"weighted": True}, loader={"entropy_all": 0.4, "entropy": 0.38}, ending=BUDGET
    ),
    "a hundred classes, a third of the way": patient(
        "partly",
        loss={"input_shape": (64, 100)},
        blind=math.log(100),
        loader={"entropy": 3.9, "entropy_all": 4.6, "classes": 100},
        ending=BUDGET,
    ),
    "a few classes of a wide head": patient(loss={"input_shape": (64, 1000)}, net={"pretrained": True}),
    "0..255 with batch norm": patient(evidence={"inputs": Inputs(64, True, 255, 116, 90, False)}),
    "large start that recovers": patient(seen={"cross_entropy": 30.0, "max_softmax": 0.95}),
    "a net made and not used": patient(notes=note("net-unused", 5, "big", text="`big` (VGG) is made and never called")),
    "a variable nobody reads": patient(notes=note("variable-unused", 5, "lr", text="`lr = 0.1` is never read")),
    "three steps": patient(steps=3, measured=patient("stuck").measured[:3], evidence=None, ending=BUDGET),
    "an error after training": replace(patient(), ending=Ending("error", "KeyError: 'plot'", Place("t.py", 60))),
    "exit at the end": replace(patient(), ending=Ending("exit", code=0)),
    "losses kept as numbers": patient(graphs_kept=1, memory_growth_bytes=200.0),
    "a trial that is faster still": patient(trials=tried(trials.HIGHER_LR, control=True)),
    "mixed a little by rounding": patient(mixing=2e-6),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_gets_nothing(name: str) -> None:
    assert [str(finding) for finding in ask(HEALTHY[name])] == []


@pytest.mark.parametrize("kind", ["learns", "partly", "plateau"])
def test_no_seed_of_the_noise_makes_a_healthy_program_sick(kind: str) -> None:
    for seed in range(60):
        for noise in (0.02, 0.15):
            values = [
                v * (1 + noise * random.Random(seed * 99 + n).gauss(0, 1)) for n, v in enumerate(curve(kind, seed=seed))
            ]
            measured = tuple(replace(step, loss=value, told=value)
                             for step, value in zip(patient().measured, values, strict=True))  # fmt: skip
            assert ask(patient(measured=measured, ending=BUDGET)) == (), (seed, noise)


def test_every_cause_is_reached_and_has_a_question() -> None:
    codes = {cause for cause, *_ in CASES}
    assert len(codes) == 46 and set(EXPLAINS) <= codes
    assert set().union(*EXPLAINS.values()) <= codes
    asked = {check.__name__.replace("_", "-") for _, checks in TOPICS for check in checks} - {"explain-error"}
    assert asked == codes - {"input-too-small"}  # known by its error alone


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_findings_tell_numbers_and_are_few(case: tuple[str, Observation, Observation, int | None]) -> None:
    findings = ask(case[1])
    assert 1 <= len(findings) <= 3 and len({finding.cause for finding in findings}) == len(findings)
    for finding in findings:
        assert any(letter.isdigit() for letter in finding.seen), finding.seen
        assert finding.expected and finding.remedy and 0 < finding.confidence <= 1
        assert "  " not in str(finding) and "None" not in str(finding) and "nan of" not in str(finding)
        assert finding.file == "t.py"


@settings(max_examples=60)
@given(st.integers(0, len(CASES) - 1), st.integers(0, 2**32))
def test_whatever_is_missing_nothing_is_raised(number: int, seed: int) -> None:
    chance = random.Random(seed)
    for observation in CASES[number][1:3]:
        ask(emptied(observation, chance))


def emptied(record: Any, chance: random.Random) -> Any:
    """Return a record some of whose fields are as if nothing had been seen."""
    changes: dict[str, Any] = {}
    for field in fields(record):
        value, drop = getattr(record, field.name), chance.random() < 0.15
        if isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
            changes[field.name] = (
                () if drop else tuple(emptied(part, chance) for part in value if chance.random() > 0.1)
            )
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            optional = field.default is None or field.name in {"evidence", "mode_gap"}
            changes[field.name] = None if drop and optional else emptied(value, chance)
        elif drop and field.default is not dataclasses.MISSING:
            changes[field.name] = field.default
        elif drop and isinstance(value, float):
            changes[field.name] = math.nan
    return replace(record, **changes)


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(st.sampled_from(sorted({cause for cause, *_ in CASES})), st.floats(0.3, 1)),
        min_size=1,
        unique_by=lambda p: p[0],
    )
)
def test_something_is_always_left_to_blame(pairs: list[tuple[str, float]]) -> None:
    found = [Finding(cause, "1", "2", "3", confidence=sure) for cause, sure in pairs]
    left = explain_away(found)
    assert left and set(left) <= set(found)
    assert explain_away(left) == left


@pytest.mark.parametrize(
    ("upstream", "symptom"),
    [
        ("optimizer-owns-other-net", "init-collapse"),
        ("input-unscaled", "dead-relu"),
        ("input-unscaled", "lr-too-high"),
        ("lr-absurd", "dead-relu"),
        ("lr-absurd", "non-finite"),
        ("wrong-model-passed", "lr-absurd"),
        ("not-shuffled", "labels-malformed"),
        ("init-collapse", "lr-too-low"),
        ("bn-tiny-batch", "no-eval-at-test"),
        ("double-softmax", "init-collapse"),
        ("step-missing", "init-collapse"),
        ("eval-mode-training", "no-eval-at-test"),
    ],
)
def test_the_cause_explains_its_symptom(upstream: str, symptom: str) -> None:
    found = [Finding(cause, "1", "2", "3", confidence=0.9) for cause in (symptom, upstream)]
    assert [finding.cause for finding in explain_away(found)] == [upstream]
    sure = [replace(found[0], confidence=0.95), replace(found[1], confidence=0.5)]
    assert len(explain_away(sure)) == 2


def test_what_keeps_a_net_from_learning_comes_before_what_stands_beside_it() -> None:
    kept = {"graphs_kept": 290, "notes": note("loss-kept", 37)}
    sick = patient("stuck", seen={"input_dependence": 4e-4}, evidence={"overfit": FLAT}, **kept)
    assert [finding.cause for finding in ask(sick)] == ["init-collapse", "loss-graph-kept"]
    assert [finding.cause for finding in ask(patient(**kept))] == ["loss-graph-kept"]


def test_a_trial_decides_between_two_suspects() -> None:
    seen = {"input_dependence": 4e-4, "signals": chain(std=(0.5, 0.05, 0.005, 0.0005))}
    both = patient("huge", settings={"lr": 10.0}, seen=seen, evidence={"overfit": FLAT})
    assert ask(both)[0].cause == "lr-absurd"
    proof = replace(both, trials=tried(trials.NEW_INIT))
    found = next(finding for finding in ask(proof) if finding.cause == "init-collapse")
    assert found.confidence == 0.95 and found.experiment and "0.31" in found.experiment
    in_vain = next(
        (f for f in ask(replace(both, trials=tried(trials.NEW_INIT, helps=False))) if f.cause == "init-collapse"), None
    )
    assert in_vain is None or in_vain.confidence < 0.6


@pytest.mark.parametrize(
    ("kind", "state"),
    [
        ("learns", "well"),
        ("partly", "partly"),
        ("falls", "partly"),
        ("slow", "slow"),
        ("stuck", "stuck"),
        ("rises", "rose"),
        ("lost", "lost"),
        ("breaks", "broke"),
        ("huge", "stuck"),
        ("plateau", "well"),
    ],
)
def test_learning_is_told_from_losses(kind: str, state: str) -> None:
    learning = read_learning(patient(kind))
    assert learning.state == state
    assert learning.fails == (state in {"stuck", "rose", "lost", "broke"}) and learning.steps == 296
    assert learning.blind == pytest.approx(LOADER.entropy_all)


def test_of_dead_units_and_the_collapse_they_make_the_dead_units_are_named() -> None:
    """Biases of -3: no unit answers, so nothing of the images reaches the logits."""
    signals = layers(std=0.0, dead_share=1.0)
    overfit = Overfit(2.303, 2.104, 25, 16, 2.08, input_dependence=0.0, spread=0.0)
    sick = patient("stuck", seen={"signals": signals, "input_dependence": 0.0}, evidence={"overfit": overfit})
    assert [finding.cause for finding in ask(sick)] == ["dead-relu"]


def test_a_program_of_a_few_steps_that_ends_while_it_learns_is_too_short() -> None:
    falling = (2.36, 2.32, 2.27, 2.24, 2.09, 2.04, 1.86, 1.89)
    steps = tuple(replace(step, told=value, loss=value, index=index)
                  for index, (step, value) in enumerate(zip(patient().measured, falling, strict=False)))  # fmt: skip
    assert [finding.cause for finding in ask(patient(measured=steps, steps=8))] == ["too-few-steps"]
    assert ask(patient(measured=steps, steps=8, ending=BUDGET)) == ()


def test_a_program_of_three_steps_has_hardly_begun() -> None:
    steps = tuple(replace(step, told=2.3, loss=2.3, index=index) for index, step in enumerate(patient().measured[:3]))
    (finding,) = ask(patient(measured=steps, steps=3, backwards=3))
    assert finding.cause == "too-few-steps" and "3 steps" in finding.seen
    assert ask(patient(measured=steps, steps=3, backwards=3, ending=BUDGET)) == ()


def test_learning_needs_answers_or_losses_of_many_images() -> None:
    stuck = patient("stuck", step={"accuracy": 0.5})
    assert read_learning(stuck).state == "partly" and read_learning(stuck).accuracy == pytest.approx(0.5)
    assert read_learning(patient("stuck", step={"accuracy": 0.105})).state == "stuck"
    few = replace(stuck, measured=tuple(replace(step, samples=4) for step in stuck.measured))
    assert read_learning(few).accuracy is None
    assert read_learning(replace(stuck, measured=stuck.measured[:4])).state == "unknown"


@pytest.mark.parametrize(("size", "classes"), [(4, 10), (8, 10), (64, 10), (32, 100), (16, 2)])
def test_entropy_of_random_batches_agrees_with_drawn_ones(size: int, classes: int) -> None:
    drawn = torch.randint(classes, (4000, size), generator=torch.Generator().manual_seed(0))
    shares = torch.nn.functional.one_hot(drawn, classes).double().mean(1)
    entropy = -(shares * shares.clamp_min(1e-12).log()).sum(1).mean()
    assert _entropy_by_chance(size, classes) == pytest.approx(float(entropy), rel=0.01)


def test_sums_are_judged_by_image() -> None:
    summed = patient("learns", loss={"reduction": "sum"}, blind=64 * math.log(10))
    assert read_learning(summed).first == pytest.approx(read_learning(patient("learns")).first or 0.0, rel=1e-6)


@pytest.mark.parametrize(
    ("error", "cause", "word"),
    [
        ("ValueError: Expected input batch_size (512) to match target batch_size (64).", "mixed-batch", "512"),
        ("IndexError: Target -1 is out of bounds.", "labels-malformed", "-1"),
        ("RuntimeError: expected scalar type Long but found Float", "labels-malformed", "Float"),
        ("RuntimeError: 0D or 1D target tensor expected, multi-target not supported", "labels-malformed", "1D"),
        ("RuntimeError: CUDA error: device-side assert triggered", "labels-malformed", "10"),
        ("ValueError: Invalid momentum value: -0.9", "optimizer-settings", "-0.9"),
        (
            "RuntimeError: Given groups=1, weight of size [8, 3, 3, 3], expected input[64, 1, 28, 28] to have 3 "
            "channels, but got 1 channels instead",
            "channel-order",
            "64x1x28x28",
        ),
        (
            "RuntimeError: Given groups=1, weight of size [8, 1, 3, 3], expected input[1, 64, 28, 28] to have 1 "
            "channels, but got 64 channels instead",
            "channel-order",
            "1x64x28x28",
        ),
        (
            "RuntimeError: Expected 3D (unbatched) or 4D (batched) input to conv2d, but got input of size: [64, 784]",
            "channel-order",
            "64x784",
        ),
        (
            "ValueError: Using a target size (torch.Size([64])) that is different to the input size "
            "(torch.Size([64, 10])) is deprecated.",
            "wrong-loss",
            "64",
        ),
    ],
)
def test_usual_errors_are_explained(error: str, cause: str, word: str) -> None:
    (finding,) = ask(failed(error))
    assert finding.cause == cause and word in finding.seen and finding.hard and finding.line == 33


def test_real_errors_of_torch_are_explained() -> None:
    """The messages as this version of PyTorch writes them."""
    images, conv = torch.zeros(2, 1, 28, 28), torch.nn.Conv2d(1, 4, 5)
    linear, loss = torch.nn.Linear(8, 3), torch.nn.CrossEntropyLoss()
    graph = linear(torch.zeros(2, 8)).sum().exp()
    graph.backward()
    failures: dict[str, Any] = {
        "channel-order": lambda: conv(images.permute(0, 2, 3, 1)),
        "input-too-small": lambda: conv(images[..., :3, :3]),
        "input-unscaled": lambda: conv(images.byte()),
        "bn-tiny-batch": lambda: torch.nn.BatchNorm1d(8)(torch.zeros(1, 8)),
        "loss-detached": lambda: linear(torch.zeros(2, 8)).detach().sum().backward(),
        "loss-graph-kept": lambda: graph.backward(),
        "mixed-batch": lambda: loss(torch.zeros(4, 3), torch.zeros(2).long()),
        "classes-mismatch": lambda: loss(torch.zeros(2, 10), torch.tensor([12, 0])),
        "labels-malformed": lambda: loss(torch.zeros(2, 3), torch.zeros(2)),
        "wrong-loss": lambda: torch.nn.BCELoss()(torch.full((2, 3), 4.0), torch.zeros(2, 3)),
        "lr-absurd": lambda: torch.optim.Adam(linear.parameters(), lr=-0.1),
        "optimizer-settings": lambda: torch.optim.SGD(linear.parameters(), lr=0.1, momentum=-1.0),
        "optimizer-owns-other-net": lambda: torch.optim.SGD([], lr=0.1),
    }
    for cause, fails in failures.items():
        with pytest.raises((RuntimeError, ValueError, IndexError)) as caught:
            fails()
        text = " ".join(f"{type(caught.value).__name__}: {caught.value}".split())
        assert [finding.cause for finding in ask(failed(text))] == [cause], text


def test_the_factor_of_a_printed_loss_is_told() -> None:
    sick = patient("stuck", printed=told("loss 0.0360", "loss 0.0359"))
    (finding,) = ask(sick)
    assert finding.cause == "metric-wrong" and "1/64" in finding.seen and "2 printed lines" in finding.seen
    for lines in (told("loss 0.0360"), told("loss 0.0360", "loss 2.303"), told("loss 0.9", "loss 0.9")):
        assert "metric-wrong" not in {finding.cause for finding in ask(replace(sick, printed=lines))}
    assert ask(replace(sick, printed=told("loss 0.0360"), notes=note("metric-divided", 8)))[0].line == 8


@pytest.mark.parametrize(
    ("ratio", "others", "cause"),
    [
        (2e-3, {}, "init-collapse"),
        (1e-4, {"optimizer": {"kind": "SGD"}}, "lr-too-low"),
        (0.05, {}, "lr-too-high"),
    ],
)
def test_a_program_that_ended_and_learned_nothing_is_never_called_well(
    ratio: float, others: dict[str, Any], cause: str
) -> None:
    sick = patient("stuck", step={"update_ratio": ratio}, **others)
    (finding,) = ask(sick)
    assert (finding.cause, finding.confidence) == (cause, 0.5) and "no other cause" in finding.seen
    assert ask(replace(sick, ending=Ending("budget"))) == (), "its time was over: it may be on a plateau"
    assert ask(patient("learns", step={"update_ratio": ratio}, **others)) == ()


def test_steps_of_no_optimizer_are_read() -> None:
    bare = patient("learns", optimizers=())
    measured = tuple(replace(step, optimizer=-1, lr=math.nan) for step in bare.measured)
    assert (
        ask(replace(bare, measured=measured)) == () and read_learning(replace(bare, measured=measured)).state == "well"
    )


def test_a_net_that_its_optimizer_has_is_not_called_a_stranger() -> None:
    """Its rate is zero, and another optimizer steps on another net."""
    other = replace(NET, number=1, training_forwards=0, graded=0, moved=0)
    idle = replace(ADAM, settings=(("lr", 0.0),))
    sick = patient("stuck", nets=(replace(NET, moved=0), other), optimizers=(idle, TWO[1]), lrs=[0.0] * 60)
    assert [finding.cause for finding in ask(sick)] == ["lr-absurd"]


def test_losses_of_the_start_alone_do_not_tell_how_a_program_ended() -> None:
    falling = patient("falls")
    last = max(step.index for step in falling.measured)
    assert [finding.cause for finding in ask(falling)] == ["too-few-steps"]
    assert last < 300 and ask(replace(falling, steps=round(1.6 * last))) == ()
