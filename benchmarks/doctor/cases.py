"""The doctor's cases: the programs, what is true of them, their data, and how one is run plainly."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PROGRAMS = HERE / "programs"
TRUTH = HERE / "truth.json"
TRAIN, TEST = 4000, 1000
# By family: thresholds were chosen on the first; the second was scored, and then its misses were looked at and mended;
# the third was written by others who had not seen the doctor, and is only scored.
SPLITS = ("calibrate", "seen", "score")


@dataclass(frozen=True, eq=False)  # one a program: identity is enough, and a symptom is a dictionary
class Case:
    """A program and the truth about it.

    `lines` are those that hold the fault (any will do; empty where none can be told; in a notebook, of the text that
    `script_of` gives). `also` are other causes that are right too. `symptom` says how the fault shows when the program
    runs plainly: {"kind": "accuracy", "below": x}, {"kind": "accuracy", "above": x}, {"kind": "says", "regex": r},
    {"kind": "crash", "regex": r} or {"kind": "memory", "times": x} (against the twin's). `floor` is what a healthy
    program's accuracy must reach, `accuracy` the regular expression whose last match in the output is the accuracy.
    """

    program: str
    family: str
    split: str
    style: str
    accuracy: str
    cause: str | None = None
    also: tuple[str, ...] = ()
    lines: tuple[int, ...] = ()
    twin: str | None = None
    symptom: dict[str, Any] = field(default_factory=dict)
    floor: float = 0.7
    odd: str = ""

    @property
    def sick(self) -> bool:
        """Tell whether there is something to find."""
        return self.cause is not None

    @property
    def path(self) -> Path:
        """Return where the program lies."""
        return PROGRAMS / self.program


@dataclass(frozen=True)
class Outcome:
    """What a program did: exit code (None: out of time), what it printed, its accuracy, processor seconds, memory."""

    code: int | None
    out: str
    err: str
    accuracy: float | None
    cpu_seconds: float
    peak_bytes: int


@functools.cache
def read_cases() -> dict[str, Case]:
    """Return the cases by the name of the program."""
    rows = json.loads(TRUTH.read_text())
    cases = (Case(**{key: tuple(value) if isinstance(value, list) else value for key, value in row.items()})
             for row in rows)  # fmt: skip
    return {case.program: case for case in cases}


def script_of(path: Path) -> str:
    """Return a program's text; of a notebook its code cells in order, each under a line that numbers it.

    That is how the doctor counts a notebook's lines. Magics are commented out.
    """
    if path.suffix != ".ipynb":
        return path.read_text()
    cells = ["".join(cell["source"]) for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    return "".join(f"# %% code cell {number}\n" + re.sub(r"(?m)^([ \t]*)([%!])", r"\1# \2", cell) + "\n\n"
                   for number, cell in enumerate(cells, 1))  # fmt: skip


def made_data(folder: Path) -> Path:
    """Write the arrays that the programs read: Fashion-MNIST from the package, the same at every call."""
    path = folder / "fashion.npz"
    if path.exists():
        return path
    import numpy as np
    import torch

    import conviction

    data, arrays = conviction.dataset("fashion-mini"), {}
    draw = torch.Generator().manual_seed(0)
    for split, name, count in ((data.train, "train", TRAIN), (data.test, "test", TEST)):
        picks = torch.randperm(len(split), generator=draw)[:count]
        arrays[f"x_{name}"] = split.source.fetch(picks).reshape(count, 28, 28).numpy()
        arrays[f"y_{name}"] = split.labels[picks].numpy()
    partial = folder / f"fashion-{os.getpid()}.npz"
    np.savez(partial, **arrays)
    partial.replace(path)
    return path


def surroundings(folder: Path) -> dict[str, str]:
    """Return the environment of a program: its data, and one thread."""
    return {**os.environ, "DOCTOR_DATA": str(made_data(folder)), "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg",
            "PYTHONPATH": str(HERE.parent.parent / "src")}  # fmt: skip


def shared_folder() -> Path:
    """Return the folder of this benchmark's data, made once."""
    folder = Path(tempfile.gettempdir()) / f"conviction-doctor-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    return folder


def accuracy_in(case: Case, out: str) -> float | None:
    """Return the last accuracy that a program printed, as a fraction; None where it printed none."""
    found = re.findall(case.accuracy, out)
    if not found:
        return None
    try:
        value = float(found[-1].rstrip("%"))
    except ValueError:
        return None
    return value / 100 if "%" in case.accuracy else value


def run_plainly(case: Case, seconds: float = 900, text: str | None = None) -> Outcome:
    """Run a program (or another text in its place) as `python PROGRAM` does, in a folder of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        script = folder / f"{case.path.stem}.py"
        script.write_text(script_of(case.path) if text is None else text)
        with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
            child = subprocess.Popen([sys.executable, script.name], stdout=out, stderr=err, cwd=folder,
                                     stdin=subprocess.DEVNULL, env=surroundings(shared_folder()))  # fmt: skip
        code, cpu_seconds, peak_bytes = _wait(child, time.perf_counter() + seconds)
        told = (folder / "out").read_text(errors="replace")
        return Outcome(code, told[-20000:], (folder / "err").read_text(errors="replace")[-4000:],
                       accuracy_in(case, told), round(cpu_seconds, 1), peak_bytes)  # fmt: skip


def _wait(child: subprocess.Popen[bytes], deadline: float) -> tuple[int | None, float, int]:
    """Return exit code, processor seconds and peak memory of a child; one that is out of time is ended."""
    late = False
    while True:
        # wait4 and not Popen.wait: it alone tells this child's own time and memory.
        done, status, usage = os.wait4(child.pid, 0 if late else os.WNOHANG)
        if done:
            child.returncode = os.waitstatus_to_exitcode(status)
            return None if late else child.returncode, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024
        if time.perf_counter() > deadline:
            child.kill()
            late = True
        time.sleep(0.05)
