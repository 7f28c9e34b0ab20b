"""Reading out-of-memory messages: every spelling of PyTorch from 1.0 on, the kernel's and the data loader's.

The spellings follow c10/cuda/CUDACachingAllocator.cpp, CUDAMallocAsyncAllocator.cpp, c10/xpu, MPSAllocator.mm and
c10/core/impl/alloc_cpu.cpp through the years.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, NamedTuple

from conviction.errors import UsageError
from conviction.planning.oom_tracebacks import Source, read_trace
from conviction.text import printable

# Everything here counts in steps of 1024, also where it prints MB: Metal's "19.45 GB" are 72250 x 72250 floats.
_UNITS = {"bytes": 1, "byte": 1, "b": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40, "p": 2**50, "e": 2**60}
# Twenty digits: a size that overflowed is printed as 2 to the 64th.
_SIZE = r"(\d{1,20}(?:\.\d{0,6})?) ?(bytes?|[KMGTPE]i?B|[kK]B|B)\b"
_EXBIBYTE = 2**60
# A text is searched for fixed words only; patterns run on this much around each, so that no text takes long.
_BEFORE, _AFTER, _MOST = 160, 2500, 100


@dataclass(frozen=True)
class Message:
    """What one out-of-memory message tells, in bytes; None where it does not.

    `backend` is "cuda", "hip", "xpu" or "mps" for a device, "cpu" for the host's memory, "shm" for shared memory.
    `allocated_bytes` are tensors alive, graphs' private pools (`private_bytes`) among them, `unallocated_bytes` what
    PyTorch reserved and does not use, `process_bytes` all that this process holds, `other_processes` (process id,
    bytes) of those that the message names, `limit_bytes` what the process was allowed, `metal_bytes` what Metal holds
    beside PyTorch. `rounding_bytes` is half the last digit of the coarsest figure. `killed` says that the kernel ended
    the process, `count` how many messages the text holds; this is the last that tells the most.
    """

    backend: str
    text: str
    device: int | None = None
    tried_bytes: int | None = None
    total_bytes: int | None = None
    free_bytes: int | None = None
    allocated_bytes: int | None = None
    unallocated_bytes: int | None = None
    private_bytes: int | None = None
    process_bytes: int | None = None
    limit_bytes: int | None = None
    metal_bytes: int | None = None
    other_processes: tuple[tuple[int, int], ...] = ()
    rounding_bytes: int = 0
    killed: bool = False
    source: Source | None = None
    phase: str | None = None
    operation: str | None = None
    count: int = 1

    @property
    def reserved_bytes(self) -> int | None:
        """What PyTorch took from the device: tensors alive and what it keeps for the next ones."""
        return None if self.allocated_bytes is None else self.allocated_bytes + (self.unallocated_bytes or 0)


def read_message(text: str) -> Message:
    """Read a message, a traceback or a whole log.

    Of several messages it takes the last that has figures, else the last that names its cause. Raises `UsageError`
    for a text that is not about memory.
    """
    if not isinstance(text, str):
        raise UsageError(f"an out-of-memory message is text, not {type(text).__name__}", "", "paste the message")
    found = sorted(_find(text), key=lambda place: (place.rank, place.position))
    if not found:
        raise UsageError("no out-of-memory message in the text", "",
                         "paste the error from `Traceback` to its last line")  # fmt: skip
    place = found[-1]
    trace = read_trace(text, place.position)
    return Message(
        text=place.text, source=trace.source, phase=trace.phase, operation=trace.operation,
        count=sum(other.rank == 2 for other in found) if place.rank == 2 else 1, **place.told,
    )  # fmt: skip


class _Place(NamedTuple):
    """One message in the text: how much it tells (0 to 2), where it is, its words and its figures."""

    rank: int
    position: int
    text: str
    told: dict[str, Any]


# Words that mean memory without telling figures: what they stand for, and how sure that is.
_BARE = (
    ("out of memory", "cuda", 0), ("Out of memory", "cuda", 0), ("OUT OF MEMORY", "cuda", 0),
    ("OutOfMemory", "cuda", 0), ("OUT_OF_MEMORY", "cuda", 0), ("cudaErrorMemoryAllocation", "cuda", 0),
    ("CUBLAS_STATUS_ALLOC_FAILED", "cuda", 0), ("CUDNN_STATUS_ALLOC_FAILED", "cuda", 0),
    ("find a valid cuDNN algorithm", "cuda", 0), ("no valid convolution algorithms", "cuda", 0),
    ("insufficient shared memory", "shm", 1), ("by signal: Bus error", "shm", 1),
    ("open shared memory object", "shm", 1), ("to write to file </torch_", "shm", 1),
    ("Cannot allocate memory", "cpu", 0), ("MemoryError", "cpu", 0), ("std::bad_alloc", "cpu", 0),
    ("not enough memory", "cpu", 0), ("by signal: Killed", "killed", 1), ("Killed process", "killed", 1),
    ("SIGKILL", "killed", 0), ("oom-kill", "killed", 0), ("exit code 137", "killed", 0), ("OOMKilled", "killed", 0),
)  # fmt: skip


def _find(text: str) -> Iterator[_Place]:
    for position in _positions(text, "Tried to allocate"):
        yield _read_device(text, position)
    for position in _positions(text, "would exceed allowed memory"):
        yield _read_async(text, position)
    for words in ("you tried to allocate", "Unable to allocate", "Trying to allocate"):
        for position in _positions(text, words):
            yield _read_host(text, position, words)
    for position in _positions(text, "Invalid buffer size"):
        window = _window(text, position, 0, 100, "Invalid buffer size")
        if tried := _figure(window, f"size: {_SIZE}"):
            yield _Place(2, position, window, {"backend": "mps", "tried_bytes": tried[0], "rounding_bytes": tried[1]})
    for words, backend, rank in _BARE:
        for position in _positions(text, words):
            part = words == "MemoryError" and text[max(0, position - 1) : position].isalpha()
            if not part:  # of OutOfMemoryError
                yield _read_bare(text, position, backend, rank)
    if any(map(_says_killed, text[-5000:].splitlines()[-50:])):
        yield _Place(0, len(text) - 1, "Killed", {"backend": "cpu", "killed": True})


def _positions(text: str, words: str) -> Iterator[int]:
    """Yield where some words stand, from the last backwards, and no more than a few."""
    end = len(text)
    for _ in range(_MOST):
        end = text.rfind(words, 0, end)
        if end < 0:
            return
        yield end


def _window(text: str, position: int, before: int, after: int, words: str) -> str:
    """Cut out a message as one line, up to the next one and without colours, quote marks and boxes."""
    following = text.find(words, position + 1, position + after)
    end = following if following >= 0 else position + after
    next_trace = text.find("Traceback (most", position, end)
    end = next_trace if next_trace >= 0 else end
    cut = re.sub(r"\x1b\[[\d;]{0,12}[A-Za-z]", "", text[max(0, position - before) : end])
    return printable(" ".join(re.sub(r"\n[\s>#|│*]*", " ", cut).split()))


# The figures of a device's message: field, spellings. `{}` stands for a number with its unit.
_SPELLINGS = {
    "total_bytes": ("{} total capacity", "total capac?i?ty of {}", "max allowed: {}", "Device limit ?: {}"),
    "free_bytes": ("of which {} is free", "{} free;", r"Free \(according to CUDA\): {}"),
    "allocated_bytes": ("{} already allocated", "{} is allocated by PyTorch", "MPS allocated: {}",
                        "urrently allocated ?: {}"),
    "reserved": ("{} reserved in total",),
    # Before 1.4 "cached" meant what is reserved and not in use.
    "unallocated_bytes": ("{} is reserved by PyTorch but unallocated", "{} cached"),
    "private_bytes": ("with {} allocated in private pools",),
    "process_bytes": ("this process has {} memory in use",),
    "limit_bytes": ("{} allowed;", r"PyTorch limit \(set by user-supplied memory fraction\) ?: {}"),
    "metal_bytes": ("other allocations: {}",),
}  # fmt: skip
_PATTERNS = {
    field: tuple(re.compile(spelling.replace("{}", _SIZE)) for spelling in spellings)
    for field, spellings in _SPELLINGS.items()
}
_PROCESS = re.compile(rf"Process (\d{{1,12}}) has {_SIZE} memory in use")
_BACKEND = re.compile(r"\b(CUDA|HIP|XPU|MPS)\b")
_DEVICE = re.compile(r"(?:GPU|on device) +(\d{1,4})\b")


def _read_device(text: str, position: int) -> _Place:
    words = "Tried to allocate"
    window = _window(text, position, _BEFORE, _AFTER, words)
    head, _, rest = window.rpartition(words)
    backends = _BACKEND.findall(head)
    backend = backends[-1].lower() if backends else "cuda"
    if backend != "mps":  # Metal's figures stand before these words, those of the others after
        window = rest
    told = _figures(window)
    tried = _figure(rest, f"^ {_SIZE}")
    if rest.startswith(" more than 1EB"):
        tried = (_EXBIBYTE, 0)
    if tried:
        told |= {"tried_bytes": tried[0], "rounding_bytes": max(tried[1], told["rounding_bytes"])}
    rank = 2 if tried and (told.get("total_bytes") or tried[0] >= _EXBIBYTE) else 0
    # The words before may belong to something else on the same line of a log.
    shown = f"{backend.upper()} out of memory. {words}{rest}" if backend != "mps" else window[window.rfind("MPS") :]
    return _Place(rank, position, shown[:600], told | {"backend": backend})


def _read_async(text: str, position: int) -> _Place:
    window = _window(text, position, 40, 700, "would exceed allowed memory")
    told = _figures(window)
    tried = _figure(window, f"Requested ?: {_SIZE}")
    if tried:
        told |= {"tried_bytes": tried[0], "rounding_bytes": max(tried[1], told["rounding_bytes"])}
    return _Place(2 if tried and told.get("total_bytes") else 0, position, window, told | {"backend": "cuda"})


def _read_host(text: str, position: int, words: str) -> _Place:
    window = _window(text, position, _BEFORE, 200, words)
    tried = _figure(window, f"{words} {_SIZE}")
    told = {"tried_bytes": tried[0], "rounding_bytes": tried[1]} if tried else {}
    return _Place(2 if tried else 0, position, window[:600], told | {"backend": "cpu"})


def _read_bare(text: str, position: int, backend: str, rank: int) -> _Place:
    line = max(text.rfind("\n", max(0, position - 300), position) + 1, position - 300, 0)
    window = _window(text, position, position - line, 300, "\n")
    told: dict[str, Any] = {"backend": backend}
    if backend == "killed":
        held = re.search(r"anon-rss:(\d{1,15})kB", window)
        told = {"backend": "cpu", "killed": True} | ({"allocated_bytes": int(held[1]) * 1024} if held else {})
    elif backend == "cuda" and (other := re.search(r"\b(HIP|XPU|MPS)\b", window)):
        told["backend"] = other[1].lower()
    return _Place(rank, position, window, told)


def _says_killed(line: str) -> bool:
    """Whether a line is the shell's word for a killed program: `Killed`, `zsh: killed  python train.py`."""
    words = line[:200].split()
    before = list(takewhile(lambda word: word.lower() != "killed", words))
    signs = (word.endswith(":") or word.isdigit() or word.startswith("[") or word == "line" for word in before)
    return len(before) < len(words) and all(signs)


def _figures(window: str) -> dict[str, Any]:
    """Read the figures that a device's message tells, and half the last digit of the coarsest."""
    told: dict[str, Any] = {"rounding_bytes": 0}
    for field, patterns in _PATTERNS.items():
        found = next((match for pattern in patterns if (match := pattern.search(window))), None)
        if found:
            size, rounding = _bytes(*found.groups())
            if size < _EXBIBYTE:  # 16 EiB is the driver's word for "not told", and for "no limit"
                told[field] = size
                told["rounding_bytes"] = max(told["rounding_bytes"], rounding)
    reserved = told.pop("reserved", None)
    if reserved is not None and "allocated_bytes" in told:
        told["unallocated_bytes"] = max(0, reserved - told["allocated_bytes"])
    others = tuple((int(match[1]), _bytes(match[2], match[3])[0]) for match in _PROCESS.finditer(window))
    told["other_processes"] = tuple((number, size) for number, size in others if size < _EXBIBYTE)
    if device := _DEVICE.search(window):
        told["device"] = int(device[1])
    return told


def _figure(window: str, pattern: str) -> tuple[int, int] | None:
    found = re.search(pattern, window)
    return _bytes(*found.groups()) if found else None


def _bytes(number: str, unit: str) -> tuple[int, int]:
    """Return a printed size in bytes, and half of what its last digit stands for."""
    scale = _UNITS.get(unit.lower()) or _UNITS[unit[0].lower()]
    digits = len(number.partition(".")[2])
    whole, _, part = number.partition(".")
    return (int(whole + part) * scale + 10**digits // 2) // 10**digits, 0 if scale == 1 else scale // (2 * 10**digits)
