"""Whether the doctor's cases are what they are said to be: each fault shows, each healthy program learns.

    nice python benchmarks/doctor/verify.py --workers 1 > benchmarks/results/doctor_verify.md

Every program runs plainly, without the doctor, one thread each, on 4,000 + 1,000 real Fashion-MNIST images. A healthy
one must end well and reach its floor. A sick one must show its symptom: the one that `truth.json` names (a crash, a
printed line, an impossible accuracy, memory), else a test accuracy at least 10 points below its twin's. Runs are kept
by program and text: a program that was changed runs again.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import cases
from cases import Case

import ledger

FILE = ledger.RESULTS / "doctor_verify.jsonl"
BELOW_TWIN = 0.10


def job_of(case: Case) -> dict[str, Any]:
    """Return the job of running a program as it is now."""
    text = cases.script_of(case.path)
    return {"program": case.program, "text": hashlib.sha256(text.encode()).hexdigest()[:10]}


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Run one program plainly."""
    outcome = cases.run_plainly(cases.read_cases()[job["program"]])
    return {"code": outcome.code, "accuracy": outcome.accuracy, "cpu_seconds": outcome.cpu_seconds,
            "peak_bytes": outcome.peak_bytes, "out": outcome.out[-1500:], "err": outcome.err[-600:]}  # fmt: skip


def is_as_said(case: Case, found: dict[str, Any], twin: dict[str, Any] | None) -> tuple[bool | None, str]:
    """Tell whether a program behaves as the truth says (None: its twin has not run yet), and how it behaved."""
    told = f"exit {found['code']}, accuracy {_number(found['accuracy'])}, {found.get('cpu_seconds', '?')} s"
    if not case.sick:
        return found["code"] == 0 and (found["accuracy"] or 0) >= case.floor, told
    kind = case.symptom.get("kind", "accuracy")
    if kind == "crash":
        wanted = re.search(case.symptom["regex"], found["err"])
        return found["code"] not in (0, None) and wanted is not None, told
    if kind == "says":
        return found["code"] == 0 and re.search(case.symptom["regex"], found["out"]) is not None, told
    if "above" in case.symptom:
        return found["code"] == 0 and (found["accuracy"] or 0) > case.symptom["above"], told
    if twin is None:
        return None, told
    if kind == "memory":
        ratio = found["peak_bytes"] / twin["peak_bytes"]
        return found["code"] == 0 and ratio >= case.symptom["times"], f"{told}, {ratio:.2f} x the twin's memory"
    if found["code"] != 0 or found["accuracy"] is None or twin["accuracy"] is None:
        return False, told
    below = case.symptom.get("below", twin["accuracy"] - BELOW_TWIN)
    return found["accuracy"] <= below, f"{told}, twin {_number(twin['accuracy'])}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def rows_of(all_cases: Iterable[Case]) -> list[tuple[Case, bool | None, str]]:
    """Return every case with its verdict: true, false, or None where it or its twin has not run."""
    done = ledger.read(FILE)
    found = {case.program: done.get(ledger.name_of(job_of(case))) for case in cases.read_cases().values()}
    rows = []
    for case in all_cases:
        mine = found[case.program]
        rows.append((case, None, "not run yet") if mine is None else
                    (case, *is_as_said(case, mine, found.get(case.twin) if case.twin else None)))  # fmt: skip
    return rows


def main() -> None:
    """Run what has not run, print the table; exit 1 when a program is not what it is said to be."""
    parser = ledger.parse(__doc__)
    parser.add_argument("--only", help="a regular expression: only programs or causes that match")
    options = parser.parse_args()
    chosen = [case for case in cases.read_cases().values()
              if not options.only or re.search(options.only, f"{case.program} {case.cause}")]  # fmt: skip
    chosen.sort(key=lambda case: case.sick)
    if not options.table:
        ledger.work(FILE, [job_of(case) for case in chosen], run, options.workers, options.most)
    rows = rows_of(chosen)
    print("# The doctor's cases, run plainly\n\n" + ledger.told(__doc__) + "\n")
    print("| program | family | split | truth | behaves so | seen |\n|---|---|---|---|---|---|")
    for case, good, told in rows:
        verdict = {True: "yes", False: "**no**", None: "?"}[good]
        truth = case.cause or ("healthy" + (f" ({case.odd})" if case.odd else ""))
        print(f"| {case.program} | {case.family} | {case.split} | {truth} | {verdict} | {told} |")
    wrong = sum(good is False for _, good, _ in rows)
    print(f"\n{sum(good is True for _, good, _ in rows)} as said, {wrong} not, "
          f"{sum(good is None for _, good, _ in rows)} not known yet.")  # fmt: skip
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
