"""Freed memory is kept: the system is not asked for the same pages again."""

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from conviction.heap import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory() and keep_freed_memory()
import torch
for number in range(6):
    if number == 1:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24 - 1024 * number)  # 64 MiB, cleared and freed; a little less each time, as blocks are aligned
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(way, **more):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run([sys.executable, "-c", PROGRAM, way], env=environment | more, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_a_block_that_was_freed_costs_no_page_faults_the_next_time():
    pages = 64 * 2**20 // os.sysconf("SC_PAGE_SIZE")
    assert faults("plain") > 3 * pages  # the last five blocks; else this test shows nothing
    assert faults("kept") < pages


def test_settings_of_the_users_own_are_left_alone(monkeypatch):
    from conviction.heap import keep_freed_memory

    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.trim_threshold=1")
    keep_freed_memory.cache_clear()
    assert keep_freed_memory() is False
    keep_freed_memory.cache_clear()
