"""The reader of programs: each kind of note at its line, nothing misleading of healthy ones, no text breaks it."""

import random
import re
from collections import Counter

import pytest
from healthy_programs import FLAT, HEALTHY, TRAINER
from mended_programs import LOOKALIKES, NOTED
from sick_programs import SICK as NAMED
from sick_programs import change

from conviction.diagnosis.reading import source
from conviction.diagnosis.reading.landmarks import Landmarks, find_places
from conviction.diagnosis.reading.source import read_source
from conviction.diagnosis.reading.syntax import parse_text
from conviction.diagnosis.reading.walk import walk_program

SICK = [*NAMED, *NOTED]
# What follows from a fault and is rightly noted beside it.
FOLLOWING = {"arguments-swapped": {"optimizer-settings"}, "loss-kept": {"no-grad-missing"}}
KINDS = set(re.findall(r"^\* ([a-z-]+):", source.__doc__ or "", re.MULTILINE))


def marked_line(text: str) -> int:
    return next(n for n, line in enumerate(text.splitlines(), 1) if line.endswith("#!"))


@pytest.mark.parametrize("name", HEALTHY)
def test_nothing_is_said_of_healthy_programs(name: str) -> None:
    compile(HEALTHY[name], name, "exec")
    assert read_source(HEALTHY[name], "train.py") == ()


@pytest.mark.parametrize("name", LOOKALIKES)
def test_nothing_is_said_of_what_only_looks_like_a_fault(name: str) -> None:
    compile(LOOKALIKES[name], name, "exec")
    assert read_source(LOOKALIKES[name], "train.py") == ()


@pytest.mark.parametrize(("kind", "text"), SICK, ids=[f"{kind}-{n}" for n, (kind, _) in enumerate(SICK)])
def test_each_fault_is_noted_at_its_line_and_nothing_else(kind: str, text: str) -> None:
    notes = read_source(text, "train.py")
    found = [note for note in notes if note.kind == kind]
    assert marked_line(text) in [note.at.line for note in found]
    assert all(note.at.file == "train.py" and note.text for note in found)
    assert {note.kind for note in notes} - {kind} <= FOLLOWING.get(kind, set())


def test_every_kind_has_two_programs_and_a_line_in_the_table() -> None:
    counts = Counter(kind for kind, _ in SICK)
    assert set(counts) == KINDS
    assert min(counts.values()) >= 2
    assert len(HEALTHY) >= 25


def test_names_say_which_variables_and_numbers() -> None:
    wanted = {"optimizer-settings", "bn-momentum", "init-unused"}
    notes = {note.kind: note.names for kind, text in SICK if kind in wanted for note in read_source(text, "x.py")}
    assert notes["optimizer-settings"] == ("lr", "1.0")
    assert notes["bn-momentum"] == ("0.99",)
    assert notes["init-unused"] == ("initialise",)
    swapped = [note.names for kind, text in SICK if kind == "arguments-swapped" for note in read_source(text, "x.py")]
    assert ("train_ch6", "lr", "num_epochs") in swapped


def test_several_faults_are_several_notes_in_the_order_of_lines() -> None:
    text = change(
        FLAT,
        ("shuffle=True", "shuffle=False"),
        ("        optimizer.zero_grad()\n", ""),
        ("running += loss.item()", "running += loss"),
    )
    assert [note.kind for note in read_source(text, "x.py")] == ["shuffle-false", "zero-grad-missing", "loss-kept"]


def test_nothing_is_executed_or_opened(tmp_path) -> None:
    target = tmp_path / "trace"
    text = f"open({str(target)!r}, 'w').write('x')\n__import__('os').mkdir({str(tmp_path / 'made')!r})\n" + FLAT
    assert read_source(text, str(tmp_path / "absent.py")) == ()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n",
        "\n\n",
        "while True:\n    pass\n",
        "x = 1;;\n",
        "a = []\na.append(a)\nfor b in a:\n    b(a)\n",
        "def f(x):\n    return f(f(x))\nf(f)\n",
        "class A(A):\n    pass\nclass A(A):\n    def __init__(self):\n        A(self)\nA()\n",
        "import torch.nn as nn\nclass N(nn.Module):\n    def forward(self, x):\n        return self(x)\nN()(1)\n",
        "net = net = model(net)\nnet.net.net()\n",
        "del x\nglobal y\n",
        "match x:\n    case [a, *b]:\n        a.step()\n",
        "async def f():\n    async for x in y:\n        await x.backward()\n",
        "lambda: (yield)\n",
        "x: int\n",
        "(a := b.step())\n",
        "for x, (y, *z) in enumerate(q):\n    y.backward()\n",
        "f(**{'a': 1}, *b)\n",
        "x[0][1:2].step()\n",
        "loss.backward\n",
        "\x0cx = 1\n",
    ],
)
def test_odd_programs_are_read_without_a_word(text: str) -> None:
    kinds = {note.kind for note in read_source(text, "x.py")}
    assert kinds <= {"syntax-error", "backward-missing"}
    assert isinstance(find_places(text), dict)


@pytest.mark.parametrize(
    "text", ["x = \0", "(" * 5000, "x = " + "-" * 100_000 + "1", "x" + ".y" * 30_000, "[" * 150 + "]" * 149]
)
def test_hostile_texts_give_one_note_or_none(text: str) -> None:
    notes = read_source(text, "x.py")
    assert [note.kind for note in notes] in ([], ["syntax-error"])


def test_a_syntax_error_tells_its_line_and_reason() -> None:
    (note,) = read_source("import torch\n\nfor epoch in range(3)\n    pass\n", "train.py")
    assert (note.kind, note.at.file, note.at.line) == ("syntax-error", "train.py", 3)
    assert "expected ':'" in note.text


def test_programs_that_lost_or_swapped_lines_never_break_the_reader() -> None:
    rng = random.Random(0)
    texts = list(HEALTHY.values())
    for _ in range(60):
        lines = rng.choice(texts).splitlines(keepends=True)
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(len(lines))
            if rng.random() < 0.5:
                del lines[place]
            else:
                lines[place] = lines[rng.randrange(len(lines))]
        notes = read_source("".join(lines), "x.py")
        assert all(1 <= note.at.line <= len(lines) + 1 and note.kind in KINDS for note in notes)


def test_a_long_program_is_given_up_and_nothing_is_said_to_be_missing() -> None:
    deep = "".join(f"def f{n}(x):\n    for i in a:\n        f{n + 1}(x)\n        f{n + 1}(x)\n" for n in range(12))
    text = deep + "def f12(x):\n    pass\nf0(0)\n" + change(FLAT, ("        optimizer.step()\n", ""))
    state = walk_program(parse_text(text, "x.py"))
    assert state.visits < 100_000
    assert "step-missing" in {note.kind for note in read_source(text, "x.py")} or not state.complete


def test_places_of_a_program() -> None:
    places = {name: place.line for name, place in find_places(FLAT, "train.py").items()}
    lines = FLAT.splitlines()
    expected = {
        "net": "nn.Sequential(",
        "head": "nn.Linear(",
        "loader": "train_loader = ",
        "optimizer": "torch.optim.SGD",
        "rate": "lr=0.1",
        "loop": "in train_loader:",
        "forward": "outputs = net(images)",
        "loss": "loss = criterion(",
        "zero_grad": "zero_grad()",
        "backward": "loss.backward()",
        "step": "optimizer.step()",
        "test": "predicted = net(images)",
    }
    for name, piece in expected.items():
        assert piece in lines[places[name] - 1], name
    assert set(places) <= set(Landmarks.__dataclass_fields__)


def test_places_are_found_through_classes_functions_and_arguments() -> None:
    places = {name: place.line for name, place in find_places(TRAINER).items()}
    lines = TRAINER.splitlines()
    assert "self.model(x)" in lines[places["forward"] - 1]
    assert "self.head = nn.Linear" in lines[places["head"] - 1]
    assert "lr=1e-3" in lines[places["rate"] - 1]
    assert "train_loader = DataLoader" in lines[places["loader"] - 1]
    rate = "import argparse\np = argparse.ArgumentParser()\np.add_argument('--lr', default=0.5)\na = p.parse_args()\n"
    assert find_places(rate + "opt = torch.optim.SGD(q, lr=a.lr)\n")["rate"].line == 3
