"""What only an accelerator can show; run where there is one."""

from pathlib import Path

import pytest
import torch

import conviction
from conviction.data.records import Data

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_fit_on_the_gpu_learns_and_loads_on_the_cpu(small_data: Data, tmp_path: Path, precision: str) -> None:
    recipe = conviction.Recipe(
        epochs=6, batch_size=32, device="cuda", precision=precision, mixup=0.1, erase=0.2, ema=0.9
    )
    run = conviction.fit("vgg7-bn/4", small_data, recipe, tmp_path / "run")
    assert run.result["top1"] > 0.4 and run.environment["device"] == torch.cuda.get_device_name()
    loaded = conviction.load(tmp_path / "run")
    measured = conviction.evaluate(loaded.net, small_data.test)
    assert measured.top1 == pytest.approx(run.result["top1"], abs=0.02)


def test_augmentation_is_the_same_on_cpu_and_gpu(small_data: Data) -> None:
    from dataclasses import replace

    from conviction.data.augmentation import Augmentation, augment
    from conviction.data.batches import batches

    batch = next(batches(small_data.train, 64, seed=0, epoch=0, shuffled=True))
    everything = Augmentation(flip=True, crop="shift", erase=0.5, mixup=0.2, cutmix=1.0)
    on_gpu = replace(batch, **{name: getattr(batch, name).cuda() for name in ("pictures", "labels", "indices")})
    both = [
        augment(chosen, small_data.preprocessing, everything, seed=0, epoch=1, num_classes=10)
        for chosen in (batch, on_gpu)
    ]
    for ours, theirs in zip(*both, strict=True):
        torch.testing.assert_close(ours, theirs.cpu(), rtol=1e-5, atol=1e-5)
