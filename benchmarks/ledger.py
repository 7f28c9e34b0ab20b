"""Jobs that are done once: each finished job is a line of a JSON file, so a benchmark can be stopped and gone on with.

A job is a dictionary of plain values, and its own name. Jobs run in processes of one thread each (`--workers`), as two
threads of torch beside other work wait for each other more than they compute.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import multiprocessing
import os
import platform
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import conviction

Job = dict[str, Any]
RESULTS = Path(__file__).parent / "results"


def name_of(job: Job) -> str:
    """Return the one name of a job."""
    return json.dumps(job, sort_keys=True)


def read(path: Path) -> dict[str, Job]:
    """Return what was found out, by the names of the jobs."""
    if not path.exists():
        return {}
    rows = {}
    for line in path.read_text().splitlines():
        with contextlib.suppress(json.JSONDecodeError):  # a line that was being written when the power failed
            row = json.loads(line)
            rows[name_of(row["job"])] = {**row["found"], "source": row.get("source", "?")}
    return rows


def work(path: Path, jobs: Iterable[Job], run: Callable[[Job], Job], workers: int, most: int | None = None) -> None:
    """Run the jobs that are not in the file yet, and write each down as soon as it is done."""
    done = read(path)
    todo = [job for job in jobs if name_of(job) not in done][:most]
    path.parent.mkdir(exist_ok=True)
    began, source = time.time(), source_hash()
    if not todo:
        return
    # Freed memory is kept: large nets otherwise spend a fifth of their time getting it back from the system.
    os.environ |= {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "4294967296",
                   "MALLOC_TRIM_THRESHOLD_": "17179869184"}  # fmt: skip
    with multiprocessing.get_context("spawn").Pool(workers, maxtasksperchild=20) as pool, path.open("a") as file:
        for number, (job, found) in enumerate(pool.imap_unordered(_Timed(run), todo), 1):
            print(json.dumps({"job": job, "found": found, "source": source}), file=file, flush=True)
            print(f"{number}/{len(todo)} {time.time() - began:.0f} s {name_of(job)} {found}", file=sys.stderr)


def source_hash() -> str:
    """Return what names the code that is measured, so that rows of another are known."""
    root = Path(conviction.__file__).parent
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(root.rglob("*.py")))).hexdigest()[:8]


class _Timed:
    """A job's run with its seconds (a class, as it is sent to other processes)."""

    def __init__(self, run: Callable[[Job], Job]) -> None:
        self.run = run

    def __call__(self, job: Job) -> tuple[Job, Job]:
        began = time.perf_counter()
        found = self.run(job)
        return job, {**found, "seconds": round(time.perf_counter() - began, 1)}


def parse(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with what every benchmark of jobs takes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes of one thread")
    parser.add_argument("--most", type=int, help="stop after so many jobs; go on later")
    parser.add_argument("--table", action="store_true", help="only print the table of what is done")
    return parser


def conditions(rows: Iterable[Job], threads: str = "one thread") -> str:
    """Say on what, with what and with which code the rows were measured."""
    import torch

    from conviction.environment import describe_environment
    from conviction.recipe import Recipe

    machine = describe_environment(Recipe(device="cpu"))["processor"]
    sources = Counter(row["source"] for row in rows)
    told = ", ".join(f"{source} ({count} rows)" for source, count in sources.most_common())
    return (f"{machine}, {threads} a run, glibc keeps freed memory, torch "
            f"{torch.__version__.split('+')[0]}, Python {platform.python_version()}; source {told}")  # fmt: skip


def told(description: str | None) -> str:
    """Return what a benchmark says of itself after its title and command."""
    return (description or "").split("\n\n", 2)[2].strip()
