"""What the learning-rate finders of fastai, Lightning and torch-lr-finder suggest, each by its own code.

`benchmarks/finder.py` asks them beside ours. Needs an environment of its own, beside that of the project:

    python -m venv peers
    peers/bin/pip install torch torchvision fastai lightning torch-lr-finder     # for the peers
    peers/bin/pip install numpy pillow safetensors rich cyclopts                 # for conviction
    PYTHONPATH=src peers/bin/python benchmarks/peer_finders.py                   # shows that it works, in 20 seconds

Every peer gets the same torch optimizer (fastai by its `OptimWrapper`), the same loss (cross-entropy) and shuffled
batches without augmentation; rates, number of steps, smoothing and stopping are its own defaults.
"""

from __future__ import annotations

import copy
import importlib.metadata
import io
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from parity import import_peers

# Those of conviction's recipes, but that there norms and biases do not decay.
OPTIMIZERS = {
    "sgd": partial(torch.optim.SGD, momentum=0.9, nesterov=True, weight_decay=5e-4),
    "adamw": partial(torch.optim.AdamW, weight_decay=0.05),
}


def suggest(
    peer: str, net: nn.Module, images: Tensor, labels: Tensor, batch_size: int, optimizer: str, seed: int
) -> float | None:
    """Return the rate that the finder of `peer` (a key of PEERS) suggests, or None where it has none or breaks off.

    `images` float32 [N, C, H, W] as the net reads them, `labels` int64 [N], on the device of `net`, which is left as it
    was, like torch's chance; `optimizer` is a key of OPTIMIZERS. Why a peer broke off goes to stderr, so that a broken
    environment is not taken for a finder without an answer.
    """
    ask, make = PEERS[peer], OPTIMIZERS[optimizer]
    load_peers()
    data = TensorDataset(images, labels)
    loader = DataLoader(data, batch_size, shuffle=True, drop_last=len(data) >= batch_size)
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            with _silenced():
                return ask(copy.deepcopy(net).train(), loader, make, folder)
        except Exception as error:
            print(f"{peer}, {optimizer}, seed {seed}: {type(error).__name__}: {error}", file=sys.stderr)
            return None


@cache
def load_peers() -> None:
    """Import the three, so that their seconds count no import. Raises `ImportError` where one is missing."""
    import_peers()  # fastai and Lightning import torchvision
    with _silenced():
        for name in ("fastai.callback.schedule", "lightning.pytorch.tuner", "torch_lr_finder"):
            importlib.import_module(name)


def _ask_fastai(net: nn.Module, loader: DataLoader, make: Callable[..., Any], folder: str) -> float | None:
    from fastai.callback.schedule import valley
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from fastai.optimizer import OptimWrapper

    # The second loader is for validation, which the finder skips.
    loaders = DataLoaders(loader, loader, path=folder, device=loader.dataset[0][0].device)
    learner = Learner(loaders, net, nn.CrossEntropyLoss(), partial(OptimWrapper, opt=make), path=folder)
    with learner.no_bar():
        return learner.lr_find(show_plot=False, suggest_funcs=(valley,)).valley


def _ask_lightning(net: nn.Module, loader: DataLoader, make: Callable[..., Any], folder: str) -> float | None:
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.tuner import Tuner

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.loss, self.lr = net, nn.CrossEntropyLoss(), 1e-3  # the finder asks for a `lr` to set

        def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
            return self.loss(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return make(self.net.parameters(), lr=self.lr)

    trainer = Trainer(
        accelerator=loader.dataset[0][0].device.type, devices=1, default_root_dir=folder, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    return Tuner(trainer).lr_find(Module(), loader).suggestion()


def _ask_torch_lr_finder(net: nn.Module, loader: DataLoader, make: Callable[..., Any], _: str) -> float | None:
    from matplotlib.figure import Figure
    from torch_lr_finder import LRFinder

    finder = LRFinder(net, make(net.parameters(), lr=1e-7), nn.CrossEntropyLoss())  # 1e-7 to 100, as its README does
    finder.range_test(loader, end_lr=100, num_iter=100)
    return float(finder.plot(ax=Figure().add_subplot(), suggest_lr=True)[1])


PEERS = {"fastai": _ask_fastai, "lightning": _ask_lightning, "torch-lr-finder": _ask_torch_lr_finder}
suggest_fastai, suggest_lightning, suggest_torch_lr_finder = (partial(suggest, peer) for peer in PEERS)


@contextmanager
def _silenced() -> Generator[None]:
    before, nowhere = logging.root.manager.disable, io.StringIO()
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"), redirect_stdout(nowhere), redirect_stderr(nowhere):
            yield
    finally:
        logging.disable(before)


def main() -> None:
    """Ask the three about lenet-relu on fashion-mini."""
    from conviction.data import open_data
    from conviction.nets import build

    data = open_data("fashion-mini")
    images = data.preprocessing.apply(data.train.source.fetch(torch.arange(len(data.train))))
    torch.manual_seed(0)
    net = build("lenet-relu", data.num_classes, data.image)
    load_peers()
    print("| finder | version | optimizer | suggestion | seconds |\n|---|---|---|---|---|")
    for name in PEERS:
        for optimizer in OPTIMIZERS:
            begun = time.perf_counter()
            lr = suggest(name, net, images, data.train.labels, 64, optimizer, seed=0)
            said, seconds = "none" if lr is None else f"{lr:.2e}", time.perf_counter() - begun
            print(f"| {name} | {importlib.metadata.version(name)} | {optimizer} | {said} | {seconds:.1f} |")


if __name__ == "__main__":
    main()
