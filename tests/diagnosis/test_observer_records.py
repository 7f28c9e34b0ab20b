"""What the observer tells of small real programs, field by field; the truth is known from how they were written."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import programs_seen as programs
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from conviction.diagnosis.observer import Enough, Observer
from conviction.findings.observation import NetSeen, Observation, Place


def observe(program: Callable[[], Any]) -> tuple[Observation, Observer]:
    torch.manual_seed(0)
    with Observer(share=1000.0) as observer:  # everything is noted, however slow the machine is
        program()
    seen = observer.observation()
    assert observer.troubles == ()
    return seen, observer


def line_of(place: Place | None) -> str:
    assert place is not None
    return Path(place.file).read_text().splitlines()[place.line - 1].strip()


def only(nets: tuple[NetSeen, ...]) -> NetSeen:
    assert len(nets) == 1
    return nets[0]


def test_a_healthy_program() -> None:
    seen, observer = observe(programs.plain)
    net, optimizer, loss, loader = only(seen.nets), seen.optimizers[0], seen.losses[0], seen.loaders[0]
    params = sum(p.numel() for p in programs.Net().parameters())
    assert (net.kind, net.params, net.trainable, net.owned, net.graded, net.moved) == ("Net", *[params] * 5)
    assert net.names == ("net",) and line_of(net.made_at) == "net = Net()"
    assert (net.training_forwards, net.testing_forwards, net.training_forwards_in_eval) == (20, 0, 0)
    assert "nn.CrossEntropyLoss()(net(" in line_of(net.forward_at)
    assert (optimizer.kind, optimizer.steps, optimizer.zero_grads, optimizer.carried) == ("SGD", 20, 20, 0)
    assert optimizer.setting("lr") == 0.1 and optimizer.nets == (0,) and optimizer.params == params
    assert line_of(optimizer.step_at) == "optimizer.step()" and "torch.optim.SGD(" in line_of(optimizer.made_at)
    assert (loss.kind, loss.calls, loss.reduction, loss.made_by) == ("cross_entropy", 20, "mean", "addmm")
    assert (loss.input_shape, loss.target_shape, loss.target_kind) == ((16, 3), (16,), "int64")
    assert (loss.target_lowest, loss.target_highest, loss.target_distinct) == (0, 2, 3)
    assert loader.trains and (loader.batch_size, loader.shuffled, loader.classes) == (16, None, 3)
    assert (seen.steps, seen.backwards, seen.graphs_kept, seen.not_finite) == (20, 20, 0, "")
    assert observer.captured is not None and observer.captured.loss_known


def test_measured_steps_are_what_the_program_computed() -> None:
    torch.manual_seed(0)
    losses = programs.plain()
    seen, _ = observe(programs.plain)
    assert [step.loss for step in seen.measured] == losses
    assert [step.told for step in seen.measured] == losses
    # A second witness for the first step: the same net and batch, by hand.
    torch.manual_seed(0)
    x, y = programs.images()
    net = programs.Net()
    logits = net(x[:16])
    F.cross_entropy(logits, y[:16]).backward()
    norm = math.sqrt(sum(float((p.grad.double() ** 2).sum()) for p in net.parameters()))
    size = math.sqrt(sum(float((p.detach().double() ** 2).sum()) for p in net.parameters()))
    ratios = [0.1 * float(p.grad.norm()) / float(p.detach().norm()) for p in net.parameters() if p.ndim > 1]
    first = seen.measured[0]
    assert first.gradient_norm == pytest.approx(norm, rel=1e-5) and first.weight_norm == pytest.approx(size, rel=1e-5)
    assert first.update_ratio == pytest.approx(sum(ratios) / 2, rel=1e-4)
    assert first.largest_update_ratio == pytest.approx(max(ratios), rel=1e-4)
    assert first.accuracy == pytest.approx(float((logits.argmax(1) == y[:16]).double().mean()))
    assert (first.changed, first.samples, first.lr) == (True, 16, 0.1)
    zeros = sum(int((p.grad == 0).sum()) for p in net.parameters()) / sum(p.numel() for p in net.parameters())
    assert first.zero_gradient_share == pytest.approx(zeros)
    assert [step.gradient_norm is not None for step in seen.measured] == [True] * 12 + [False] * 8


def test_optimizer_of_an_older_net() -> None:
    seen, _ = observe(programs.with_older_net)
    old, new = seen.nets
    assert (old.owned, old.graded, old.moved, old.training_forwards) == (old.params, 0, 0, 0)
    assert (new.owned, new.graded, new.moved, new.training_forwards) == (0, new.params, 0, 5)
    assert line_of(old.made_at) == "net = Net()" and line_of(new.made_at) == "net = Net(5)"
    assert seen.optimizers[0].nets == (0,)
    assert all(step.changed is False and step.gradient_norm is None for step in seen.measured)


def test_a_step_that_is_missing() -> None:
    seen, observer = observe(programs.without_step)
    assert (seen.steps, seen.backwards, seen.optimizers[0].steps, seen.optimizers[0].zero_grads) == (0, 6, 0, 6)
    assert (only(seen.nets).graded, only(seen.nets).moved) == (only(seen.nets).params, 0)
    assert len({step.loss for step in seen.measured}) == 1 and len(seen.measured) == 6
    assert all(
        step.changed is False and (step.gradient_norm or 0) > 0 and step.optimizer == -1 for step in seen.measured
    )
    assert observer.captured is not None and len(observer.captured.batches) == 6


@pytest.mark.parametrize(("program", "carried", "cleared"), [
    (programs.without_zero_grad, 5, 0), (programs.accumulating, 0, 3), (programs.plain, 0, 20),
    (programs.with_closure, 0, 12), (programs.by_hand, 0, 0), (lambda: programs.by_hand(data=True), 0, 0),
    (lambda: programs.net_by_hand(clears=False), 14, 0),
])  # fmt: skip
def test_gradients_that_are_carried_over(program: Callable[[], Any], carried: int, cleared: int) -> None:
    optimizer = observe(program)[0].optimizers[0]
    assert optimizer.carried == carried and optimizer.zero_grads == cleared


def test_eval_that_is_never_undone() -> None:
    net = only(observe(programs.always_eval)[0].nets)
    assert (net.training_forwards, net.training_forwards_in_eval) == (6, 4)
    assert (net.testing_forwards, net.testing_forwards_in_train) == (3, 0)


def test_testing_in_training_mode_with_gradients_on() -> None:
    net = only(observe(programs.tested_in_train)[0].nets)
    assert (net.training_forwards, net.testing_forwards, net.testing_forwards_in_train) == (4, 12, 12)
    assert line_of(net.test_at) == "out = net(x[at : at + 64])"


def test_accumulation() -> None:
    seen, _ = observe(programs.accumulating)
    assert (seen.steps, seen.backwards) == (3, 12)
    assert [step.optimizer for step in seen.measured] == [0, 0, 0]
    assert all(step.told == pytest.approx(4 * step.loss) for step in seen.measured)


def test_closures() -> None:
    seen, _ = observe(programs.with_closure)
    assert seen.steps == 3 and seen.optimizers[0].kind == "LBFGS" and 3 <= seen.backwards <= 15
    assert all(step.changed and step.gradient_norm for step in seen.measured)
    assert len(seen.optimizers) == 1


@pytest.mark.parametrize("program", [programs.by_hand, lambda: programs.by_hand(data=True)])
def test_updates_by_hand_of_loose_tensors(program: Callable[[], Any]) -> None:
    seen, observer = observe(program)
    net, optimizer = only(seen.nets), seen.optimizers[0]
    assert (net.kind, net.params, net.owned, net.graded, net.moved) == ("tensors", 195, 195, 195, 195)
    assert (optimizer.kind, optimizer.steps, seen.steps) == ("by hand", 15, 15)
    assert optimizer.setting("lr") == pytest.approx(0.1 / 32, rel=1e-3)
    assert [step.lr for step in seen.measured] == pytest.approx([0.1 / 32] * 15, rel=1e-3)
    assert observer.captured is None and seen.losses == ()


def test_updates_by_hand_of_a_net() -> None:
    seen, observer = observe(programs.net_by_hand)
    assert (only(seen.nets).moved, seen.steps) == (only(seen.nets).params, 15)
    assert seen.optimizers[0].nets == (0,) and seen.optimizers[0].setting("lr") == pytest.approx(0.05, rel=1e-3)
    assert observer.captured is not None and observer.captured.optimizer is not None
    made = observer.captured.optimizer(programs.Net().parameters(), {})
    assert made.param_groups[0]["lr"] == pytest.approx(0.05, rel=1e-3)


def test_numbers_that_are_not_finite() -> None:
    seen, _ = observe(programs.becoming_nan)
    assert (seen.not_finite, seen.not_finite_at_step) == ("2", 3)
    assert observe(programs.plain)[0].not_finite_at_step is None


@pytest.mark.parametrize("share", [1000.0, 0.0])
def test_weights_that_a_step_broke_are_no_layers_fault(share: float) -> None:
    def program() -> None:
        x, y = programs.images()
        net = programs.Net()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for step in range(30):
            optimizer.zero_grad()
            F.cross_entropy(net(x[:16]), y[:16]).backward()
            if step == 15:
                optimizer.param_groups[0]["lr"] = math.inf
            optimizer.step()

    with Observer(share=share) as observer:
        program()
    seen = observer.observation()
    assert seen.not_finite in ("", "loss") and (seen.not_finite_at_step or 0) >= 15


def test_clipping_and_schedule() -> None:
    seen, observer = observe(programs.clipped_and_scheduled)
    assert (seen.schedule, seen.schedule_steps, line_of(seen.schedule_at)) == ("StepLR", 6, "schedule.step()")
    assert [step.lr for step in seen.measured] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert all(step.clip_norm == 0.25 and step.clip_found for step in seen.measured)
    assert all(step.gradient_norm <= 0.2501 for step in seen.measured if step.gradient_norm)
    assert observer.captured is not None and observer.captured.clip_norm == 0.25


def test_graphs_that_are_kept() -> None:
    assert observe(programs.keeping_graphs)[0].graphs_kept == 15 - 4
    for healthy in (programs.plain, programs.accumulating, programs.adversarial, programs.with_closure):
        assert observe(healthy)[0].graphs_kept == 0


def test_two_nets_in_turn() -> None:
    seen, _ = observe(programs.adversarial)
    maker, judge = sorted(seen.nets, key=lambda net: net.params == 65)
    assert (maker.training_forwards, judge.training_forwards) == (8, 24)
    assert maker.testing_forwards == judge.testing_forwards == 0
    assert (maker.moved, judge.moved) == (maker.params, judge.params)
    assert [optimizer.carried for optimizer in seen.optimizers] == [0, 0] and seen.steps == 16
    assert {optimizer.nets for optimizer in seen.optimizers} == {(0,), (1,)}
    assert [step.optimizer for step in seen.measured[:4]] == [1, 0, 1, 0]


def test_teacher_student_and_average() -> None:
    seen, observer = observe(programs.student_of_teacher)
    teacher, student = sorted(seen.nets, key=lambda net: -net.params)
    assert (teacher.testing_forwards, teacher.training_forwards, teacher.testing_forwards_in_train) == (8, 0, 0)
    assert (student.training_forwards, student.moved) == (8, student.params)
    assert seen.losses[0].kind == "kl_div" and seen.losses[0].reduction == "batchmean"
    assert [loader.trains for loader in seen.loaders] == [True], "the teacher's answers to training images are no test"
    assert observer.captured is not None and observer.captured.between == ("logsoftmax",)


def test_a_teacher_that_was_trained_before_is_not_tested_on_training_images() -> None:
    seen, _ = observe(programs.teacher_of_batches)
    shared = [loader.shared_with_training for loader in seen.loaders if not loader.trains]
    assert shared and not any(shared)


@pytest.mark.parametrize(("detached", "kept"), [(False, 7), (True, 0)])
def test_graphs_of_tests_that_are_there_at_once_are_counted(detached: bool, kept: int) -> None:
    seen, _ = observe(lambda: programs.answers_kept(detached))
    assert (seen.test_graphs_kept, seen.graphs_kept) == (kept, 0)


def test_answers_that_are_drawn_anew_are_not_taken_for_mixed_images() -> None:
    seen, _ = observe(programs.votes_of_dropout)
    assert seen.mixing is None


def test_softmax_before_the_loss() -> None:
    seen, observer = observe(programs.softmax_twice)
    assert seen.losses[0].rows_sum_to_one and seen.losses[0].made_by == "softmax"
    assert (seen.losses[0].lowest or 0) >= 0 and (seen.losses[0].highest or 2) <= 1
    captured = observer.captured
    assert captured is not None and captured.loss_known and captured.start is not None
    x, y = captured.batches[0]
    assert float(captured.loss(captured.start(x), y)) == pytest.approx(seen.measured[0].loss, rel=1e-6)


def test_images_with_gradients_are_no_parameters() -> None:
    seen, _ = observe(programs.gradients_of_images)
    assert (only(seen.nets).kind, only(seen.nets).training_forwards) == ("Net", 12)
    assert (seen.steps, seen.backwards, len(seen.optimizers)) == (6, 12, 1)


def test_forward_called_by_name() -> None:
    seen, observer = observe(programs.forward_by_name)
    net = only(seen.nets)
    assert (net.kind, net.training_forwards, net.moved) == ("Net", 5, net.params)
    captured = observer.captured
    assert captured is not None and captured.start is not None and captured.loss_known
    x, y = captured.batches[0]
    assert float(captured.loss(captured.start(x), y)) == pytest.approx(seen.measured[0].loss, rel=1e-6)


@pytest.mark.parametrize("program", [programs.with_dictionaries, programs.recurrent])
def test_odd_inputs_and_outputs(program: Callable[[], Any]) -> None:
    seen, _ = observe(program)
    assert seen.steps == 5 and all(net.training_forwards == 5 and net.moved == net.params for net in seen.nets)


def test_prints() -> None:
    seen, _ = observe(programs.printing)
    assert [line.text for line in seen.printed][-1] == "half a line 7"
    assert seen.printed[1].numbers == (1.0, 1.15, 0.15, 0.001)
    assert line_of(seen.printed[0].at).startswith('print(f"epoch {epoch}: loss') and len(seen.printed) == 4


def test_prints_reach_their_stream_and_are_limited(capsys: pytest.CaptureFixture[str]) -> None:
    seen, _ = observe(lambda: [print(number) for number in range(500)])
    assert capsys.readouterr().out == "".join(f"{number}\n" for number in range(500))
    assert [line.numbers[0] for line in seen.printed] == [*range(100), *range(400, 500)]


def test_loaders() -> None:
    seen, observer = observe(lambda: programs.loaded(drop_last=True))
    loader = seen.loaders[0]
    assert (loader.batch_size, loader.shuffled, loader.drop_last, loader.workers) == (40, True, True, 0)
    assert (loader.samples, loader.batches, loader.smallest_batch, loader.trains) == (192, 16, 40, True)
    assert loader.entropy is not None and loader.entropy_all is not None
    assert 0.9 * math.log(3) < loader.entropy <= loader.entropy_all <= math.log(3)
    assert (loader.classes, loader.duplicates) == (3, 0) and 1 < (loader.runs or 0) < 2
    assert "DataLoader(Noisy()" in line_of(loader.made_at)
    assert observer.captured is not None and (len(observer.captured.batches), len(observer.captured.test_batches)) == (
        8,
        4,
    )
    assert observe(lambda: programs.loaded(shuffle=False))[0].loaders[0].shuffled is False
    assert only(observe(programs.loaded)[0].nets).smallest_statistics == 32 * 36


def test_images_of_training_in_the_test() -> None:
    seen, _ = observe(programs.leaking)
    train, test = seen.loaders
    assert (train.trains, test.trains, train.shared_with_training) == (True, False, None)
    assert test.shared_with_training == pytest.approx(0.75)
    assert (train.duplicates, test.duplicates) == (0, 0)


def test_pretrained_and_frozen() -> None:
    seen, _ = observe(programs.fine_tuning)
    net = only(seen.nets)
    assert net.pretrained and net.trainable == net.params - 40 == net.owned == net.moved
    assert seen.steps == 5


def test_modes_and_mixing_of_the_trained_net() -> None:
    seen, _ = observe(programs.always_eval)
    gap = seen.mode_gap
    assert gap is not None and gap.statistics_moved and gap.repaired_loss is not None and seen.mixing == 0.0
    plain = observe(programs.plain)[0]
    assert plain.mode_gap is not None and plain.mode_gap.statistics_moved is None
    assert plain.mode_gap.train_loss == plain.mode_gap.eval_loss and plain.mode_gap.correlation == pytest.approx(1)

    def mixed() -> None:
        x, y = programs.images()
        net = nn.Sequential(programs.Net(), nn.Softmax(0))
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()

    assert (observe(mixed)[0].mixing or 0) > 0.01


def test_evidence_is_of_the_first_step() -> None:
    seen, _ = observe(programs.plain)
    evidence = seen.evidence
    assert evidence is not None and evidence.num_classes == 3 and evidence.learned
    assert evidence.probe is not None and [signal.layer for signal in evidence.probe.signals] == ["body.0", "head"]
    assert evidence.step is not None and (evidence.step.optimizer, evidence.step.lr) == ("sgd", 0.1)
    assert evidence.updates is not None and evidence.updates.median == seen.measured[0].update_ratio
    assert evidence.trainable_share == 1 and evidence.inputs is not None and not evidence.inputs.same


@pytest.mark.parametrize(("ending", "tests"), [(None, 1), (Enough, 0)], ids=["finished", "cut short"])
def test_a_training_pass_that_is_cut_off_is_no_test(ending: type[BaseException] | None, tests: int) -> None:
    torch.manual_seed(0)
    net, images = nn.Linear(4, 2), torch.randn(8, 4)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with Observer(share=1000.0) as observer:
        for _ in range(5):
            net(images).square().mean().backward()
            optimizer.step()
        answers = net(images)
        if ending is not None:
            raise ending
    seen = only(observer.observation().nets)
    assert (seen.training_forwards, seen.testing_forwards) == (5, tests) and answers.shape == (8, 2)
