"""Devices: what a card holds and how fast it can be at best, by name; and the processor and the card that are here.

Memory is what a process is offered, which is less than what the box says: the driver keeps some, and error correction
takes its part. Rates are the makers' peaks of dense products that add up in float32, as PyTorch's do: GeForce cards
before and after it multiply half precision at half the advertised rate then.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from conviction.errors import ResourceError, UsageError
from conviction.text import format_bytes, printable, suggest

_GIB = 2**30
_LEAST_BYTES, _MOST_BYTES = 64 * 2**20, 4 * 2**40


@dataclass(frozen=True)
class Device:
    """A card or a processor. Rates are None where they are not known, or where the hardware lacks the number format.

    `memory_bytes` is all that a process is offered (`total capacity` in PyTorch's messages; of a card of the table the
    lowest seen, as it shrinks a little from driver to driver), the CUDA context still to come off it; `free_bytes` is
    what was free when a device that is really here was asked. `kind` is `cuda` or `cpu`, `fp32_flop_per_second` is
    without tensor cores, `source` says where the figures are from.
    """

    key: str
    title: str
    kind: str
    memory_bytes: int
    bandwidth_bytes_per_second: float | None = None
    fp32_flop_per_second: float | None = None
    tf32_flop_per_second: float | None = None
    bf16_flop_per_second: float | None = None
    fp16_flop_per_second: float | None = None
    compute_capability: tuple[int, int] | None = None
    source: str = ""
    free_bytes: int | None = None
    cores: int | None = None

    def peak_flop_per_second(self, precision: str, convolution: bool = True) -> float | None:
        """Return the peak rate of products in `fp32`, `bf16` or `fp16`; None where it is not known or does not exist.

        torch runs fp32 convolutions in tf32 where the hardware has it, and fp32 matrix products not, by default.
        """
        if precision == "fp32":
            return (convolution and self.tf32_flop_per_second) or self.fp32_flop_per_second
        rates = {"bf16": self.bf16_flop_per_second, "fp16": self.fp16_flop_per_second}
        if precision not in rates:
            raise UsageError(f"precision = {printable(repr(precision))} is unknown", "", "use fp32, bf16 or fp16")
        return rates[precision]


@dataclass(frozen=True)
class _Generation:
    """What a multiprocessor of a GeForce generation does in a cycle, in FLOP, adding up in float32."""

    compute_capability: tuple[int, int]
    fp32: int
    tf32: int | None
    bf16: int | None
    fp16: int
    source: str


_TURING = _Generation((7, 5), 128, None, None, 512, "NVIDIA Turing GPU Architecture whitepaper")
_AMPERE = _Generation((8, 6), 256, 256, 512, 512, "NVIDIA Ampere GA102 GPU Architecture whitepaper")
_ADA = _Generation((8, 9), 256, 256, 512, 512, "NVIDIA Ada GPU Architecture whitepaper")
_BLACKWELL = _Generation((12, 0), 256, 256, 512, 512, "NVIDIA RTX Blackwell GPU Architecture whitepaper")

# The lowest total capacity in GiB that public out-of-memory messages show for GeForce cards sold with so much: Windows
# offers more (7.99 of 8), new Linux drivers least.
_OFFERED_GIB = {4: 3.63, 6: 5.60, 8: 7.51, 10: 9.62, 11: 10.56, 12: 11.49, 16: 15.45, 24: 23.41, 32: 31.36}

# name, multiprocessors, boost clock in MHz (of a laptop's card the top of the range that makers choose from), GB/s, GB.
_GEFORCE: dict[_Generation, tuple[tuple[str, int, int, int, int], ...]] = {
    _TURING: (
        ("RTX 2060", 30, 1680, 336, 6), ("RTX 2060 Super", 34, 1650, 448, 8), ("RTX 2070", 36, 1620, 448, 8),
        ("RTX 2070 Super", 40, 1770, 448, 8), ("RTX 2080", 46, 1710, 448, 8), ("RTX 2080 Super", 48, 1815, 496, 8),
        ("RTX 2080 Ti", 68, 1545, 616, 11),
    ),
    _AMPERE: (
        ("RTX 3050", 20, 1777, 224, 8), ("RTX 3060", 28, 1777, 360, 12), ("RTX 3060 Ti", 38, 1665, 448, 8),
        ("RTX 3070", 46, 1725, 448, 8), ("RTX 3070 Ti", 48, 1770, 608, 8), ("RTX 3080", 68, 1710, 760, 10),
        ("RTX 3080 12GB", 70, 1710, 912, 12), ("RTX 3080 Ti", 80, 1665, 912, 12), ("RTX 3090", 82, 1695, 936, 24),
        ("RTX 3090 Ti", 84, 1860, 1008, 24),
        ("RTX 3050 Laptop", 16, 1740, 192, 4), ("RTX 3050 6GB Laptop", 20, 1492, 168, 6),
        ("RTX 3050 Ti Laptop", 20, 1695, 192, 4), ("RTX 3060 Laptop", 30, 1703, 336, 6),
        ("RTX 3070 Laptop", 40, 1620, 448, 8), ("RTX 3070 Ti Laptop", 46, 1485, 448, 8),
        ("RTX 3080 Laptop", 48, 1710, 448, 8), ("RTX 3080 16GB Laptop", 48, 1710, 448, 16),
        ("RTX 3080 Ti Laptop", 58, 1590, 512, 16),
    ),
    _ADA: (
        ("RTX 4060", 24, 2460, 272, 8), ("RTX 4060 Ti", 34, 2535, 288, 8), ("RTX 4060 Ti 16GB", 34, 2535, 288, 16),
        ("RTX 4070", 46, 2475, 504, 12), ("RTX 4070 Super", 56, 2475, 504, 12), ("RTX 4070 Ti", 60, 2610, 504, 12),
        ("RTX 4070 Ti Super", 66, 2610, 672, 16), ("RTX 4080", 76, 2505, 717, 16),
        ("RTX 4080 Super", 80, 2550, 736, 16), ("RTX 4090", 128, 2520, 1008, 24),
        ("RTX 4050 Laptop", 20, 2370, 192, 6), ("RTX 4060 Laptop", 24, 2370, 256, 8),
        ("RTX 4070 Laptop", 36, 2175, 256, 8), ("RTX 4080 Laptop", 58, 2280, 432, 12),
        ("RTX 4090 Laptop", 76, 2040, 576, 16),
    ),
    _BLACKWELL: (
        ("RTX 5060", 30, 2497, 448, 8), ("RTX 5060 Ti", 36, 2572, 448, 8), ("RTX 5060 Ti 16GB", 36, 2572, 448, 16),
        ("RTX 5070", 48, 2512, 672, 12), ("RTX 5070 Ti", 70, 2452, 896, 16), ("RTX 5080", 84, 2617, 960, 16),
        ("RTX 5090", 170, 2407, 1792, 32),
        ("RTX 5060 Laptop", 26, 2497, 384, 8), ("RTX 5070 Laptop", 36, 2347, 384, 8),
        ("RTX 5070 Ti Laptop", 46, 2220, 672, 12), ("RTX 5080 Laptop", 60, 2287, 896, 16),
        ("RTX 5090 Laptop", 82, 2160, 896, 24),
    ),
}  # fmt: skip

# key, title, capability, GiB offered, GB/s, TFLOP/s in fp32, tf32, bf16, fp16. A P100 halves numbers but not the time:
# torch adds fp16 up in float32, which it does at the rate of fp32. An A10G has half the tensor rate of an A10.
_BOARDS: tuple[tuple[str, str, tuple[int, int], float, int, float, float | None, float | None, float], ...] = (
    ("t4", "Tesla T4", (7, 5), 14.56, 320, 8.1, None, None, 65),
    ("p100", "Tesla P100 PCIe 16 GB", (6, 0), 15.89, 732, 9.3, None, None, 9.3),
    ("v100-16", "Tesla V100 SXM2 16 GB", (7, 0), 15.77, 900, 15.7, None, None, 125),
    ("v100-16-pcie", "Tesla V100 PCIe 16 GB", (7, 0), 15.77, 900, 14, None, None, 112),
    ("v100-32", "Tesla V100 SXM2 32 GB", (7, 0), 31.73, 900, 15.7, None, None, 125),
    ("l4", "L4", (8, 9), 22.03, 300, 30.3, 60, 121, 121),
    ("a10", "A10", (8, 6), 22.03, 600, 31.2, 62.5, 125, 125),
    ("a10g", "A10G", (8, 6), 22.03, 600, 35, 35, 70, 70),
    ("a100-40", "A100 40 GB", (8, 0), 39.38, 1555, 19.5, 156, 312, 312),
    ("a100-80", "A100 SXM 80 GB", (8, 0), 79.14, 2039, 19.5, 156, 312, 312),
    ("a100-80-pcie", "A100 PCIe 80 GB", (8, 0), 79.14, 1935, 19.5, 156, 312, 312),
    ("h100", "H100 SXM 80 GB", (9, 0), 79.10, 3350, 67, 494, 989, 989),
    ("h100-pcie", "H100 PCIe 80 GB", (9, 0), 79.10, 2000, 51, 378, 756, 756),
    ("h200", "H200 SXM 141 GB", (9, 0), 139.72, 4800, 67, 494, 989, 989),
)

# Other names in use: what drivers call a board, and a family by its smallest card.
_ALSO = {"p100 pcie 16": "p100", "v100": "v100-16", "v100 pcie": "v100-16-pcie", "a100": "a100-40",
         "a100 pcie": "a100-40", "a100 40 pcie": "a100-40", "a100 80": "a100-80", "h100 80": "h100",
         "h100 80 pcie": "h100-pcie", "h200 141": "h200"}  # fmt: skip


def _board(key: str, title: str, capability: tuple[int, int], gib: float, gb_per_second: float,
           fp32: float, tf32: float | None, bf16: float | None, fp16: float, source: str = "") -> Device:  # fmt: skip
    source = source or f"NVIDIA {title.removeprefix('Tesla ').split()[0]} datasheet, dense rates"
    return Device(key, title, "cuda", round(gib * _GIB), gb_per_second * 1e9, fp32 * 1e12, tf32 and tf32 * 1e12,
                  bf16 and bf16 * 1e12, fp16 * 1e12, capability, source)  # fmt: skip


def _geforce(made: _Generation, name: str, processors: int, mhz: int, gb_per_second: int, gb: int) -> Device:
    """Return a GeForce card: its multiprocessors times its clock times what each does in a cycle."""
    tera = processors * mhz / 1e6
    fp32, tf32, bf16, fp16 = (rate and tera * rate for rate in (made.fp32, made.tf32, made.bf16, made.fp16))
    laptop = name.endswith(" Laptop")
    source = made.source + (" and GeForce laptop specifications, at the highest clock" if laptop else "")
    key, title = name.lower().replace("gb", "").replace(" ", "-"), f"GeForce {name}{' GPU' if laptop else ''}"
    return _board(key, title, made.compute_capability, _OFFERED_GIB[gb], gb_per_second, fp32 or 0, tf32, bf16,
                  fp16 or 0, source)  # fmt: skip


DEVICES: dict[str, Device] = {
    device.key: device
    for device in (
        *(_board(*row) for row in _BOARDS),
        *(_geforce(made, *row) for made, rows in _GEFORCE.items() for row in rows),
    )
}


def find_device(word: str) -> Device:
    """Return the device that a word means.

    A card of the table in any usual spelling (`T4`, `rtx3090`, `A100 80GB`); a size for an unknown card (`16GiB`,
    `16GB` and `16g` are the same: makers count memory in powers of two); `cpu`, `cuda`, `cuda:1` for what is here,
    with `free_bytes`; `auto` for the first card here, else the processor. Raises `UsageError` for other words and
    for sizes that no card has, `ResourceError` where the system does not tell its memory.
    """
    text = str(word)[:100].strip().lower()
    if text == "cpu":
        return _processor()
    if text == "auto" or re.fullmatch(r"cuda(:\d{1,4})?", text):
        return _card_here(text)
    if size := re.fullmatch(
        r"([+-]?(?:(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|nan|inf|infinity))\s*(g|gb|gib|m|mb|mib)", text
    ):
        return _of_size(*size.groups())
    key = _WORDS.get(_words_in(text))
    if key is None:
        known = ("auto", "cpu", "cuda", *DEVICES)
        raise UsageError(f"unknown device {printable(str(word)[:100])!r}{suggest(text, known)}", "--device",
                         "name a card, as in t4 or rtx-3090, a size as in 16GiB, or cpu, cuda, auto")  # fmt: skip
    return DEVICES[key]


def _of_size(number: str, unit: str) -> Device:
    size = float(number) * (_GIB if unit.startswith("g") else 2**20)
    if not _LEAST_BYTES <= size <= _MOST_BYTES:  # nan lies in no range
        raise UsageError(f"no card has {number} {'GiB' if unit[0] == 'g' else 'MiB'} of memory", "--device",
                         f"give a size from {format_bytes(_LEAST_BYTES)} to {format_bytes(_MOST_BYTES)}")  # fmt: skip
    title = f"a card of {format_bytes(size)}"
    return Device(title.removeprefix("a card of ").replace(" ", ""), title, "cuda", int(size), source="as asked for")


def _words_in(text: str) -> tuple[str, ...]:
    """Return the words and numbers of a card's name in alphabetical order, without those that tell nothing."""
    text = re.sub(r"(?<![a-z\d])(\d+)\s*(?:gib|gb|g)\b", r"\1", text.lower())  # 80GB, but not A10G
    text = re.sub(r"sxm\d?|hbm3e?|nvidia|geforce|tesla|gpu", " ", text).replace("mobile", "laptop")
    return tuple(sorted(re.findall(r"rtx|ti|super|laptop|[a-z]+|\d+", text)))


def _spellings() -> dict[tuple[str, ...], str]:
    """Return every way to write a card of the table; the memory it is sold with may be added, `RTX` left out."""
    spelled = {_words_in(name): key for name, key in _ALSO.items()}
    for key, card in DEVICES.items():
        sold = next(size for size in _SOLD_GB if size * _GIB > card.memory_bytes)
        for name in (key, f"{key} {sold}"):
            spelled |= {_words_in(name): key, _words_in(name.replace("rtx", "")): key}
    return spelled


_SOLD_GB = (*_OFFERED_GIB, 40, 80, 141)
_WORDS = _spellings()


def _card_here(text: str) -> Device:
    """Return the card that torch sees under that name, with its real memory; of the table its rates, if it is there."""
    import torch

    if text == "auto" and not torch.cuda.is_available():
        return _processor()
    number = int(text.partition(":")[2] or 0)
    if number >= (torch.cuda.device_count() if torch.cuda.is_available() else 0):
        raise UsageError(f"device {text!r} is not on this machine", "--device",
                         "name the card to plan for, as in t4 or 16GiB, or use cpu")  # fmt: skip
    found = torch.cuda.get_device_properties(number)
    free, total = torch.cuda.mem_get_info(number)
    alike = _row_of(found.name, (found.major, found.minor), total)
    here = alike or Device("", "", "cuda", total, source="not in the table")
    return replace(here, key=f"cuda:{number}", title=printable(found.name), memory_bytes=total, free_bytes=free,
                   compute_capability=(found.major, found.minor))  # fmt: skip


def _row_of(name: str, capability: tuple[int, int], memory_bytes: int) -> Device | None:
    """Return the row of a card under its driver's name; cards of one name differ in memory, and then in rates."""
    keys = [_WORDS.get(_words_in(f"{name} {size}")) for size in ("", *_SOLD_GB)]
    named = [DEVICES[key] for key in keys if key is not None and DEVICES[key].compute_capability == capability]
    return next((row for row in named if 0.9 < memory_bytes / row.memory_bytes < 1.1), None)


def _processor() -> Device:
    """Return this machine's processor; its rates are for a calibration to find."""
    affinity: Any = getattr(os, "sched_getaffinity", None)  # Linux alone has it
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    total, free = memory_here()
    return Device("cpu", f"this processor, {cores} core{'s' * (cores > 1)}", "cpu", total, source="read off the system",
                  free_bytes=free, cores=cores)  # fmt: skip


def memory_here(root: Path = Path("/")) -> tuple[int, int]:
    """Return the bytes of main memory that a process here may use, and those of them that are free.

    A container's limit counts where it is lower. `root` is where `proc` and `sys` are mounted.
    """
    told = dict(re.findall(r"^(\w+):\s+(\d+) kB", _text(root / "proc/meminfo"), re.MULTILINE))
    if "MemTotal" in told:
        total = 1024 * int(told["MemTotal"])
        free = 1024 * int(told.get("MemAvailable", told["MemTotal"]))
    else:  # no Linux
        try:
            total = free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (AttributeError, ValueError, OSError) as error:
            what = "this system does not tell its memory"
            raise ResourceError(what, "--device cpu", "give a size, as in 16GiB") from error
    total = min(total, *_limits(root))
    return total, min(free, total)


def _limits(root: Path) -> list[int]:
    """Return the memory limits of the control groups that this process is in, and of those around them."""
    limits = [2**63]
    for line in _text(root / "proc/self/cgroup").splitlines():
        controllers, _, group = line.partition(":")[2].partition(":")
        if controllers not in ("", "memory"):
            continue
        top = root / "sys/fs/cgroup" / controllers
        name = "memory.limit_in_bytes" if controllers else "memory.max"
        # Inside a container its own group is mounted at the top, while its path may be told from outside.
        here = top / group.lstrip("/")
        for folder in (here, *here.parents):
            if folder.is_relative_to(top) and (text := _text(folder / name).strip()).isdigit():
                limits.append(int(text))
    return limits


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
