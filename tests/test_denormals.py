"""Denormals are taken as zero in a training step on the CPU, and nowhere else."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from conviction.denormals import denormals_flushed
from conviction.recipe import Recipe
from conviction.training.deciding import Circumstances, decide
from conviction.training.loop import Training

CPU = torch.device("cpu")
HALF_OF_A_DENORMAL = """
import torch
from conviction.denormals import denormals_flushed, start_threads_flushed
torch.set_num_threads(2)
start_threads_flushed()
values = torch.full((1 << 21,), 1e-39)
with denormals_flushed(torch.device("cpu")):
    print(int((values * 0.5).count_nonzero()))
"""


def half_of_a_denormal() -> float:
    return float(torch.tensor(1e-39) * 0.5)


@pytest.fixture(autouse=True)
def _plain() -> None:
    torch.set_flush_denormal(False)


def test_flushed_within_and_put_back() -> None:
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot")
    torch.set_flush_denormal(False)
    assert half_of_a_denormal() > 0
    with denormals_flushed(CPU):
        assert half_of_a_denormal() == 0
        with denormals_flushed(CPU):
            pass
        assert half_of_a_denormal() == 0, "the inner one leaves the mode as it found it"
    assert half_of_a_denormal() > 0
    with pytest.raises(ZeroDivisionError), denormals_flushed(CPU):
        raise ZeroDivisionError
    assert half_of_a_denormal() > 0
    with denormals_flushed(torch.device("cuda")):
        assert half_of_a_denormal() > 0


def test_a_step_leaves_no_denormals_in_the_moments() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    recipe, _ = decide(Recipe(epochs=1, batch_size=8, device="cpu"), net, Circumstances(64, False, False, 2))
    training = Training(net, recipe, 8)
    with torch.no_grad():
        net[1].bias.fill_(-100.0)  # ty: ignore[unresolved-attribute]  # every unit is dead: no gradient comes
    images, labels = torch.rand(8, 1, 2, 2), torch.zeros(8, dtype=torch.int64)
    training.update(images, labels, 1e-3)
    moments = training.optimizer.state[net[1].weight]["exp_avg"]
    moments.fill_(1.3e-38)  # the least numbers that are none, times 0.9
    training.update(images, labels, 1e-3)
    assert moments.count_nonzero() == 0
    assert half_of_a_denormal() > 0


def test_all_threads_flush_where_they_were_started_in_time() -> None:
    done = subprocess.run([sys.executable, "-c", HALF_OF_A_DENORMAL], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"
