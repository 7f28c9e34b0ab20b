"""Programs run as `python SCRIPT` runs them, and end when their time is over, however hostile they are."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path

import pytest

from conviction.diagnosis import program, running
from conviction.diagnosis.program import Program, Source
from conviction.diagnosis.records import Curves, Diagnosis, LayerSeen, read_fields, write_fields
from conviction.diagnosis.running import diagnose_program
from conviction.errors import ResourceError, UsageError
from conviction.findings.observation import Ending, Place
from conviction.findings.records import Finding

posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
FOUND = Finding("lr-absurd", "a rate of 10", "about 0.001", "set lr=0.001", file="train.py", line=3)


def run_text(
    text: str, folder: Path, seconds: float = 20.0, argv: tuple[str, ...] = ("p.py",), notebook: bool = False
) -> Ending:
    """Run a program in a forked process; returns how it ended, told by itself or where it did not come back."""
    file, answer = folder / "p.py", folder / "ending.json"
    file.write_text(text)
    process = os.fork()
    if process == 0:
        leave = os._exit
        try:
            os.chdir(folder)
            sys.__stderr__ = sys.stdout = sys.stderr = (folder / "printed").open("a", buffering=1)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)

            def tell(ending: Ending) -> None:
                answer.write_text(json.dumps(dataclasses.asdict(ending)))

            tell(Program(Source(text, str(file), argv, notebook), seconds, tell).run())
            leave(0)
        finally:
            leave(99)
    until = time.monotonic() + 30
    while os.waitpid(process, os.WNOHANG) == (0, 0):
        if time.monotonic() > until:
            os.kill(process, signal.SIGKILL)
            pytest.fail("the program hangs")
        time.sleep(0.01)
    told = json.loads(answer.read_text())
    return Ending(**told | {"at": Place(**told["at"]) if told["at"] else None})


# Text, how it ends, the line of its end, and what is printed.
ENDINGS = (
    ("print(__name__, __file__)", "finished", None, "__main__ "),
    ("import sys\nprint(sys.argv, sys.path[0])", "finished", None, "['p.py'] "),
    ("if __name__ == '__main__':\n    print('mine')", "finished", None, "mine"),
    ("import sys\nsys.exit()", "exit", 2, ""),
    ("import sys\nsys.exit('no data')", "exit", 2, ""),
    ("def f():\n    1 / 0\nf()", "error", 2, "ZeroDivisionError"),
    ("x = 1\nif x\n", "error", 2, ""),
    ("import nothing_of_this_name", "error", 1, "ModuleNotFoundError"),
    ("import os\nos._exit(3)", "exit", None, ""),
    ("import os\nif os.fork() == 0:\n    raise SystemExit(4)\nprint(os.wait()[1] >> 8)", "finished", None, "4"),
    (
        "import os, shutil\nfolder = os.getcwd()\nos.mkdir('gone')\nos.chdir('gone')\nos.rmdir('../gone')",
        "finished",
        None,
        "",
    ),
    ("import sys\nsys.stdout.close()\nsys.argv[:] = []", "finished", None, ""),
    ("import pickle\nclass A: pass\nprint(type(pickle.loads(pickle.dumps(A()))) is A)", "finished", None, "True"),
    ("import inspect\ndef f(): return 'seen'\nprint(inspect.getsource(f))", "finished", None, "return 'seen'"),
    ("raise KeyboardInterrupt", "error", 1, "KeyboardInterrupt"),
    (
        "import torch\nn = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2, 3))\nn(torch.ones(1, 5))",
        "error",
        3,
        "shapes",
    ),
)


@posix
@pytest.mark.parametrize(("text", "how", "line", "printed"), ENDINGS, ids=[each[0][:40] for each in ENDINGS])
def test_a_program_ends_as_it_does(text: str, how: str, line: int | None, printed: str, tmp_path: Path) -> None:
    ending = run_text(text, tmp_path)
    assert (ending.how, ending.at and ending.at.line) == (how, line)
    assert printed in (tmp_path / "printed").read_text()


@posix
def test_what_an_ending_tells(tmp_path: Path) -> None:
    assert run_text("import sys\nsys.exit(3)", tmp_path).code == 3
    assert run_text("import os\nos._exit(3)", tmp_path).code == 3
    assert run_text("raise ValueError('a\\nb' + 'c' * 999)", tmp_path).error.startswith("ValueError: a bccc")
    assert len(run_text("raise ValueError('a\\nb' + 'c' * 999)", tmp_path).error) < 400
    assert run_text("x = (", tmp_path).error.startswith("SyntaxError: ")
    text = ("import torch\nfrom torch import nn\nnet = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(2, 3)))\n"
            "net(torch.ones(1, 5))")  # fmt: skip
    assert run_text(text, tmp_path).layer == "1.0"


# Python tells of an alarm between two rounds of a busy loop, where no `try` in it can catch the end; here it can.
_SLEEPING = "from time import sleep\ntry:\n    while True: sleep(0.01)\n"
# None of them ends by itself.
ENDLESS = {
    "a loop": "while True: pass",
    "sleep": "import time\ntime.sleep(100)",
    "catches everything": "from time import sleep\nwhile True:\n    try: sleep(9)\n    except BaseException: pass",
    "own handler": "import signal\nsignal.signal(signal.SIGALRM, signal.SIG_IGN)\nwhile True: pass",
    "a lock": "import threading\nlock = threading.Lock()\nlock.acquire()\nlock.acquire()",
    "turns it into another error": _SLEEPING + "except BaseException: raise ValueError('stopped')",
    "leaves": "import sys\n" + _SLEEPING + "finally: sys.exit(1)",
}


@posix
@pytest.mark.parametrize("name", ENDLESS)
def test_a_program_without_end_is_ended(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "_ASKINGS", 1.3)
    began = time.monotonic()
    assert run_text(ENDLESS[name], tmp_path, seconds=0.1).how == "budget"
    assert time.monotonic() - began < 10


@posix
def test_a_notebook_runs_where_it_lies(tmp_path: Path) -> None:
    text = "import os\nget_ipython().run_line_magic('x', '')\ndisplay(os.getcwd())\nprint('__file__' in globals())"
    assert run_text(text, tmp_path, notebook=True).how == "finished"
    assert (tmp_path / "printed").read_text().split() == [str(tmp_path), "False"]


# What stands for the child process in the tests of its parent: it answers what is in `ANSWER`, or does as it likes.
ANSWER = """
import json, os, sys, time
asked = json.load(open(sys.argv[1]))
def answer(final=True, **fields):
    told = dict(final=final, bug="", backwards=1, diagnosis=KNOWN) | fields
    open(asked["answer"] + "~", "w").write(json.dumps(told))
    os.replace(asked["answer"] + "~", asked["answer"])
"""


def known(*findings: Finding, **fields: object) -> Diagnosis:
    return Diagnosis("train.py", findings, 7, 0.0, **fields)


def parent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, does: str, told: Diagnosis | None = None, seconds: float = 5.0
) -> tuple[Diagnosis, bytes, float]:
    """Run the parent with a child that only `does` something; returns the diagnosis, the prints, the seconds."""
    script = tmp_path / "train.py"
    script.write_text("a = 1\nb = 2\nlr = 10\n")
    fields = write_fields(known() if told is None else told)
    monkeypatch.setattr(running, "_START", f"nan = float('nan')\nKNOWN = {fields!r}\n{ANSWER}\n{does}")
    monkeypatch.chdir(tmp_path)
    prints, began = BytesIO(), time.monotonic()
    seen = diagnose_program(Path("train.py"), ["--lr", "3"], seconds=seconds, prints=prints)
    return seen, prints.getvalue(), time.monotonic() - began


def test_the_answer_and_the_prints_are_passed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    does = "answer()\nprint('hello', asked['argv'], os.environ['MPLBACKEND'], sys.stdin.read() == '')"
    seen, printed, _ = parent(monkeypatch, tmp_path, does, known(FOUND))
    assert printed == b"hello ['train.py', '--lr', '3'] Agg True\n"
    assert seen.findings == (FOUND,) and seen.steps == 7 and seen.verdict == "sick"
    assert "lr = 10" in str(seen) and "What to do" in str(seen)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.py"], "nothing is written"


def test_a_flood_of_prints_is_cut(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    does = "for _ in range(40): sys.stdout.write('x' * 999_999 + chr(10))\nanswer()"
    _, printed, _ = parent(monkeypatch, tmp_path, does)
    assert len(printed) < 1_001_000 and printed.startswith(b"xxx")
    assert printed.endswith(b"the rest is left out)\n") and printed.count(b"left out") == 1


STUBBORN = {
    "last words without end": "answer()\ntime.sleep(99)",
    "deaf to SIGTERM": "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nanswer()\ntime.sleep(99)",
    "a child that lives on": "open('pid', 'w').write(str(os.fork() or time.sleep(99)))\nanswer()",
    "a child of its own group": "answer()\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(8)",
}


def is_gone(process: int) -> bool:
    """Whether a process is dead, buried or not; it has two seconds to die."""
    for _ in range(200):
        status = Path(f"/proc/{process}/status")
        if not status.exists() or "Z (zombie)" in status.read_text():
            return True
        time.sleep(0.01)
    return False


@posix
@pytest.mark.parametrize("name", STUBBORN)
def test_no_process_is_waited_for_in_vain(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(running, "_LAST_WORDS", 0.3)
    monkeypatch.setattr(running, "_KILL", 0.3)
    seen, _, seconds = parent(monkeypatch, tmp_path, STUBBORN[name], known(FOUND))
    assert seen.findings == (FOUND,) and seconds < 7
    if (tmp_path / "pid").exists():
        assert is_gone(int((tmp_path / "pid").read_text()))


def test_what_was_known_survives_a_kill(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen, _, _ = parent(monkeypatch, tmp_path, "answer(final=False)\nos.kill(os.getpid(), 9)", known(FOUND))
    assert seen.findings == (FOUND,) and seen.ending.how == "killed" and "SIGKILL" in str(seen)
    monkeypatch.setattr(running, "_GRACE", 0.2)
    seen, _, seconds = parent(monkeypatch, tmp_path, "answer(final=False)\ntime.sleep(99)", known(FOUND), 0.2)
    assert seen.findings == (FOUND,) and "did not stop" in str(seen) and seconds < 8


REFUSED = (
    ("os.kill(os.getpid(), 9)", None, ResourceError, "memory"),
    ("sys.exit(3)", None, UsageError, "exit code 3"),
    ("answer(backwards=0)", None, UsageError, "no training was seen"),
    ("answer(backwards=0)", known(ending=Ending("exit", code=2)), UsageError, "exit code 2"),
    (
        "answer(backwards=0)",
        known(ending=Ending("error", "ValueError: x", Place("train.py", 3))),
        UsageError,
        "train.py:3",
    ),
    ("answer()", known(ending=Ending("error", "ValueError: x")), UsageError, "7 training steps in which nothing"),
    ("answer(backwards=0)", known(ending=Ending("error", "EOFError: EOF")), UsageError, "asks for input"),
    ("answer(bug='KeyError: 1')", None, RuntimeError, "KeyError: 1"),
    ("answer(final=False)", None, UsageError, "gone before"),
)


@posix
@pytest.mark.parametrize(("does", "told", "kind", "says"), REFUSED)
def test_what_cannot_be_judged_is_said(
    does: str, told: Diagnosis | None, kind: type[Exception], says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=says):
        parent(monkeypatch, tmp_path, does, told)


def test_an_error_is_no_refusal_where_a_finding_tells_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told = known(FOUND, ending=Ending("error", "ValueError: x", Place("train.py", 3)))
    seen, _, _ = parent(monkeypatch, tmp_path, "answer()", told)
    assert "stopped with ValueError: x, train.py:3" in str(seen)


def test_what_is_no_program_is_refused(tmp_path: Path) -> None:
    for name, content in (("a.py", None), ("a.ipynb", None), ("b.py", b"\xff\xfe\x00"), ("b.ipynb", b"{}")):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError, match=f"{name} - "):
            diagnose_program(tmp_path / name)


def test_a_diagnosis_is_read_as_it_was_written() -> None:
    curves = Curves((0, 1), (2.3, None), (None, 0.5), (0.1, 0.1), (0.01, 0.02), (LayerSeen("0", 1, 1, 1, None, None),))
    told = known(FOUND, ending=Ending("error", "x", Place("train.py", 3)), curves=curves, notes=("a",), cells=(2, 9))
    assert read_fields(json.loads(json.dumps(write_fields(told)))) == told
    where = told.to_dict()["findings"][0]["where"]
    assert where == {"file": "train.py", "line": 3, "layer": None, "cell": 1, "cell_line": 2}
    assert {"verdict", "findings", "steps", "seconds"} <= set(told.to_dict())


def test_a_folder_on_the_way_shadows_nothing_of_ours(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise RuntimeError('not mine')")
    start = running._START.replace("from conviction.diagnosis.child import main; main(sys.argv[1])", "import json")
    done = subprocess.run([sys.executable, "-c", start], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
