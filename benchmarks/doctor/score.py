"""How well the doctor does on programs whose faults are known: detected, named, located, repaired, false alarms.

    nice python benchmarks/doctor/score.py --workers 1 > benchmarks/results/doctor_score.md

Each program is given to `conviction diagnose PROGRAM --json --seconds 45`, unedited, in a folder of its own, one thread
each. The families of nets are split: on `calibrate` thresholds were chosen; `seen` was scored first, then its misses
were looked at and mended; `score` was written by others without sight of the doctor and is only scored. Detected: a
finding on a sick program. Named: the first finding is the cause (or one of the few that truth.json accepts beside it).
Located: its line is within one line of one that holds the fault, of the cases that have such lines. False alarm: a
finding on a healthy program. Rows belong to the code of `findings/` and `diagnosis/` that made them. `--fix` repairs
instead: `diagnose --fix` writes the repaired program, which runs plainly and is held against the healthy twin.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import cases
import verify
from cases import Case

import conviction
import ledger

FILE = ledger.RESULTS / "doctor_score.jsonl"
SECONDS, PATIENCE_SECONDS = 45, 240
NEAR_LINES = 1
REPAIRED = 0.9  # of the twin's accuracy


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a doctor said of a case: causes, most likely first, the first one's line, and its seconds."""

    case: Case
    causes: tuple[str, ...]
    line: int | None = None
    seconds: float = 0.0
    failed: str = ""

    @property
    def named(self) -> bool:
        """Tell whether the first cause is right."""
        return bool(self.causes) and self.causes[0] in (self.case.cause, *self.case.also)

    @property
    def located(self) -> bool:
        """Tell whether the line is one that holds the fault, or next to it."""
        return self.line is not None and any(abs(self.line - line) <= NEAR_LINES for line in self.case.lines)


def doctor_hash(fix: bool = False) -> str:
    """Return what names the doctor that is measured; what repairs belongs to it where repairs are."""
    root = Path(conviction.__file__).parent
    files = sorted(path for room in ("findings", "diagnosis") for path in (root / room).rglob("*.py")
                   if fix or path.parent.name != "repairs")  # fmt: skip
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:8]


def job_of(case: Case, doctor: str, fix: bool) -> dict[str, Any]:
    """Return the job of diagnosing (and repairing) a program as it is now."""
    return {**verify.job_of(case), "doctor": doctor, "fix": fix}


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Diagnose one program; with `fix`, run what the repair wrote."""
    case = cases.read_cases()[job["program"]]
    with tempfile.TemporaryDirectory() as scratch:
        script = Path(scratch) / case.program
        script.write_bytes(case.path.read_bytes())
        command = [sys.executable, "-m", "conviction", "diagnose", script.name, "--json", "--seconds", str(SECONDS)]
        began = time.perf_counter()
        code, out, err = _run(command + ["--fix"] * job["fix"], scratch)
        found: dict[str, Any] = {"code": code, "wall_seconds": round(time.perf_counter() - began, 1), **_parsed(out)}
        if "verdict" not in found:
            found["err"] = err[-400:]
        if job["fix"]:
            found |= _run_fixed(case, Path(scratch))
    return found


def _run(command: Sequence[str], folder: str) -> tuple[int | None, str, str]:
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = subprocess.Popen(command, stdout=out, stderr=err, cwd=folder, stdin=subprocess.DEVNULL,
                                 env=cases.surroundings(cases.shared_folder()), start_new_session=True)  # fmt: skip
        try:
            code = child.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            code = None
        out.seek(0)
        err.seek(0)
        return code, out.read(), err.read()


def _parsed(out: str) -> dict[str, Any]:
    try:
        answer = json.loads(out)
    except json.JSONDecodeError:
        return {}
    if "verdict" not in answer:
        return {}
    findings = [[finding["cause"], (finding.get("where") or {}).get("line"), finding.get("confidence")]
                for finding in answer["findings"]]  # fmt: skip
    return {"verdict": answer["verdict"], "findings": findings, "steps": answer.get("steps"),
            "seconds_told": answer.get("seconds")}  # fmt: skip


def _run_fixed(case: Case, folder: Path) -> dict[str, Any]:
    written = sorted(folder.glob("*.fixed*"))
    if not written:
        return {"fixed": None}
    outcome = cases.run_plainly(case, text=cases.script_of(written[0]))
    return {"fixed": outcome.accuracy, "fixed_code": outcome.code, "fixed_err": outcome.err[-300:]}


def answer_of(case: Case, found: dict[str, Any]) -> Answer:
    """Return a ledger's row as an answer."""
    findings = found.get("findings") or []
    failed = "" if "verdict" in found else f"exit {found['code']}: {found.get('err', '').strip()[-100:]}"
    return Answer(case, tuple(row[0] for row in findings), findings[0][1] if findings else None,
                  found["wall_seconds"], failed)  # fmt: skip


def summed(answers: Sequence[Answer]) -> dict[str, str]:
    """Return the figures of a split, as text."""
    sick = [answer for answer in answers if answer.case.sick]
    healthy = [answer for answer in answers if not answer.case.sick]
    placed = [answer for answer in sick if answer.case.lines]
    seconds = [answer.seconds for answer in answers if answer.seconds]
    return {
        "sick": str(len(sick)), "healthy": str(len(healthy)),
        "detected": _share(sum(bool(answer.causes) for answer in sick), len(sick)),
        "named first": _share(sum(answer.named for answer in sick), len(sick)),
        "line right": _share(sum(answer.located for answer in placed), len(placed)),
        "false alarms": _share(sum(bool(answer.causes) for answer in healthy), len(healthy)),
        "failed": str(sum(bool(answer.failed) for answer in answers)),
        "median s": f"{statistics.median(seconds):.0f}" if seconds else "-",
        "p90 s": f"{sorted(seconds)[int(0.9 * (len(seconds) - 1))]:.0f}" if seconds else "-",
    }  # fmt: skip


def _share(part: int, whole: int) -> str:
    return f"{part}/{whole} ({100 * part / whole:.0f} %)" if whole else "-"


def print_rows(rows: dict[str, dict[str, str]], title: str) -> None:
    """Print figures as a table, one row each."""
    columns = list(next(iter(rows.values())))
    print(f"| {title} | " + " | ".join(columns) + " |\n" + "|---" * (len(columns) + 1) + "|")
    for name, figures in rows.items():
        print(f"| {name} | " + " | ".join(figures[column] for column in columns) + " |")


def print_confusions(answers: Sequence[Answer]) -> None:
    """Print what was taken for what, and the false alarms."""
    print("\n| split | truth | said first | programs |\n|---|---|---|---|")
    wrong = [answer for answer in answers if (not answer.named if answer.case.sick else answer.causes) or answer.failed]
    pairs = Counter((a.case.split, a.case.cause or "healthy", a.failed or (a.causes or ("nothing",))[0]) for a in wrong)
    for (split, truth, said), _ in sorted(pairs.items()):
        programs = [a.case.program for a in wrong
                    if (a.case.split, a.case.cause or "healthy", a.failed or (a.causes or ("nothing",))[0])
                    == (split, truth, said)]  # fmt: skip
        print(f"| {split} | {truth} | {said.replace('|', '/')} | {', '.join(programs)} |")
    lost = [a for a in answers if a.named and a.case.lines and not a.located]
    if lost:
        told = ", ".join(f"{a.case.program} ({a.line} for {'/'.join(map(str, a.case.lines))})" for a in lost)
        print(f"\nNamed, but the line is another: {told}.")


def print_repairs(found: dict[Case, dict[str, Any]]) -> None:
    """Print how repaired programs do beside their healthy twins."""
    plain = ledger.read(verify.FILE)
    every = cases.read_cases()
    print("| program | split | cause | repaired | twin | well |\n|---|---|---|---|---|---|")
    counts: Counter[tuple[str, bool]] = Counter()
    for case, row in found.items():
        twin = plain.get(ledger.name_of(verify.job_of(every[case.twin or case.program])), {}).get("accuracy")
        fixed = row.get("fixed")
        well = fixed is not None and twin is not None and fixed >= REPAIRED * twin
        counts[case.split, well] += 1
        print(f"| {case.program} | {case.split} | {case.cause} | {fixed} | {twin} | {'yes' if well else 'no'} |")
    for split in cases.SPLITS:
        total = counts[split, True] + counts[split, False]
        print(f"\n{split}: {_share(counts[split, True], total)} reach {REPAIRED:.0%} of their twin's accuracy.")


def is_repairable(case: Case) -> bool:
    """Tell whether a repair shows in the accuracy: not where only a number or memory is wrong."""
    return case.sick and (not case.symptom or case.symptom["kind"] == "crash")


def main() -> None:
    """Run what has not run, print the tables."""
    parser = ledger.parse(__doc__)
    parser.add_argument("--fix", action="store_true", help="repair the sick programs, and run the repaired ones")
    parser.add_argument("--only", default="", help="a regular expression: only programs or causes that match")
    parser.add_argument("--doctor", help="rows of this doctor (a hash) instead of the present one")
    options = parser.parse_args()
    doctor = options.doctor or doctor_hash(options.fix)
    asked = [case for case in cases.read_cases().values() if re.search(options.only, f"{case.program} {case.cause}")]
    chosen = [case for case in asked if is_repairable(case) or not options.fix]
    jobs = {case: job_of(case, doctor, options.fix) for case in chosen}
    if not options.table:
        ledger.work(FILE, jobs.values(), run, options.workers, options.most)
    done = ledger.read(FILE)
    found = {case: done[ledger.name_of(job)] for case, job in jobs.items() if ledger.name_of(job) in done}
    print("# The doctor on programs whose faults are known\n\n" + ledger.told(__doc__) + "\n")
    if not found:
        print("Nothing has run yet.")
        return
    print(f"{len(found)} of {len(chosen)} programs. {ledger.conditions(found.values())}\n")
    if options.fix:
        print_repairs(found)
        return
    answers = [answer_of(case, row) for case, row in found.items()]
    splits = {split: [a for a in answers if a.case.split == split] for split in cases.SPLITS}
    print_rows({split: summed(rows) for split, rows in splits.items() if rows}, "split")
    print_confusions(answers)


if __name__ == "__main__":
    main()
