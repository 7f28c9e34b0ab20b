"""Work on many files at once."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_THREADED_SECONDS = 0.001  # below this time an item, handing it to a thread costs more than it gains

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_threads(function: Callable[[Item], Result], items: Sequence[Item], chunk: int = 32) -> list[Result]:
    """Apply `function` to every item, in threads where an item takes long enough for that to help; results in order.

    Pillow decodes outside the interpreter's lock, but opens files inside it: on tiny pictures threads only wait for
    each other.
    """

    def apply_to_chunk(start: int) -> list[Result]:
        return [function(item) for item in items[start : start + chunk]]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of odd metadata; what matters here raises
        begin = time.perf_counter()
        results = apply_to_chunk(0)
        starts = range(chunk, len(items), chunk)
        if not starts or (time.perf_counter() - begin) / chunk < _THREADED_SECONDS:
            return results + [result for start in starts for result in apply_to_chunk(start)]
        pool = ThreadPoolExecutor(usable_cores())
        try:
            return results + [result for chunk_results in pool.map(apply_to_chunk, starts) for result in chunk_results]
        finally:
            pool.shutdown(cancel_futures=True)  # an interrupt does not wait for the rest of the folder


def usable_cores() -> int:
    """Return the number of cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
