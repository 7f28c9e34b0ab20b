"""Repairs: the note is gone, few lines changed, the repaired program learns; files are new and as the original was."""

import ast
import contextlib
import difflib
import io
import json
import re
from pathlib import Path

import pytest
from healthy_programs import BOOK, FLAT, FUNCTIONS, GAN, HEALTHY, TRAINER
from sick_programs import MLP, SICK, change

from conviction.diagnosis.reading.source import read_source
from conviction.diagnosis.reading.syntax import parse_text
from conviction.diagnosis.repairs.edits import (
    add_argument,
    delete_argument,
    delete_statement,
    insert_lines,
    replace_nodes,
)
from conviction.diagnosis.repairs.fixes import FIXES, diff, fix_all, fix_for, fixed_name, write_fix
from conviction.errors import ResourceError
from conviction.findings.records import Finding
from conviction.storage import numbered

CAUSES = {
    "arguments-swapped": "wrong-model-passed",
    "optimizer-before-net": "optimizer-owns-other-net",
    "forward-other-net": "forward-uses-other-net",
    "step-missing": "step-missing",
    "zero-grad-missing": "zero-grad-missing",
    "eval-without-train": "eval-mode-training",
    "eval-missing": "no-eval-at-test",
    "loss-kept": "loss-graph-kept",
    "loss-detached": "loss-detached",
    "loss-negated": "sign-flipped",
    "loss-sum": "wrong-loss",
    "softmax-before-ce": "double-softmax",
    "relu-on-logits": "activation-on-logits",
    "nll-without-log-softmax": "nll-on-logits",
    "mse-on-classes": "wrong-loss",
    "softmax-dim": "mixed-batch",
    "view-for-permute": "mixed-batch",
    "labels-shifted": "labels-malformed",
    "layers-in-list": "frozen-params",
    "parameters-frozen": "frozen-params",
    "init-scale": "init-tiny",
    "dropout-high": "dropout-too-high",
    "clip-low": "clip-too-low",
    "shuffle-false": "not-shuffled",
    "scheduler-per-batch": "schedule-kills-lr",
    "metric-divided": "metric-wrong",
    "bn-momentum": "no-eval-at-test",
    "half-without-scaler": "amp-underflow",
}
REPAIRED = [(kind, text) for kind, text in SICK if kind in CAUSES]


def finding(cause: str, line: int | None = None, **told: str) -> Finding:
    words = {"seen": "inputs from 0 to 255", "expected": "10 classes", "remedy": "do it"} | told
    return Finding(cause, words["seen"], words["expected"], words["remedy"], file="train.py", line=line)


def changed_lines(old: str, new: str) -> list[str]:
    return [line for line in difflib.ndiff(old.splitlines(), new.splitlines()) if line[:2] in {"- ", "+ "}]


def repaired(cause: str, text: str, **told: str) -> str:
    new = fix_for(cause, read_source(text, "train.py"), text, finding(cause, **told))
    assert new is not None
    return new


@pytest.mark.parametrize(("kind", "text"), REPAIRED, ids=[f"{kind}-{n}" for n, (kind, _) in enumerate(REPAIRED)])
def test_a_repair_removes_the_note_and_changes_few_lines(kind: str, text: str) -> None:
    notes = read_source(text, "train.py")
    line = next(note.at.line for note in notes if note.kind == kind)
    new = fix_for(CAUSES[kind], notes, text, finding(CAUSES[kind], line))
    assert new is not None
    compile(new, "train.py", "exec")
    left = {note.kind for note in read_source(new, "train.py")}
    assert kind not in left
    assert left <= {"net-unused", "half-without-scaler"}  # the net that is no longer called
    assert 1 <= len(changed_lines(text, new)) <= 6


# A real run of each: the sick program stays near chance or crashes, the repaired one learns.
RUN = MLP.replace(
    MLP[: MLP.index("train_loader")],
    """\
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset
torch.manual_seed(0)
y_train = torch.arange(640) % 10
centres = torch.randn(10, 784)
x_train = centres[y_train] + 0.5 * torch.randn(640, 784)
train_set = TensorDataset(x_train, y_train)
test_set = TensorDataset(x_train[:200], y_train[:200])
""",
)
NET = "net = nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))"
SICK_RUNS = {
    "optimizer-owns-other-net": change(RUN, ("lr=lr)", f"lr=lr)\n{NET}")),
    "forward-uses-other-net": change(
        RUN,
        ("criterion =", NET.replace("net =", "second =") + "\ncriterion ="),
        ("logits = net(xb)", "logits = second(xb)"),
    ),
    "step-missing": change(RUN, ("        opt.step()\n", "")),
    "loss-detached": change(
        RUN,
        (
            "        loss.backward()",
            "        loss = torch.tensor(loss.item(), requires_grad=True)\n        loss.backward()",
        ),
    ),
    "frozen-params": change(
        RUN, ("criterion =", "for p in net.parameters():\n    p.requires_grad = False\ncriterion =")
    ),
    "lr-absurd": change(RUN, ("lr = 0.1", "lr = 1000.0")),
    "lr-too-low": change(RUN, ("lr = 0.1", "lr = 1e-7")),
    "init-symmetric": change(
        RUN, ("criterion =", "for p in net.parameters():\n    nn.init.constant_(p, 0.01)\ncriterion =")
    ),
    "init-tiny": change(
        RUN,
        (
            "criterion =",
            "for m in (net[1], net[3]):\n    nn.init.normal_(m.weight, 0, 1e-6)\ncriterion =",
        ),
    ),
    "sign-flipped": change(RUN, ("loss.backward()", "(-loss).backward()")),
    "mixed-batch": change(RUN, ("argmax(1)", "argmax(0)")),
    "clip-too-low": change(
        RUN, ("        opt.step()", "        nn.utils.clip_grad_norm_(net.parameters(), 1e-6)\n        opt.step()")
    ),
    "dropout-too-high": change(RUN, ("nn.ReLU(),", "nn.ReLU(), nn.Dropout(0.99),")),
    "weight-decay-dominates": change(RUN, ("lr=lr", "lr=lr, weight_decay=9.0")),
    "nll-on-logits": change(RUN, ("CrossEntropyLoss", "NLLLoss")),
    "input-unscaled": change(
        RUN,
        (
            "x_train = centres[y_train] + 0.5 * torch.randn(640, 784)",
            "x_train = 255 * (centres[y_train] + 0.5 * torch.randn(640, 784))",
        ),
    ),
    "labels-malformed": change(RUN, ("criterion(logits, yb)", "criterion(logits, yb + 1)")),
    "schedule-kills-lr": change(
        RUN,
        ("        opt.step()\n", "        opt.step()\n        sched.step()\n"),
        ("for epoch in", "sched = torch.optim.lr_scheduler.ExponentialLR(opt, gamma=0.001)\nfor epoch in"),
    ),
}


def accuracy(text: str) -> float:
    """Run a program; a crash or a NaN counts as nothing learned."""
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.suppress(Exception):
        exec(compile(text, "train.py", "exec"), {"__name__": "__main__"})
    found = re.search(r"accuracy ([\d.]+)", told.getvalue())
    return float(found.group(1)) if found else 0.0


def test_the_program_of_the_runs_learns() -> None:
    assert accuracy(RUN) > 0.95


@pytest.mark.parametrize("cause", SICK_RUNS)
def test_a_repaired_program_learns_as_its_twin(cause: str) -> None:
    sick = SICK_RUNS[cause]
    mended = repaired(cause, sick)
    assert accuracy(sick) < 0.85
    assert accuracy(mended) > 0.9, mended


def test_input_scaling_reaches_every_call_of_the_net() -> None:
    new = repaired("input-unscaled", FLAT)
    assert "outputs = net(images / 255)" in new
    assert "predicted = net(images / 255).argmax" in new
    odd = repaired("input-unscaled", FLAT, seen="standard deviation 0.004")
    assert "net((images - images.mean()) / (images.std() + 1e-8))" in odd


@pytest.mark.parametrize(
    ("cause", "text", "line"),
    [
        ("lr-absurd", change(FLAT, ("lr=0.1, momentum=0.9", "lr=10")), "lr=0.1)"),
        (
            "lr-absurd",
            change(
                FLAT,
                (
                    "torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)",
                    "torch.optim.Adam(net.parameters(), lr=10)",
                ),
            ),
            "lr=0.001)",
        ),
        ("lr-too-high", FUNCTIONS, "default=0.1)"),
        ("lr-too-low", change(TRAINER, ("lr=1e-3", "lr=1e-7")), "lr=0.001,"),
        ("optimizer-settings", change(FLAT, ("momentum=0.9", "momentum=0.999")), "momentum=0.9)"),
        ("weight-decay-dominates", change(TRAINER, ("weight_decay=0.05", "weight_decay=5.0")), "weight_decay=5e-4"),
        ("init-collapse", BOOK, "nn.init.xavier_uniform_(layer.weight)"),
        ("init-collapse", FLAT, 'nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")'),
        ("bn-tiny-batch", change(FLAT, ("batch_size=64", "batch_size=2")), "batch_size=32"),
        ("classes-mismatch", change(FLAT, ("13, 10)", "13, 7)")), "13, 10)"),
        ("saturating-activations", BOOK, "nn.Conv2d(1, 6, kernel_size=5, padding=2), nn.ReLU(),"),
        ("wrong-model-passed", change(MLP, ("lr=lr", "lr=1e-9")), "lr=lr)"),
        (
            "train-test-leak",
            change(FLAT, ("DataLoader(test_set", "DataLoader(train_set")),
            "DataLoader(test_set, batch_size=256)",
        ),
    ],
)
def test_a_number_or_name_is_mended_where_it_stands(cause: str, text: str, line: str) -> None:
    new = repaired(cause, text)
    assert line in new
    assert len(changed_lines(text, new)) <= 20


def test_repairs_of_programs_in_other_styles() -> None:
    both = change(MLP, ("nn.Linear(64, 10))", "nn.Linear(64, 10), nn.ReLU(), nn.Dropout(0.5))"))
    assert "nn.ReLU(), nn.Linear(64, 10))" in repaired("activation-on-logits", both)
    again = change(
        TRAINER,
        ("self.history = []", "self.optimizer = torch.optim.AdamW(self.model.parameters())\n        self.history = []"),
        ("        for epoch in range(epochs):", "        self.model = ResNet()\n        for epoch in range(epochs):"),
    )
    assert "self.model = ResNet()" not in repaired("optimizer-owns-other-net", again)
    hand = "import torch\nW1 = torch.randn(784, 10) * 1e-5\nW1.requires_grad_(True)\n"
    assert "torch.randn(784, 10) * (2 / 784) ** 0.5" in repaired("init-tiny", hand)
    head = "def block(i, o):\n    return nn.Sequential(nn.Conv2d(i, o, 1), nn.ReLU())\nclasses = 8\n"
    net = "net = nn.Sequential(block(1, 4), nn.Conv2d(4, classes, 1), nn.Flatten())"
    wide = re.sub(r"(?m)^net = .*$", net, MLP)
    assert "classes = 10\n" in repaired(
        "classes-mismatch", wide.replace("criterion =", "criterion =", 1).replace("net =", head + "net =")
    )
    some = change(
        MLP,
        ("criterion =", "for n, p in net.named_parameters():\n    p.requires_grad = n.startswith('3')\ncriterion ="),
    )
    assert "p.requires_grad = True" in repaired("frozen-params", some)
    steady = change(FLAT, ("nn.BatchNorm2d(16)", "nn.BatchNorm2d(16, affine=False, momentum=0.0)"))
    assert "nn.BatchNorm2d(16, affine=False, momentum=0.1)" in repaired("no-eval-at-test", steady)


def test_a_told_rate_is_taken() -> None:
    assert "lr=0.003," in repaired("lr-too-high", FLAT, remedy="try lr 0.003 (found by a range test)")


@pytest.mark.parametrize("text", [FLAT, GAN, FUNCTIONS], ids=["flat", "gan", "functions"])
def test_whatever_is_returned_parses(text: str) -> None:
    notes = read_source(text, "x.py")
    for cause in FIXES:
        new = fix_for(cause, notes, text, finding(cause, 5))
        assert new is None or ast.parse(new)
    assert fix_for("no-such-cause", notes, text, finding("no-such-cause")) is None


def test_a_text_that_is_no_program_is_not_repaired() -> None:
    assert fix_for("step-missing", (), "for x in\n", finding("step-missing")) is None
    assert fix_for("step-missing", (), "", finding("step-missing")) is None


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_line_ends_tabs_and_other_letters_stay(newline: str) -> None:
    text = change(FLAT, ("        optimizer.step()\n", ""), ("running = 0.0", "running = 0.0  # größer 训练 \u2028 x"))
    text = "# -*- coding: utf-8 -*-\n\x0c" + text.replace("    ", "\t").replace("\n", newline)
    new = repaired("step-missing", text)
    inserted = f"\t\toptimizer.step(){newline}"
    assert new.replace(inserted, "", 1) == text
    assert new.count(inserted) == 1
    lines = new.split(newline)
    assert lines[lines.index("\t\toptimizer.step()") - 1] == "\t\tloss.backward()"
    assert "\r" not in new.replace(newline, "")


def test_statements_that_share_a_line() -> None:
    text = change(
        MLP,
        (
            "        opt.zero_grad()\n        loss.backward()\n        opt.step()\n",
            "        opt.zero_grad(); loss.backward()\n",
        ),
    )
    assert "opt.zero_grad(); loss.backward(); opt.step()\n" in repaired("step-missing", text)
    program = parse_text("for x in y: x.backward()\n", "")
    inner = program.tree.body[0].body[0]  # type: ignore[attr-defined]
    assert insert_lines(program, inner, ["o.step()"], after=True) == "for x in y: x.backward(); o.step()\n"
    assert insert_lines(program, inner, ["o.zero()"], after=False) == "for x in y: o.zero(); x.backward()\n"
    assert delete_statement(program, inner) == "for x in y: pass\n"
    pair = parse_text("if a:\n    b(); c()\n    d()", "")
    first, second, third = pair.tree.body[0].body  # type: ignore[attr-defined]
    assert delete_statement(pair, first) == "if a:\n    c()\n    d()"
    assert delete_statement(pair, second) == "if a:\n    b()\n    d()"
    assert insert_lines(pair, third, ["e()"], after=True) == "if a:\n    b(); c()\n    d()\n    e()\n"
    assert delete_statement(pair, third) == "if a:\n    b(); c()\n"


@pytest.mark.parametrize(
    ("text", "without", "longer"),
    [
        ("f(a, b)", "f(a)", "f(a, b, k=1)"),
        ("f(b)", "f()", "f(b, k=1)"),
        ("f(\n    a,\n    b,\n)", "f(\n    a,\n)", "f(\n    a,\n    b, k=1\n)"),
        ("f(a, é + b)", "f(a)", "f(a, é + b, k=1)"),
        ("f(a, x=b)", "f(a)", "f(a, x=b, k=1)"),
    ],
)
def test_arguments_come_and_go_with_their_commas(text: str, without: str, longer: str) -> None:
    program = parse_text(text, "")
    call = program.tree.body[0].value  # type: ignore[attr-defined]
    last = call.keywords[-1].value if call.keywords else call.args[-1]
    assert ast.dump(ast.parse(delete_argument(program, call, last))) == ast.dump(ast.parse(without))
    assert ast.dump(ast.parse(add_argument(program, call, "k=1"))) == ast.dump(ast.parse(longer))
    assert replace_nodes(program, {call: "g"}) == "g"


def test_a_diff_shows_the_changed_lines_only() -> None:
    new = repaired("not-shuffled", change(FLAT, (", shuffle=True", "")))
    told = diff(change(FLAT, (", shuffle=True", "")), new, "train.py").splitlines()
    assert told[:2] == ["--- train.py", "+++ train.fixed.py"]
    assert [line for line in told[2:] if line[0] in "+-"] == [
        "-train_loader = DataLoader(train_set, batch_size=64)",
        "+train_loader = DataLoader(train_set, batch_size=64, shuffle=True)",
    ]
    assert diff(new, new, "train.py") == ""


def test_several_findings_are_mended_one_after_the_other() -> None:
    text = change(
        FLAT,
        ("        optimizer.step()\n", ""),
        ("running += loss.item()", "running += loss"),
        ("        optimizer.zero_grad()\n", ""),
    )
    new = fix_all(text, [finding("step-missing"), finding("zero-grad-missing"), finding("loss-graph-kept")])
    assert read_source(new, "x.py") == ()


def test_a_repaired_copy_is_new_and_the_original_stays(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    text = "# coding: latin-1\nname = 'größe'\n" + change(FLAT, ("        optimizer.step()\n", ""))
    script.write_bytes(text.encode("latin-1"))
    first = write_fix(script, [finding("step-missing")])
    second = write_fix(script, [finding("step-missing")])
    assert first == tmp_path / "train.fixed.py"
    assert second == tmp_path / "train.fixed-2.py"
    assert script.read_bytes() == text.encode("latin-1")
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes().decode("latin-1").replace("        optimizer.step()\n", "", 1) == text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.fixed-2.py", "train.fixed.py", "train.py"]


def test_nothing_is_written_where_nothing_can_be_mended(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(HEALTHY["flat"])
    assert write_fix(script, [finding("labels-shuffled")]) is None
    assert write_fix(script, []) is None
    assert [path.name for path in tmp_path.iterdir()] == ["train.py"]


def test_a_byte_order_mark_stays(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_bytes(b"\xef\xbb\xbf" + change(FLAT, ("shuffle=True", "shuffle=False")).encode())
    copy = write_fix(script, [finding("not-shuffled")])
    assert copy is not None
    assert copy.read_bytes() == b"\xef\xbb\xbf" + FLAT.encode()


def test_a_notebook_becomes_a_repaired_script(tmp_path: Path) -> None:
    cells = change(FLAT, ("        optimizer.step()\n", "")).split("criterion =")
    book = {
        "cells": [{"cell_type": "code", "source": cells[0]}, {"cell_type": "code", "source": "criterion =" + cells[1]}],
        "nbformat": 4,
    }
    path = tmp_path / "train.ipynb"
    path.write_text(json.dumps(book))
    copy = write_fix(path, [finding("step-missing")])
    assert copy == tmp_path / "train.fixed.py"
    assert read_source(copy.read_text(), "x.py") == ()


def test_what_cannot_be_read_or_written_is_refused_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"train\.py"):
        write_fix(tmp_path / "train.py", [finding("step-missing")])
    assert numbered(Path(fixed_name("dir/my.train.py")), 3) == Path("dir/my.train.fixed-3.py")
    assert fixed_name("script") == "script.fixed.py"
