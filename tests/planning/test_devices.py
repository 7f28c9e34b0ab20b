"""The table of devices against published figures, the spellings it takes, and what is read off this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from conviction.errors import UsageError
from conviction.planning.devices import DEVICES, find_device, memory_here

GIB = 2**30
CARDS = list(DEVICES.values())
# Peaks in TFLOP/s as published (fp32, then fp16 that adds up in float32, both dense), and GB/s.
PUBLISHED = {
    "t4": (8.1, 65, 320), "v100-16": (15.7, 125, 900), "l4": (30.3, 121, 300), "a10": (31.2, 125, 600),
    "a100-40": (19.5, 312, 1555), "a100-80": (19.5, 312, 2039), "h100": (67, 989, 3350), "h200": (67, 989, 4800),
    "rtx-2060": (6.5, 25.8, 336), "rtx-2080-ti": (13.4, 53.8, 616), "rtx-3060": (12.7, 25.5, 360),
    "rtx-3070": (20.3, 40.6, 448), "rtx-3080": (29.8, 59.5, 760), "rtx-3090": (35.6, 71, 936),
    "rtx-4060": (15.1, 30.2, 272), "rtx-4070": (29.1, 58.3, 504), "rtx-4080": (48.7, 97.5, 717),
    "rtx-4090": (82.6, 165.2, 1008), "rtx-5090": (104.8, 209.5, 1792),
}  # fmt: skip


@pytest.mark.parametrize("key", PUBLISHED)
def test_peaks_are_the_published_ones(key: str) -> None:
    card, (fp32, fp16, gb_per_second) = DEVICES[key], PUBLISHED[key]
    assert card.fp32_flop_per_second == pytest.approx(fp32 * 1e12, rel=0.01)
    assert card.fp16_flop_per_second == pytest.approx(fp16 * 1e12, rel=0.01)
    assert card.bandwidth_bytes_per_second == gb_per_second * 1e9


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.key)
def test_every_row_is_whole_and_plausible(card) -> None:
    assert card.kind == "cuda" and card.source and card.title and card.free_bytes is None
    assert (
        DEVICES[card.key] is card and find_device(card.key) is card and find_device(f"  {card.title.upper()}") is card
    )
    # A process is offered less than what is on the box, though never less than nine tenths of it.
    sold = next(size for size in (4, 6, 8, 10, 11, 12, 16, 24, 32, 40, 80, 141) if size * GIB > card.memory_bytes)
    assert 0.9 < card.memory_bytes / (sold * GIB) < 1
    # tf32 and bf16 came together, with Ampere; a low format is never slower than a high one.
    assert (card.tf32_flop_per_second is None) == (card.bf16_flop_per_second is None)
    assert (card.bf16_flop_per_second is not None) == (card.compute_capability >= (8, 0))
    rates = [card.fp32_flop_per_second, card.tf32_flop_per_second, card.bf16_flop_per_second, card.fp16_flop_per_second]
    there = [rate for rate in rates if rate is not None]
    assert there == sorted(there) and there[0] > 4e12 and there[-1] < 1e15
    assert 1.5e11 < card.bandwidth_bytes_per_second < 5e12


def test_a_laptops_card_is_no_faster_than_the_desktops() -> None:
    pairs = [(DEVICES[key], DEVICES[key.removesuffix("-laptop")]) for key in DEVICES
             if key.endswith("-laptop") and key.removesuffix("-laptop") in DEVICES]  # fmt: skip
    assert len(pairs) > 12
    for laptop, desktop in pairs:
        assert laptop.bandwidth_bytes_per_second <= desktop.bandwidth_bytes_per_second, laptop.key
        assert laptop.fp32_flop_per_second < 1.05 * desktop.fp32_flop_per_second, laptop.key


@pytest.mark.parametrize(
    ("word", "key"),
    [
        ("T4", "t4"), ("tesla-t4", "t4"), ("T4 16GB", "t4"), ("P100", "p100"), ("v100", "v100-16"),
        ("V100 32GB", "v100-32"),
        ("a100", "a100-40"), ("a100-80", "a100-80"), ("A100 80GB", "a100-80"), ("a100_80gb", "a100-80"),
        ("A10G", "a10g"),
        ("a10", "a10"), ("NVIDIA A10 24GB", "a10"), ("H100", "h100"), ("h100 sxm5", "h100"), ("H100 PCIe", "h100-pcie"),
        ("rtx 3090", "rtx-3090"), ("rtx3090", "rtx-3090"), ("3090", "rtx-3090"), ("RTX_3080", "rtx-3080"),
        ("rtx 3080 12GB", "rtx-3080-12"), ("NVIDIA GeForce RTX 2080 Ti", "rtx-2080-ti"),
        ("4060ti 16g", "rtx-4060-ti-16"), ("rtx4070tisuper", "rtx-4070-ti-super"),
        ("RTX 4060 Laptop GPU", "rtx-4060-laptop"), ("laptop rtx 4060 8GB", "rtx-4060-laptop"),
        ("rtx 3050 mobile", "rtx-3050-laptop"), ("rtx 3050 laptop 6gb", "rtx-3050-6-laptop"),
    ],
)  # fmt: skip
def test_spellings(word: str, key: str) -> None:
    assert find_device(word).key == key


def test_adding_the_memory_or_leaving_rtx_out_never_leads_to_another_card() -> None:
    for key in DEVICES:
        sold = next(
            size for size in (4, 6, 8, 10, 11, 12, 16, 24, 32, 40, 80, 141) if size * GIB > DEVICES[key].memory_bytes
        )
        for word in (
            key,
            f"{key} {sold}GB",
            key.replace("rtx-", ""),
            key.replace("-", ""),
            key.replace("-", " ").upper(),
        ):
            if key.endswith(("-16", "-32", "-12", "-6-laptop", "-16-laptop", "-80", "-40", "-16-pcie", "-80-pcie")):
                word = word if "-" in word or " " in word else key  # digits that run together are another number
            assert find_device(word).key == key, word


@pytest.mark.parametrize(
    ("word", "size"),
    [("16GiB", 16 * GIB), ("16GB", 16 * GIB), ("16g", 16 * GIB), ("11.5 GiB", 11.5 * GIB), (" 8 gb ", 8 * GIB),
     ("512MiB", GIB / 2), ("1e1 GiB", 10 * GIB), (".5g", GIB / 2)],
)  # fmt: skip
def test_a_size_is_a_card_of_that_memory_and_no_rates(word: str, size: float) -> None:
    card = find_device(word)
    assert card.memory_bytes == size and card.kind == "cuda" and card.compute_capability is None
    assert card.peak_flop_per_second("fp32") is None and card.bandwidth_bytes_per_second is None


@pytest.mark.parametrize("word", ["0GiB", "0 g", "-4 GB", "1e30 GiB", "nan GiB", "inf g", "1MiB", "5000 GiB", "1e999g"])
def test_absurd_sizes_are_refused_in_one_line(word: str) -> None:
    with pytest.raises(UsageError, match=r"no card has .* of memory, --device - give a size") as caught:
        find_device(word)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("word", "near"),
    [("rtx 3091", "rtx-3090"), ("h10", "h100"), ("cdua", "cuda"), ("", ""), ("16", ""), ("1.2.3g", ""),
     ("cuda:x", "cuda"), ("t\x1b[31m4", ""), ("a\nb", ""), ("rtx 4090 24gib 24gib", ""), ("9" * 10**6, "")],
)  # fmt: skip
def test_unknown_words_are_refused_in_one_line(word: str, near: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_device(word)
    line = str(caught.value)
    assert line.startswith("unknown device") and (f"did you mean {near}" in line) == bool(near) and len(line) < 400
    assert line.isprintable()


def test_fp32_convolutions_run_in_tf32_where_there_is_tf32() -> None:
    ampere, turing = DEVICES["a100-40"], DEVICES["t4"]
    assert ampere.peak_flop_per_second("fp32") == 156e12
    assert ampere.peak_flop_per_second("fp32", convolution=False) == 19.5e12
    assert turing.peak_flop_per_second("fp32") == turing.fp32_flop_per_second == 8.1e12
    assert turing.peak_flop_per_second("bf16") is None and turing.peak_flop_per_second("fp16") == 65e12
    with pytest.raises(UsageError, match="use fp32, bf16 or fp16"):
        ampere.peak_flop_per_second("int8")


def test_the_processor_is_this_one() -> None:
    here = find_device("CPU")
    assert here.kind == "cpu" and here.cores == len(os.sched_getaffinity(0))
    assert here.memory_bytes <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 1.01
    assert 0 < (here.free_bytes or 0) <= here.memory_bytes and here.peak_flop_per_second("fp32") is None


def machine(root: Path, groups: str, limits: dict[str, str]) -> Path:
    files = {"proc/meminfo": "MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:  600 kB\n", "proc/self/cgroup": groups}
    for name, text in (files | limits).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("groups", "limits", "total_kb", "free_kb"),
    [
        ("", {}, 1000, 600),
        ("0::/\n", {"sys/fs/cgroup/memory.max": "819200\n"}, 800, 600),
        ("0::/\n", {"sys/fs/cgroup/memory.max": "max\n"}, 1000, 600),
        ("0::/a/b\n", {"sys/fs/cgroup/a/b/memory.max": "max", "sys/fs/cgroup/a/memory.max": "409600"}, 400, 400),
        ("0::/a/b\n", {"sys/fs/cgroup/a/b/memory.max": "102400", "sys/fs/cgroup/memory.max": "409600"}, 100, 100),
        ("0::/told/from/outside\n", {"sys/fs/cgroup/memory.max": "204800"}, 200, 200),
        ("4:memory:/m\n3:cpu:/c\n", {"sys/fs/cgroup/memory/m/memory.limit_in_bytes": "512000"}, 500, 500),
        ("4:memory:/m\n", {"sys/fs/cgroup/memory/m/memory.limit_in_bytes": "9223372036854771712"}, 1000, 600),
        ("3:cpu:/c\n", {"sys/fs/cgroup/cpu/c/memory.limit_in_bytes": "4096"}, 1000, 600),
        ("nonsense\n::::\n0::/../../..\n", {"memory.max": "4096"}, 1000, 600),
    ],
)
def test_a_containers_limit_counts_where_it_is_lower(
    tmp_path: Path, groups: str, limits: dict[str, str], total_kb: int, free_kb: int
) -> None:
    assert memory_here(machine(tmp_path, groups, limits)) == (1024 * total_kb, 1024 * free_kb)


@pytest.mark.parametrize(
    ("name", "capability", "gib", "key"),
    [
        ("NVIDIA A100-SXM4-80GB", (8, 0), 79.2, "a100-80"), ("NVIDIA A100 80GB PCIe", (8, 0), 79.2, "a100-80-pcie"),
        ("NVIDIA H100 80GB HBM3", (9, 0), 79.2, "h100"), ("NVIDIA H100 PCIe", (9, 0), 79.2, "h100-pcie"),
        ("Tesla V100-SXM2-16GB", (7, 0), 15.8, "v100-16"), ("Tesla P100-PCIE-16GB", (6, 0), 15.9, "p100"),
        ("NVIDIA GeForce RTX 3080", (8, 6), 11.7, "rtx-3080-12"), ("NVIDIA GeForce RTX 3080", (8, 6), 9.7, "rtx-3080"),
        ("NVIDIA GeForce RTX 4060 Ti", (8, 9), 15.6, "rtx-4060-ti-16"), ("NVIDIA H100 NVL", (9, 0), 93.0, None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", (8, 9), 15.7, "rtx-4090-laptop"), ("Tesla T4", (7, 5), 14.7, "t4"),
        ("NVIDIA GeForce RTX 4090", (7, 5), 23.6, None), ("NVIDIA GeForce RTX 4090", (8, 9), 47.5, None),
        ("AMD Instinct MI300X", (9, 4), 191.0, None),
    ],
)  # fmt: skip
def test_the_card_that_is_here(
    monkeypatch: pytest.MonkeyPatch, name: str, capability: tuple[int, int], gib: float, key: str | None
) -> None:
    total, (major, minor) = int(gib * GIB), capability
    found = SimpleNamespace(name=name, major=major, minor=minor, total_memory=total)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: found)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: (total - GIB - number, total))
    for word, number in (("cuda", 0), ("CUDA:1", 1), ("auto", 0)):
        card = find_device(word)
        assert (card.key, card.title, card.compute_capability) == (f"cuda:{number}", name, capability)
        assert (card.memory_bytes, card.free_bytes) == (total, total - GIB - number)
        row = None if key is None else DEVICES[key]
        assert card.fp16_flop_per_second == (row and row.fp16_flop_per_second)
        assert card.bandwidth_bytes_per_second == (row and row.bandwidth_bytes_per_second)
    with pytest.raises(UsageError, match="'cuda:2' is not on this machine"):
        find_device("cuda:2")


def test_without_a_card_auto_is_the_processor_and_cuda_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device("auto").kind == "cpu"
    for word in ("cuda", "cuda:0", "cuda:9999"):
        with pytest.raises(UsageError, match="is not on this machine, --device - name the card to plan for"):
            find_device(word)


def test_torch_is_not_needed_for_a_card_by_name() -> None:
    code = "import sys; from conviction.planning.devices import find_device as f; f('t4'), f('8g'), f('cpu'); "
    subprocess.run([sys.executable, "-c", code + "sys.exit('torch' in sys.modules)"], check=True)
