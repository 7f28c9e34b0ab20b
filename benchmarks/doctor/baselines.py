"""The published tools' rules and two blind repairs on the doctor's cases, beside the doctor.

    nice python benchmarks/doctor/baselines.py --workers 1 > benchmarks/results/doctor_baselines.md

The tools' rules are written anew from their descriptions (`published.py`, with sources) and read a plain recording
(`recorder.py`): losses, accuracies, gradients, weights, activations of steps 1 to 10 and every tenth. A tool is
generously judged: it names a cause when any of its words may mean that cause (`MEANINGS`). `--repair` tries what
AutoTrainer's fix menu lists for the symptom it saw (success is 90 % of the twin's accuracy), and one change drawn at
random.
Today's log readers (`log_readers.py`) are asked too where they are installed.
"""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import cases
import log_readers
import published
import score
import verify
from cases import Case
from log_readers import READERS
from published import MENU, TOOLS
from recorder import MENDINGS
from score import Answer

import ledger

ALL = TOOLS | READERS
FILE = ledger.RESULTS / "doctor_baselines.jsonl"
RECORDER = Path(__file__).parent / "recorder.py"
PATIENCE_SECONDS = 300


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Run a program with the recorder, or with a change of the menu; return what the tools say, or its accuracy."""
    case = cases.read_cases()[job["program"]]
    with tempfile.TemporaryDirectory() as scratch:
        script, record = Path(scratch) / f"{case.path.stem}.py", Path(scratch) / "record.json"
        script.write_text(cases.script_of(case.path))
        command = [
            sys.executable,
            str(RECORDER),
            str(script),
            str(record),
            *([job["mending"]] if job["mending"] else []),
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, cwd=scratch, timeout=PATIENCE_SECONDS,
                                  env=cases.surroundings(cases.shared_folder()))  # fmt: skip
        except subprocess.TimeoutExpired:
            return {"code": None}
        if job["mending"]:
            return {"code": done.returncode, "accuracy": cases.accuracy_in(case, done.stdout)}
        if not record.exists():
            return {"code": done.returncode, "err": done.stderr[-300:]}
        seen = json.loads(record.read_text())
        seen["tests"] = [float(word.strip(" %")) for word in re.findall(case.accuracy, done.stdout) if word != "nan"]
        return {"code": done.returncode, "said": {name: ask(seen) for name, ask in ALL.items()}}


def answer_of(case: Case, words: list[str]) -> Answer:
    """Return a tool's words as causes of ours: the true one first where a word may mean it."""
    meanings = published.MEANINGS | log_readers.MEANINGS
    right = (case.cause or "",) if any(case.cause in meanings[word] for word in words) else ()
    return Answer(case, (*right, *words))


def menu_of(case: Case, words: list[str], how: str) -> list[str]:
    """Return the changes that are tried on a sick program: by AutoTrainer's menu, or one at random."""
    if how == "random":
        return [random.Random(case.program).choice(MENDINGS)]  # noqa: S311
    return list(MENU[words[0]]) if words else []


def job_of(case: Case, mending: str = "") -> dict[str, Any]:
    """Return the job of recording a program, or of running it with a change."""
    return {**verify.job_of(case), "mending": mending}


def print_tools(done: dict[str, Any], every: list[Case]) -> None:
    """Print the tools beside the doctor, on all splits."""
    ours = ledger.read(score.FILE)
    doctor = score.doctor_hash()
    for split in cases.SPLITS:
        chosen = [case for case in every if case.split == split]
        table = {}
        for name in (*TOOLS, *log_readers.NAMES):
            rows = [(case, done.get(ledger.name_of(job_of(case)), {}).get("said")) for case in chosen]
            table[name] = score.summed([answer_of(case, said[name]) for case, said in rows if said and name in said])
        mine = [(case, ours.get(ledger.name_of(score.job_of(case, doctor, fix=False)))) for case in chosen]
        table["conviction diagnose"] = score.summed([score.answer_of(case, row) for case, row in mine if row])
        chance = sum(1 + len(case.also) for case in chosen if case.sick) / 46 / max(1, sum(c.sick for c in chosen))
        score.print_rows(table, split)
        print(f"\nA cause drawn at random is right in {chance:.1%}.\n")


def print_repairs(done: dict[str, Any], plain: dict[str, Any], sick: list[Case]) -> None:
    """Print how many sick programs the menu and a random change bring to 90 % of the twin's accuracy."""
    every = cases.read_cases()
    print("| repair | split | repaired |\n|---|---|---|")
    for how in ("menu", "random"):
        for split in cases.SPLITS:
            chosen = [case for case in sick if case.split == split]
            good = 0
            for case in chosen:
                words = done.get(ledger.name_of(job_of(case)), {}).get("said", {}).get("AutoTrainer", [])
                tried = [
                    done.get(ledger.name_of(job_of(case, m)), {}).get("accuracy") for m in menu_of(case, words, how)
                ]
                twin = plain.get(ledger.name_of(verify.job_of(every[case.twin or ""])), {}).get("accuracy")
                good += (
                    twin is not None and max((a for a in tried if a is not None), default=0) >= score.REPAIRED * twin
                )
            print(f"| {how} | {split} | {good}/{len(chosen)} |")


def main() -> None:
    """Run what has not run, print the tables."""
    parser = ledger.parse(__doc__)
    parser.add_argument("--repair", action="store_true", help="try the fix menu and a random change too")
    options = parser.parse_args()
    every = list(cases.read_cases().values())
    sick = [case for case in every if score.is_repairable(case)]
    if not options.table:
        ledger.work(FILE, [job_of(case) for case in every], run, options.workers, options.most)
    done = ledger.read(FILE)
    if options.repair and not options.table:
        tries = {}
        for case in sick:
            words = done.get(ledger.name_of(job_of(case)), {}).get("said", {}).get("AutoTrainer", [])
            for mending in (*menu_of(case, words, "menu"), *menu_of(case, words, "random")):
                tries[ledger.name_of(job_of(case, mending))] = job_of(case, mending)
        ledger.work(FILE, tries.values(), run, options.workers, options.most)
        done = ledger.read(FILE)
    print("# Published tools on the doctor's cases\n\n" + ledger.told(__doc__) + "\n")
    print_tools(done, every)
    if options.repair:
        print_repairs(done, ledger.read(verify.FILE), sick)


if __name__ == "__main__":
    main()
