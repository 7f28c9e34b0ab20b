"""Out-of-memory texts: every spelling read back, real figures explained, each verdict on both sides of its borders."""

from __future__ import annotations

import json
import time
import traceback
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from conviction.errors import UsageError
from conviction.planning.oom_messages import Message, read_message
from conviction.planning.out_of_memory import Expected, explain, explain_text, format_explanation

KIB, MIB, GIB = 2**10, 2**20, 2**30
SCALES = {"bytes": 1, "B": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB, "KB": KIB, "MB": MIB, "GB": GIB}


def size(text: str) -> float:
    number, unit = text.split()
    return float(number) * SCALES[unit]


def old(tried, total, allocated, free, reserved=None, cached=None, allowed=None, gpu=0) -> str:
    """PyTorch 1.0 to 2.0."""
    last = f"{reserved} reserved in total by PyTorch" if reserved else f"{cached} cached"
    limit = f" {allowed} allowed;" if allowed else ""
    return (f"RuntimeError: CUDA out of memory. Tried to allocate {tried} (GPU {gpu}; {total} total capacity; "
            f"{allocated} already allocated; {free} free;{limit} {last})")  # fmt: skip


def new(tried, total, free, allocated, unallocated, *, own=None, others=(), allowed=None, private=None, gpu=0,
        backend="CUDA", capacity="capacity") -> str:  # fmt: skip
    """PyTorch 2.1 to today."""
    named = "".join(f"Process {number} has {held} memory in use. " for number, held in others)
    named += f"Including non-PyTorch memory, this process has {own} memory in use. " if own else ""
    named += f"{allowed} allowed; " if allowed else ""
    pools = f" with {private} allocated in private pools (e.g., CUDA Graphs)," if private else ""
    return (f"torch.OutOfMemoryError: {backend} out of memory. Tried to allocate {tried}. GPU {gpu} has a total "
            f"{capacity} of {total} of which {free} is free. {named}Of the allocated memory {allocated} is allocated "
            f"by PyTorch,{pools} and {unallocated} is reserved by PyTorch but unallocated. If reserved but "
            "unallocated memory is large try setting PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True")  # fmt: skip


def metal(tried, allocated, other, total, pool="private") -> str:
    """Apple's Metal."""
    return (f"RuntimeError: MPS backend out of memory (MPS allocated: {allocated}, other allocations: {other}, max "
            f"allowed: {total}). Tried to allocate {tried} on {pool} pool. Use PYTORCH_MPS_HIGH")  # fmt: skip


# Figures of messages that people posted, 2018 to 2026, and what the figures alone say.
REAL_OLD = [
    ("2.26 GiB", "6.00 GiB", "781.59 MiB", "3.03 GiB", {"reserved": "1.24 GiB"}, "host-memory"),
    ("10.73 GiB", "8.00 GiB", "17.20 GiB", "0 bytes", {"reserved": "19.15 GiB"}, "one-huge-tensor"),
    ("1.69 GiB", "14.56 GiB", "649.97 MiB", "1.31 GiB", {"reserved": "1.01 GiB"}, "another-process"),
    ("12.50 MiB", "10.92 GiB", "8.57 MiB", "9.28 GiB", {"cached": "4.68 MiB"}, "host-memory"),
    ("8.13 GiB", "10.76 GiB", "643.57 MiB", "8.20 GiB", {"cached": "32.43 MiB"}, "host-memory"),
    ("32.00 MiB", "7.79 GiB", "6.64 GiB", "21.00 MiB", {"cached": "150.86 MiB"}, "this-batch"),
    ("1.12 MiB", "22.37 GiB", "15.87 GiB", "3.56 MiB", {"cached": "787.74 MiB"}, "another-process"),
    ("24.00 MiB", "3.95 GiB", "3.46 GiB", "1.06 MiB", {"cached": "60.00 KiB"}, "this-batch"),
    ("1024.00 KiB", "11.17 GiB", "10.90 GiB", "576.00 KiB", {"cached": "30.96 MiB"}, "this-batch"),
    ("64.00 MiB", "4.00 GiB", "3.35 GiB", "0 bytes", {"reserved": "3.41 GiB"}, "this-batch"),
    ("16.00 GiB", "47.54 GiB", "23.76 GiB", "6.30 GiB", {"reserved": "39.59 GiB"}, "fragmentation"),
    ("1.65 GiB", "7.79 GiB", "3.53 GiB", "1.40 GiB", {"reserved": "5.28 GiB", "gpu": 1}, "fragmentation"),
    ("236.00 MiB", "15.78 GiB", "14.25 GiB", "183.50 MiB", {"reserved": "14.34 GiB"}, "this-batch"),
    ("20.00 MiB", "10.76 GiB", "2.42 GiB", "26.12 MiB", {"reserved": "2.75 GiB"}, "another-process"),
    ("36.00 MiB", "10.76 GiB", "996.23 MiB", "8.81 MiB", {"reserved": "1010.00 MiB"}, "another-process"),
    ("338.00 MiB", "3.95 GiB", "1.62 GiB", "23.00 MiB", {"cached": "9.10 MiB"}, "another-process"),
    ("1.71 GiB", "31.72 GiB", "23.58 GiB", "1.58 GiB", {"reserved": "29.08 GiB"}, "fragmentation"),
    ("2053.83 GiB", "31.75 GiB", "9.49 GiB", "21.27 GiB", {"cached": "12.35 MiB"}, "one-huge-tensor"),
    ("48.01 GiB", "15.78 GiB", "4.00 GiB", "10.75 GiB", {"reserved": "4.00 GiB"}, "one-huge-tensor"),
    ("5.59 GiB", "11.17 GiB", "0 bytes", "10.91 GiB", {"reserved": "0 bytes", "allowed": "5.59 GiB"}, "this-batch"),
]  # fmt: skip
REAL_NEW = [
    ("22.78 GiB", "31.47 GiB", "12.73 GiB", "9.08 GiB", "9.35 GiB", {"own": "18.73 GiB"}, "this-batch"),
    ("1.70 GiB", "6.00 GiB", "0 bytes", "2.93 GiB", "2.30 GiB", {"capacity": "capacty"}, "fragmentation"),
    ("55.57 GiB", "12.00 GiB", "9.02 GiB", "984.52 MiB", "463.48 MiB", {}, "one-huge-tensor"),
    ("22.00 MiB", "23.65 GiB", "11.06 MiB", "22.90 GiB", "194.87 MiB", {"own": "23.60 GiB"}, "this-batch"),
    ("3.00 GiB", "23.65 GiB", "1.66 GiB", "12.09 GiB", "4.84 GiB", {"own": "20.81 GiB"}, "fragmentation"),
    ("2.00 GiB", "4.00 GiB", "2.80 GiB", "0 bytes", "0 bytes", {}, "host-memory"),
    # In a container the process is told as another one.
    ("496.00 MiB", "14.75 GiB", "235.06 MiB", "14.06 GiB", "330.42 MiB", {"others": [(20398, "14.52 GiB")]},
     "this-batch"),
    ("270.00 MiB", "21.67 GiB", "255.75 MiB", "20.08 GiB", "56.49 MiB",
     {"others": [(2109, "344.00 MiB"), (1448259, "21.07 GiB")], "private": "328.00 MiB"}, "this-batch"),
    ("130.00 MiB", "94.96 GiB", "59.69 MiB", "5.97 GiB", "116.33 MiB",
     {"others": [(502587, "1.78 GiB"), (745081, "86.44 GiB")], "own": "6.62 GiB"}, "another-process"),
    ("894.00 MiB", "23.69 GiB", "381.00 MiB", "17.75 GiB", "5.00 GiB",
     {"others": [(2006998, "256.00 MiB")], "own": "23.05 GiB", "capacity": "capacty"}, "fragmentation"),
    ("32.00 MiB", "15.70 GiB", "18.81 MiB", "13.00 GiB", "7.33 MiB",
     {"others": [(198907, "2.42 GiB")], "own": "13.25 GiB"}, "another-process"),
    ("3.96 GiB", "31.73 GiB", "3.05 GiB", "11.94 GiB", "76.32 MiB",
     {"others": [(1725961, "1.32 GiB"), (47377, "14.96 GiB")], "own": "12.39 GiB", "gpu": 2}, "another-process"),
    ("112.89 GiB", "79.14 GiB", "58.59 GiB", "8.27 GiB", "500.38 MiB",
     {"others": [(4078482, "11.29 GiB")], "own": "9.25 GiB"}, "one-huge-tensor"),
    ("60.00 MiB", "79.19 GiB", "39.06 MiB", "72.36 GiB", "71.59 MiB",
     {"own": "79.14 GiB", "private": "436.00 MiB", "gpu": 1}, "this-batch"),
    ("16.00 GiB", "15.24 GiB", "15.09 GiB", "0 bytes", "0 bytes", {"backend": "HIP"}, "one-huge-tensor"),
    ("2.00 MiB", "287.98 GiB", "203.49 GiB", "68.63 GiB", "14.93 GiB", {"backend": "HIP", "gpu": 7}, "host-memory"),
    ("2.00 MiB", "255.98 GiB", "244.65 GiB", "1017.01 MiB", "54.99 MiB",
     {"backend": "HIP", "allowed": "1.05 GiB", "private": "17.00 MiB"}, "fragmentation"),
    ("996.00 MiB", "44.43 GiB", "9.06 GiB", "17.44 GiB", "59.88 MiB",
     {"others": [(2102129, "17.54 GiB")], "own": "17.81 GiB", "allowed": "17.69 GiB"}, "this-batch"),
    ("4.66 GiB", "5.65 GiB", "5.65 GiB", "195.50 KiB", "1.81 MiB", {"backend": "XPU"}, "host-memory"),
]  # fmt: skip
REAL_METAL = [
    ("292.50 MiB", "9.57 GiB", "17.35 GiB", "27.20 GiB", "workspace"),
    ("768.00 MB", "5.56 GB", "1.10 GB", "6.80 GB", "this-batch"),
    ("1024.00 MB", "17.68 GB", "3.95 MB", "18.13 GB", "this-batch"),
    ("256 bytes", "16.00 GB", "3.31 GB", "18.13 GB", "this-batch"),
]


@pytest.mark.parametrize(("tried", "total", "allocated", "free", "more", "verdict"), REAL_OLD)
def test_messages_up_to_2_0(tried, total, allocated, free, more, verdict) -> None:
    message = read_message(old(tried, total, allocated, free, **more))
    told = (message.tried_bytes, message.total_bytes, message.allocated_bytes, message.free_bytes)
    assert told == pytest.approx([size(text) for text in (tried, total, allocated, free)], abs=1)
    reserved = size(more["reserved"]) if "reserved" in more else size(allocated) + size(more["cached"])
    assert message.reserved_bytes == pytest.approx(reserved, abs=2)
    assert message.device == more.get("gpu", 0) and message.backend == "cuda"
    assert message.limit_bytes == (pytest.approx(size(more["allowed"]), abs=1) if "allowed" in more else None)
    assert explain(message).verdict == verdict


@pytest.mark.parametrize(("tried", "total", "free", "allocated", "unallocated", "more", "verdict"), REAL_NEW)
def test_messages_since_2_1(tried, total, free, allocated, unallocated, more, verdict) -> None:
    message = read_message(new(tried, total, free, allocated, unallocated, **more))
    told = (message.tried_bytes, message.total_bytes, message.free_bytes, message.allocated_bytes,
            message.unallocated_bytes)  # fmt: skip
    assert told == pytest.approx([size(text) for text in (tried, total, free, allocated, unallocated)], abs=1)
    for field, word in (("process_bytes", "own"), ("limit_bytes", "allowed"), ("private_bytes", "private")):
        assert getattr(message, field) == (pytest.approx(size(more[word]), abs=1) if word in more else None)
    others = more.get("others", [])
    assert [number for number, _ in message.other_processes] == [number for number, _ in others]
    assert [held for _, held in message.other_processes] == pytest.approx([size(held) for _, held in others], abs=1)
    assert (message.device, message.backend) == (more.get("gpu", 0), more.get("backend", "CUDA").lower())
    assert explain(message).verdict == verdict


@pytest.mark.parametrize(("tried", "allocated", "other", "total", "verdict"), REAL_METAL)
def test_metal(tried, allocated, other, total, verdict) -> None:
    message = read_message(metal(tried, allocated, other, total))
    told = (message.tried_bytes, message.allocated_bytes, message.metal_bytes, message.total_bytes)
    assert told == pytest.approx([size(text) for text in (tried, allocated, other, total)], abs=1)
    assert (message.backend, message.free_bytes) == ("mps", None)
    assert explain(message).verdict == verdict


@pytest.mark.parametrize(
    ("text", "backend", "tried", "verdict"),
    [
        ("DefaultCPUAllocator: can't allocate memory: you tried to allocate 3077222400 bytes. Error code 12 (Cannot "
         "allocate memory)", "cpu", 3077222400, "host-memory"),
        ("[enforce fail at ..\\c10\\core\\CPUAllocator.cpp:72] data. DefaultCPUAllocator: not enough memory: you tried "
         "to allocate 113246208 bytes. Buy new RAM!", "cpu", 113246208, "host-memory"),
        ("RuntimeError: $ Torch: not enough memory: you tried to allocate 27GB. Buy new RAM! at THGeneral.c:270",
         "cpu", 27 * GIB, "host-memory"),
        ("numpy._core._exceptions._ArrayMemoryError: Unable to allocate 926. GiB for an array with shape (6794880, "
         "36601) and data type float32", "cpu", 926 * GIB, "host-memory"),
        ("MemoryError", "cpu", None, "host-memory"),
        ("RuntimeError: DataLoader worker (pid 12847) is killed by signal: Killed.", "cpu", None, "host-memory"),
        ("epoch 3\nKilled\n", "cpu", None, "host-memory"),
        ("zsh: killed     python train.py", "cpu", None, "host-memory"),
        ("./run.sh: line 5: 12345 Killed                  python train.py", "cpu", None, "host-memory"),
        ("Command failed with exit code 137", "cpu", None, "host-memory"),
        ("RuntimeError: DataLoader worker (pid 46794) is killed by signal: Bus error. It is possible that", "shm", None,
         "shared-memory"),
        ("ERROR: Unexpected bus error encountered in worker. This might be caused by insufficient shared memory (shm).",
         "shm", None, "shared-memory"),
        ("RuntimeError: unable to open shared memory object </torch_5566_0> in read-write mode", "shm", None,
         "shared-memory"),
        ("RuntimeError: unable to write to file </torch_311_2>: No space left on device (28)", "shm", None,
         "shared-memory"),
        ("RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", "cuda", None,
         "unknown"),
        ("RuntimeError: cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "cuda", None, "unknown"),
        ("torch.AcceleratorError: CUDA error: out of memory\nCUDA kernel errors might be", "cuda", None, "unknown"),
        ("RuntimeError: cuda runtime error (2) : out of memory at /pytorch/aten/src/THC/generic/THCStorage.cu:58",
         "cuda", None, "unknown"),
        ("RuntimeError: HIP error: out of memory", "hip", None, "unknown"),
        ("torch.cuda.OutOfMemoryError", "cuda", None, "unknown"),
        ("RuntimeError: CUDA out of the memory. Tried to allocate 360.00 MiB", "cuda", 360 * MIB, "unknown"),
        ("RuntimeError: Invalid buffer size: 19.45 GB", "mps", round(19.45 * GIB), "one-huge-tensor"),
        ("RuntimeError: CUDA out of memory. Tried to allocate more than 1EB memory.", "cuda", 2**60, "one-huge-tensor"),
        ("torch.OutOfMemoryError: Allocation on device 0 would exceed allowed memory. (out of memory)\n"
         "Currently allocated     : 12.43 GiB\nRequested               : 4.07 GiB\n"
         "Device limit            : 16.00 GiB\nFree (according to CUDA): 0 bytes\n"
         "PyTorch limit (set by user-supplied memory fraction)\n                        : 17179869184.00 GiB",
         "cuda", round(4.07 * GIB), "this-batch"),
    ],
)  # fmt: skip
def test_other_messages(text, backend, tried, verdict) -> None:
    message = read_message(text)
    assert (message.backend, message.tried_bytes) == (backend, tried)
    assert explain(message).verdict == verdict


def test_the_allocator_of_this_torch() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15)
    message = read_message(str(caught.value))
    assert (message.backend, message.tried_bytes) == ("cpu", 4 * 10**15)
    assert "shapes" in explain(message).advice[0]


def test_metal_counts_in_steps_of_1024() -> None:
    message = read_message("RuntimeError: Invalid buffer size: 19.45 GB")  # posted for 72250 x 72250 floats
    assert abs((message.tried_bytes or 0) - 72250 * 72250 * 4) <= message.rounding_bytes


def test_the_kernels_line_tells_what_was_held() -> None:
    line = (
        "Memory cgroup out of memory: Killed process 629 (python) total-vm:14119556kB, anon-rss:6538204kB, file-rss:8kB"
    )
    explanation = explain_text(line)
    assert explanation.verdict == "host-memory"
    assert explanation.held == (("the process that was ended", 6538204 * KIB),)


def test_the_driver_has_a_word_for_not_told() -> None:
    text = new("2.13 GiB", "8.00 GiB", "6.10 GiB", "954.00 MiB", "0 bytes", own="17179869184.00 GiB",
               others=[(9132, "17179869184.00 GiB")], allowed="2.63 GiB")  # fmt: skip
    message = read_message(text)
    assert message.process_bytes is None and message.other_processes == ()
    assert explain(message).verdict == "this-batch" and "set_per_process_memory_fraction" in explain(message).why


def spelled(count: int) -> str:
    """PyTorch's own format_size."""
    for unit, scale in (("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if count > scale:
            return f"{count / scale:.2f} {unit}"
    return f"{count} bytes"


sizes = st.integers(0, 2**38)


@settings(max_examples=50, deadline=None)
@given(tried=sizes, total=sizes, free=sizes, allocated=sizes, unallocated=sizes, own=sizes, private=sizes)
def test_any_sizes_are_read_back(tried, total, free, allocated, unallocated, own, private) -> None:
    words = [spelled(count) for count in (tried, total, free, allocated, unallocated)]
    message = read_message(new(*words, own=spelled(own), private=spelled(private), others=[(7, spelled(own))]))
    read = (message.tried_bytes, message.total_bytes, message.free_bytes, message.allocated_bytes,
            message.unallocated_bytes, message.process_bytes, message.private_bytes)  # fmt: skip
    wanted = (tried, total, free, allocated, unallocated, own, private)
    for one, other in zip(read, wanted, strict=True):
        assert abs(one - other) <= message.rounding_bytes + 1
    message = read_message(old(*[spelled(count) for count in (tried, total, allocated, free)],
                               reserved=spelled(allocated + unallocated)))  # fmt: skip
    assert abs((message.reserved_bytes or 0) - allocated - unallocated) <= 2 * message.rounding_bytes + 2
    explain(message)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [(new(*row[:5], **row[5]), row) for row in REAL_NEW if row[6] != "one-huge-tensor"]
    + [(old(*row[:4], **row[4]), row) for row in REAL_OLD if row[5] != "one-huge-tensor"],
)
def test_who_held_it_adds_up_to_the_device(text, wanted) -> None:
    message = read_message(text)
    held = explain(message).held
    slack = 6 * message.rounding_bytes
    assert sum(count for _, count in held) == pytest.approx(message.total_bytes, abs=slack)
    assert all(count > 0 for _, count in held)


def test_processes_are_named_with_what_they_hold() -> None:
    row = next(row for row in REAL_NEW if row[0] == "130.00 MiB")
    explanation = explain_text(new(*row[:5], **row[5]))
    held = dict(explanation.held)
    assert held["process 745081"] == pytest.approx(86.44 * GIB, abs=MIB)
    assert held["this process outside PyTorch: context, libraries"] == pytest.approx(
        size("6.62 GiB") - size("5.97 GiB") - size("116.33 MiB"), abs=6 * MIB
    )
    assert "745081, 502587" in explanation.advice[0]  # the largest first


def test_a_container_counts_this_process_among_the_others() -> None:
    """14.52 GiB beside a reserve of 14.38 would be more than the 14.52 in use: it is the same process."""
    row = next(row for row in REAL_NEW if row[0] == "496.00 MiB")
    held = dict(explain_text(new(*row[:5], **row[5])).held)
    assert "process 20398" not in held
    outside = size("14.52 GiB") - size("14.06 GiB") - size("330.42 MiB")
    assert held["this process outside PyTorch: context, libraries"] == pytest.approx(outside, abs=MIB)


# One card of 16 GiB, and a plan of 8 GiB at batch 64 of which 1 GiB is weights, gradients and momentum.
PLAN = Expected(
    weights_bytes=GIB // 3, gradients_bytes=GIB // 3, optimizer_bytes=GIB // 3, saved_bytes=6 * GIB,
    peak_allocated_bytes=(7 * GIB, 8 * GIB, 9 * GIB), largest_allocation_bytes=800 * MIB, batch_size=64,
    largest_batch=120,
)  # fmt: skip


def card(**figures: float) -> Message:
    """A message in GiB: what is not told otherwise is free, and this process has 0.5 GiB of context."""
    told = {"tried": 0.5, "total": 16.0, "allocated": 8.0, "unallocated": 0.0, "others": 0.0} | figures
    reserved = told["allocated"] + told["unallocated"]
    free = figures.get("free", max(0.0, told["total"] - reserved - 0.5 - told["others"]))
    whole = {name: round(value * GIB) for name, value in told.items()}
    return Message(
        "cuda", "", 0, whole["tried"], whole["total"], round(free * GIB), whole["allocated"], whole["unallocated"],
        process_bytes=round((reserved + 0.5) * GIB),
        limit_bytes=round(figures["limit"] * GIB) if "limit" in figures else None,
        other_processes=((99, whole["others"]),) if whole["others"] else (),
    )  # fmt: skip


LARGE_PLAN = replace(PLAN, peak_allocated_bytes=(19 * GIB, 20 * GIB, 21 * GIB), largest_batch=48)
TIGHT_PLAN = replace(PLAN, peak_allocated_bytes=(14 * GIB, 15 * GIB, 16 * GIB), largest_batch=62)


@pytest.mark.parametrize(
    ("figures", "plan", "verdict"),
    [
        # A single tensor larger than the card, or than the limit; the plan's own tensors are no wrong shape.
        ({"tried": 16.01, "allocated": 1}, None, "one-huge-tensor"),
        ({"tried": 16.0, "allocated": 1}, None, "this-batch"),
        ({"tried": 5.1, "allocated": 1, "limit": 5}, None, "one-huge-tensor"),
        ({"tried": 4.9, "allocated": 1, "limit": 5}, None, "this-batch"),
        ({"tried": 17, "allocated": 1}, LARGE_PLAN, "one-huge-tensor"),
        ({"tried": 17, "allocated": 1}, replace(LARGE_PLAN, largest_allocation_bytes=17 * GIB), "this-batch"),
        # More was free than was tried, and no limit stood against it.
        ({"tried": 0.5, "allocated": 8, "free": 0.51}, None, "host-memory"),
        ({"tried": 0.5, "allocated": 15.01, "free": 0.49}, None, "this-batch"),
        ({"tried": 0.5, "allocated": 8, "free": 7, "limit": 8.4}, None, "this-batch"),
        ({"tried": 0.5, "allocated": 8, "free": 7, "limit": 8.6}, None, "host-memory"),
        # The net alone.
        ({"allocated": 15.4}, replace(LARGE_PLAN, largest_batch=0), "too-large-for-the-card"),
        ({"allocated": 15.4}, replace(LARGE_PLAN, largest_batch=1), "this-batch"),
        ({"allocated": 15.4}, replace(LARGE_PLAN, optimizer_bytes=15 * GIB), "too-large-for-the-card"),
        ({"allocated": 15.4}, replace(LARGE_PLAN, optimizer_bytes=14 * GIB), "this-batch"),
        # Another process: a tenth of the card where it is told, as large as what was tried, and the plan fits without.
        ({"allocated": 13.8, "others": 1.65, "free": 0}, None, "another-process"),
        ({"allocated": 14.0, "others": 1.55, "free": 0}, None, "this-batch"),
        ({"allocated": 12.5, "tried": 2.9, "others": 3, "free": 0}, None, "another-process"),
        ({"allocated": 12.5, "tried": 3.1, "others": 3, "free": 0}, None, "this-batch"),
        ({"allocated": 7.5, "others": 7.8, "free": 0.2}, PLAN, "another-process"),
        ({"allocated": 7.5, "others": 7.8, "free": 0.2}, LARGE_PLAN, "this-batch"),
        # Above the plan's highest peak.
        ({"allocated": 15.4}, PLAN, "kept-from-before"),
        ({"allocated": 9.01, "others": 6.2}, PLAN, "another-process"),  # the larger of two causes
        ({"allocated": 13.5, "others": 2}, PLAN, "kept-from-before"),
        ({"allocated": 15.99, "total": 17, "free": 0.4}, TIGHT_PLAN, "this-batch"),
        ({"allocated": 16.01, "total": 17, "free": 0.4}, TIGHT_PLAN, "kept-from-before"),
        # Pieces that would hold what was tried a quarter more than once over.
        ({"allocated": 12.97, "unallocated": 2.53, "tried": 2, "free": 0}, None, "fragmentation"),
        ({"allocated": 13.03, "unallocated": 2.47, "tried": 2, "free": 0}, None, "this-batch"),
        ({"allocated": 14.68, "unallocated": 0.82, "tried": 0.1, "free": 0}, None, "fragmentation"),  # 5 % of the card
        ({"allocated": 14.72, "unallocated": 0.78, "tried": 0.1, "free": 0}, None, "this-batch"),
        ({"allocated": 12.4, "unallocated": 1.1, "tried": 2, "free": 1.9}, None, "fragmentation"),  # with what is free
        ({"allocated": 12.6, "unallocated": 0.9, "tried": 2, "free": 1.9}, None, "this-batch"),  # less than half of it
        ({"allocated": 8, "unallocated": 7.5}, PLAN, "fragmentation"),
        ({"allocated": 8, "unallocated": 7.5}, LARGE_PLAN, "this-batch"),
        # A workspace is no tensor of the plan.
        ({"allocated": 8, "tried": 7.9, "free": 7.5}, PLAN, "workspace"),
        ({"allocated": 8, "tried": 0.83, "total": 9.3}, PLAN, "workspace"),
        ({"allocated": 8, "tried": 0.815, "total": 9.3}, PLAN, "this-batch"),
        ({"allocated": 8, "tried": 7.9, "free": 7.5}, LARGE_PLAN, "this-batch"),
        # The plan's own peak against the card.
        ({"allocated": 15.4}, LARGE_PLAN, "this-batch"),
    ],
)
def test_verdicts_at_their_borders(figures, plan, verdict) -> None:
    assert explain(card(**figures), plan).verdict == verdict


def test_what_is_left_over_may_be_a_context() -> None:
    """Without a word on processes 0.7 GiB are our own, and only a fifth of the card is someone else's."""
    untold = replace(card(allocated=11.5, free=0), process_bytes=None)
    assert explain(untold).verdict == "another-process"  # 4.5 - 0.7 GiB are above 3.2
    assert explain(replace(untold, allocated_bytes=round(12.2 * GIB))).verdict == "this-batch"


def test_the_largest_batch_is_the_plans_or_follows_from_the_room() -> None:
    first = explain(card(allocated=15.4), LARGE_PLAN)
    assert dict(first.figures)["largest_batch"] == 48 and "at most 48" in first.advice[0]
    assert "2 parts of the 64" in first.advice[0]
    # 15.5 GiB of room, 1 of it kept, 19 for 64 images.
    second = explain(card(allocated=15.4), replace(LARGE_PLAN, largest_batch=None))
    assert dict(second.figures)["largest_batch"] == int(14.5 / 19 * 64)
    limited = explain(card(allocated=9.8, limit=10), replace(LARGE_PLAN, largest_batch=None))
    assert dict(limited.figures)["largest_batch"] == int(9 / 19 * 64)
    assert "set_per_process_memory_fraction" in limited.advice[0]


def test_tensors_are_split_by_the_plan() -> None:
    held = dict(explain(card(allocated=15.4), LARGE_PLAN).held)
    assert held["weights"] == held["gradients"] == GIB // 3
    assert held["saved for the backward, and temporaries"] == round(15.4 * GIB) - 3 * (GIB // 3)
    kept = dict(explain(card(allocated=15.4), PLAN).held)
    assert kept["tensors beyond the plan"] == round(15.4 * GIB) - 8 * GIB


def test_a_plan_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(UsageError, match="not in order"):
        replace(PLAN, peak_allocated_bytes=(2, 1, 3))
    with pytest.raises(UsageError, match="batch_size = 0"):
        replace(PLAN, batch_size=0)


@pytest.mark.parametrize("text", ["", "epoch 1 loss 0.3", "IndexError: list index out of range", "he was Killed there"])
def test_other_texts_are_refused_in_one_line(text) -> None:
    with pytest.raises(UsageError, match="no out-of-memory message") as caught:
        read_message(text)
    assert "\n" not in str(caught.value)


def test_bytes_are_refused() -> None:
    with pytest.raises(UsageError, match="not bytes"):
        read_message(b"CUDA out of memory")  # ty: ignore[invalid-argument-type]


OOM = old("2.00 GiB", "15.90 GiB", "14.04 GiB", "1.11 GiB", reserved="14.20 GiB")


class Full(torch.autograd.Function):
    """Runs out of memory in the backward."""

    @staticmethod
    def forward(ctx, images):
        return images.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise RuntimeError(OOM.partition(": ")[2])


class Block(nn.Module):
    def __init__(self, full: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.full = full

    def forward(self, images):
        if self.full:
            raise RuntimeError(OOM.partition(": ")[2])
        return images * self.weight


def no_memory(*_args, **_kwargs):
    raise RuntimeError(OOM.partition(": ")[2])


def train_forward():
    nn.Sequential(Block(True))(torch.ones(1))


def train_backward():
    loss = Full.apply(Block(False)(torch.ones(1))).sum()
    loss.backward()


def validate():
    with torch.no_grad():
        nn.Sequential(Block(True))(torch.ones(1))


def train_and_evaluate():
    validate()


@torch.no_grad()
def accuracy():
    nn.Sequential(Block(True))(torch.ones(1))


def setup():
    net = Block(False)
    net._apply(no_memory)


@pytest.mark.parametrize(
    ("step", "phase"),
    [(train_forward, "forward"), (train_backward, "backward"), (train_and_evaluate, "evaluation"),
     (accuracy, "evaluation"), (setup, "setup")],
)  # fmt: skip
@pytest.mark.parametrize("prefix", ["", "[rank0]: ", "# (Worker pid=7) ERROR 10:00 "])
def test_phase_and_line_from_real_tracebacks(step, phase, prefix) -> None:
    try:
        step()
    except RuntimeError:
        text = "epoch 1\n" + "".join(prefix + line + "\n" for line in traceback.format_exc().splitlines())
    message = read_message(text)
    assert message.phase == phase
    assert message.source is not None and message.source.file == __file__
    assert message.source.code == Path(__file__).read_text().splitlines()[message.source.line - 1].strip()
    assert message.total_bytes == pytest.approx(15.9 * GIB, abs=1)


NOTEBOOK = """RuntimeError                              Traceback (most recent call last)
<ipython-input-37-f8a49abbd894> in <module>
----> 1 model = train_model(model, criterion)

<ipython-input-33-038b26e34abb> in train_model(model, criterion)
     52                     if phase == 'train':
---> 53                         loss.backward()
     54                         optimizer.step()

/usr/local/anaconda3/lib/python3.7/site-packages/torch/tensor.py in backward(self, gradient)
    117         \"\"\"
--> 118         torch.autograd.backward(self, gradient, retain_graph, create_graph)
"""
NEW_NOTEBOOK = """OutOfMemoryError                          Traceback (most recent call last)
Cell In[5], line 12
     11     optimizer.zero_grad()
---> 12     logits = net(images)

File ~/course/nets.py:33, in Net.forward(self, x)
     32     x = self.features(x)
---> 33     return self.head(torch.flatten(x, 1))

File /opt/conda/lib/python3.11/site-packages/torch/nn/modules/linear.py:134, in Linear.forward(self, input)
--> 134 return F.linear(input, self.weight, self.bias)
"""
WINDOWS = r"""Traceback (most recent call last):
  File "C:\Users\me\net.py", line 9, in evaluate
    out = model(batch)
  File "C:\Users\me\anaconda3\envs\ml\lib\site-packages\torch\nn\modules\conv.py", line 460, in forward
    return self._conv_forward(input, self.weight, self.bias)
  File "C:\Users\me\anaconda3\envs\ml\lib\contextlib.py", line 4, in inner
    return F.conv2d(input, weight)
"""
OPTIMIZER = """Traceback (most recent call last):
  File "train.py", line 31, in train_one_epoch
    optimizer.step()
  File "/opt/venv/lib/python3.11/site-packages/torch/optim/optimizer.py", line 493, in wrapper
    out = func(*args, **kwargs)
  File "/opt/venv/lib/python3.11/site-packages/torch/optim/adamw.py", line 600, in _multi_tensor_adamw
    exp_avg_sq_sqrt = torch._foreach_sqrt(device_exp_avg_sqs)
                      ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
"""
CLOSURE = """Traceback (most recent call last):
  File "train.py", line 31, in fit
    optimizer.step(closure=closure)
  File "/opt/venv/lib/python3.11/site-packages/torch/optim/adamw.py", line 200, in step
    loss = closure()
  File "train.py", line 12, in training_step
    logits = self.net(images)
  File "/opt/venv/lib/python3.11/site-packages/torch/nn/modules/module.py", line 1775, in _call_impl
    return forward_call(*args, **kwargs)
"""


@pytest.mark.parametrize(
    ("text", "file", "line", "code", "phase", "operation"),
    [
        (NOTEBOOK, "<ipython-input-33-038b26e34abb>", 53, "loss.backward()", "backward", "torch.autograd.backward"),
        (NEW_NOTEBOOK, "~/course/nets.py", 33, "return self.head(torch.flatten(x, 1))", None, "F.linear"),
        (OPTIMIZER, "train.py", 31, "optimizer.step()", "optimizer", "torch._foreach_sqrt"),
        (CLOSURE, "train.py", 12, "logits = self.net(images)", "forward", "forward_call"),
        (WINDOWS, r"C:\Users\me\net.py", 9, "out = model(batch)", "evaluation", "F.conv2d"),
    ],
)
def test_other_tracebacks(text, file, line, code, phase, operation) -> None:
    message = read_message(text + "\n" + OOM)
    source = message.source
    assert source is not None and (source.file, source.line, source.code) == (file, line, code)
    assert (message.phase, message.operation) == (phase or "forward", operation)


def test_the_last_message_with_figures_counts() -> None:
    later = old("1.00 GiB", "8.00 GiB", "7.00 GiB", "0 bytes", reserved="7.50 GiB", gpu=3)
    text = f"{OOM}\nretrying\n{later}\nRuntimeError: CUDA error: out of memory\nKilled\n"
    message = read_message(text)
    assert (message.device, message.tried_bytes, message.count) == (3, GIB, 2)
    assert "2 such messages" in format_explanation(explain(message))


def test_wrapped_quoted_and_coloured_text_is_read() -> None:
    wrapped = (
        "\x1b[31m" + OOM.replace(" total capacity", "\n> total capacity").replace("free;", "free;\x1b[0m") + "\x1b[0m"
    )
    assert read_message(wrapped).reserved_bytes == read_message(OOM).reserved_bytes


def test_evaluation_is_told_first_what_it_lacks() -> None:
    message = replace(card(allocated=15.4), phase="evaluation")
    assert "no_grad" in explain(message).advice[0]
    assert "no_grad" in explain(message, PLAN).advice[0]
    assert "loss.item()" in explain(card(allocated=15.4), PLAN).advice[0]


def test_a_net_on_its_way_to_the_device() -> None:
    assert explain(replace(card(allocated=15.4), phase="setup")).verdict == "too-large-for-the-card"


def test_nothing_echoed_acts_on_a_terminal() -> None:
    evil = 'Traceback (most recent call last):\n  File "/tmp/\x1b[2J\u202e.py", line 3, in f\n    x(\x07)\n' + OOM
    explanation = explain_text(evil + "\x1b]0;title\x07")
    shown = format_explanation(explanation) + json.dumps(explanation.to_dict(), ensure_ascii=False)
    assert not set(shown) & set("\x1b\x07\u202e")


@pytest.mark.parametrize(
    "text",
    [
        "Tried to allocate " * 100_000,
        "Tried to allocate " + "1" * 2_000_000,
        "out of memory" + " " * 2_000_000,
        ("Traceback (most recent call last):\n" + 'File "' * 60 + "\n") * 4_000 + OOM,
        ("/python" * 57 + " in f\n") * 4_000 + OOM,
        "\x1b[" * 1_000_000 + OOM,
        (OOM + "\n") * 10_000,
    ],
    ids=["words", "digits", "spaces", "frames", "paths", "escapes", "messages"],
)
def test_hostile_text_takes_bounded_time(text) -> None:
    start = time.process_time()
    explain_text(text)
    assert time.process_time() - start < 3  # below 0.2 s each on a loaded machine


def test_the_json_and_the_terminal_say_the_same() -> None:
    explanation = explain_text(NEW_NOTEBOOK + OOM, PLAN)
    told = json.loads(json.dumps(explanation.to_dict()))
    shown = format_explanation(explanation)
    assert told["verdict"] == "kept-from-before" and shown.startswith("kept-from-before: ")
    assert told["where"] == {"file": "~/course/nets.py", "line": 33, "code": "return self.head(torch.flatten(x, 1))"}
    assert "~/course/nets.py:33" in shown and told["why"] in shown
    assert all(line in shown for line in told["advice"])
    assert told["figures"]["tried_bytes"] == 2 * GIB
    assert sum(line["bytes"] for line in told["held"]) == pytest.approx(15.9 * GIB, abs=20 * MIB)


@pytest.mark.parametrize(("figures", "plan"), [({"allocated": 15.4}, None), ({"allocated": 15.4}, PLAN)])
def test_sentences_and_advice_are_one_line_each(figures, plan) -> None:
    explanation = explain(card(**figures), plan)
    assert "\n" not in explanation.why and len(explanation.advice) >= 3
    assert not any("\n" in line for line in explanation.advice)
