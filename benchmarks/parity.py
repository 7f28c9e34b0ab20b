"""Parity: the same weights in our nets and in torchvision's, timm's and pretrainedmodels' give the same logits.

Weights go over by order and shape alone. Needs an environment of its own, beside that of the project:

    python -m venv peers
    peers/bin/pip install torch torchvision timm pretrainedmodels munch
    PYTHONPATH=src peers/bin/python benchmarks/parity.py > benchmarks/results/parity.md
    PYTHONPATH=src peers/bin/python benchmarks/parity.py --golden     # the peers' logits for tests/nets/test_parity.py

The first takes minutes. Exits 1 when a float32 difference exceeds 1e-5.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import math
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from conviction import text
from conviction.nets import find_net, sketch

GOLDEN = Path(__file__).parent.parent / "tests" / "nets" / "golden_logits.json"
GOLDEN_LOGITS = 16
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Case:
    """One net beside its peer. `side` is that of the golden image; `gain` the variance that a layer's weights keep.

    Residual sums double the variance with every block, so the paths of ResNets get weights that halve it.
    """

    name: str
    package: str
    peer: str
    side: int
    aux: bool = False
    gain: float = 2.0

    @property
    def label(self) -> str:
        """The name, with ` aux` where the net has auxiliary heads."""
        return f"{self.name} aux" if self.aux else self.name


CASES = [
    Case("alexnet", "torchvision", "alexnet", 96),
    *[Case(f"vgg{depth}{bn}", "torchvision", f"vgg{depth}{bn.replace('-', '_')}", 64)
      for depth in (11, 13, 16, 19) for bn in ("", "-bn")],
    Case("googlenet", "torchvision", "googlenet", 96),
    Case("googlenet", "torchvision", "googlenet", 96, aux=True),
    Case("inception-bn", "pretrainedmodels", "bninception", 224),
    Case("inception-v3", "torchvision", "inception_v3", 139),
    Case("inception-v3", "torchvision", "inception_v3", 299, aux=True),
    Case("inception-v4", "timm", "inception_v4", 139),
    Case("inception-resnet-v2", "timm", "inception_resnet_v2", 139),
    *[Case(f"resnet{depth}", "torchvision", f"resnet{depth}", 96, gain=1.0) for depth in (18, 34, 50, 101, 152)],
    *[Case(f"densenet{depth}", "torchvision", f"densenet{depth}", 96) for depth in (121, 161, 169, 201)],
]  # fmt: skip


def hashed(start: int, count: int) -> Tensor:
    """Numbers start .. start + count - 1, each hashed into [-1, 1): float64 [count], the same on every machine.

    Two rounds of multiply and shift on 32 bits, in int64 without overflow.
    """
    x = torch.arange(start, start + count, dtype=torch.int64)
    for _ in range(2):
        x = ((x >> 16) ^ x) * 0x45D9F3B & 0xFFFFFFFF
    return ((x >> 16) ^ x).double() / 2**31 - 1


@torch.no_grad()
def fill(net: nn.Module, gain: float, chunk: int = 1 << 20) -> None:
    """Give `net` weights, biases and running statistics from a closed form of their place in its state.

    Weights are uniform with variance `gain` / inputs of the layer; norms lie about the identity.
    """
    start = 0
    for key, tensor in net.state_dict().items():
        if not tensor.is_floating_point():
            continue  # num_batches_tracked
        middle, spread = _middle_and_spread(key, tensor, gain)
        flat = tensor.view(-1)
        for first in range(0, len(flat), chunk):
            part = flat[first : first + chunk]
            part.copy_(middle + spread * hashed(start + first, len(part)))
        start += len(flat)


def _middle_and_spread(key: str, tensor: Tensor, gain: float) -> tuple[float, float]:
    kind = key.rpartition(".")[2]
    if kind == "weight" and tensor.ndim > 1:
        return 0.0, math.sqrt(3 * gain / tensor[0].numel())
    return {"weight": (1.0, 0.2), "bias": (0.0, 0.1), "running_mean": (0.0, 0.1), "running_var": (1.0, 0.5)}[kind]


def image_batch(count: int, side: int) -> Tensor:
    """Images of hashed noise, float64 [count, 3, side, side]; far from the numbers that the weights are made of."""
    return hashed(1 << 30, count * 3 * side * side).view(count, 3, side, side)


def freeze(net: nn.Module) -> None:
    """Put `net` in training mode without chance and without batch statistics: dropout off, norms as in evaluation."""
    net.train()
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, nn.BatchNorm2d):
            module.eval()


@torch.no_grad()
def all_logits(net: nn.Module, images: Tensor, aux: bool) -> list[Tensor]:
    """Logits in evaluation mode and, with `aux`, those of the auxiliary heads as in training, first head first."""
    logits = [net.eval()(images)]
    if aux:
        freeze(net)
        logits += heads_in_order(net(images))
    return logits


def heads_in_order(output: Any) -> list[Tensor]:
    """Auxiliary logits in the order of the heads; torchvision's GoogLeNet gives the second head's first."""
    if hasattr(output, "aux_logits2"):
        return [output.aux_logits1, output.aux_logits2]
    return list(output[1:])


def on_cpu(net: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Give a net made on the meta device memory, not yet filled."""
    net = net.to_empty(device="cpu").to(dtype)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d) and module.num_batches_tracked is not None:
            module.num_batches_tracked.zero_()
    return net


def our_net(case: Case, side: int) -> nn.Module:
    """Our net on the meta device."""
    return sketch(case.name, image=(3, side, side), **({"aux": True} if case.aux else {}))


def peer_net(case: Case) -> nn.Module:
    """The peer's net on the meta device, without its transform of the input."""
    options: dict[str, Any] = {}
    if case.package == "torchvision" and case.peer in ("googlenet", "inception_v3"):
        options = {"aux_logits": case.aux, "init_weights": False, "transform_input": False}
    with torch.device("meta"):
        if case.package == "timm":
            return importlib.import_module("timm").create_model(case.peer, pretrained=False)
        if case.package == "pretrainedmodels":
            return importlib.import_module("pretrainedmodels").__dict__[case.peer](pretrained=None)
        return importlib.import_module("torchvision").models.get_model(case.peer, weights=None, **options)


def transfer(source: nn.Module, target: nn.Module) -> None:
    """Copy the state by order; raises `ValueError` where number or shapes differ."""
    for (key, value), (other, place) in zip(source.state_dict().items(), target.state_dict().items(), strict=True):
        if value.shape != place.shape:
            raise ValueError(f"{key} {tuple(value.shape)} does not fit {other} {tuple(place.shape)}")
        place.copy_(value)


def import_peers() -> None:
    """Import torchvision, also one whose compiled operators do not load beside this torch.

    Its models are plain PyTorch; the import asks only that the operators' names exist.
    """
    try:
        importlib.import_module("torchvision")
        return
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
    library = torch.library.Library("torchvision", "DEF")
    import_peers.library = library  # ty: ignore[unresolved-attribute]  # names live as long as the library
    for _ in range(20):
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        try:
            importlib.import_module("torchvision")
            return
        except RuntimeError as error:
            missing = re.search(r"operator torchvision::(\w+) does not exist", str(error))
            if missing is None:
                raise
            library.define(f"{missing[1]}(Tensor x) -> Tensor")


def differences(case: Case) -> tuple[float, float, float]:
    """Largest logit, and the largest difference in float32 and in float64, at the published image size."""
    side = find_net(case.name).image[1]
    peer, ours = on_cpu(peer_net(case), torch.float32), on_cpu(our_net(case, side), torch.float32)
    fill(peer, case.gain)
    transfer(peer, ours)
    images = image_batch(2, side)
    found: list[float] = []
    for dtype in (torch.float32, torch.float64):
        theirs = torch.cat(all_logits(peer.to(dtype), images.to(dtype), case.aux))
        mine = torch.cat(all_logits(ours.to(dtype), images.to(dtype), case.aux))
        found.append((theirs - mine).abs().max().item())
    return theirs.abs().max().item(), *found


def versions() -> str:
    """The packages compared, with their versions."""
    packages = ("torch", "torchvision", "timm", "pretrainedmodels")
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)


def print_table() -> bool:
    """Print the Markdown table; returns whether every net agrees."""
    print(f"""# Parity with the published nets

Command: `benchmarks/parity.py`. {versions()}, CPU.
Same weights (copied by order and shape), same two images, evaluation mode; `aux` rows compare the auxiliary logits in
training mode too, with dropout off and norms frozen. Differences are the largest over all logits.

| net | peer | image | largest logit | difference, float32 | difference, float64 |
|---|---|---|---|---|---|""")
    agrees = True
    for case in CASES:
        image = text.format_shape(find_net(case.name).image)
        largest, single, double = differences(case)
        agrees &= single <= TOLERANCE
        row = (case.label, f"{case.package} {case.peer}", image, f"{largest:.2f}", f"{single:.1e}", f"{double:.1e}")
        print(f"| {' | '.join(row)} |", flush=True)
    return agrees


def golden_logits(net: nn.Module, case: Case) -> list[list[float]]:
    """First logits of one image with closed-form weights, in float64: of the net, then of its auxiliary heads."""
    fill(net, case.gain)
    return [logits[0, :GOLDEN_LOGITS].tolist() for logits in all_logits(net, image_batch(1, case.side), case.aux)]


def write_golden() -> None:
    """Write the peers' golden logits."""
    rows = {case.label: golden_logits(on_cpu(peer_net(case), torch.float64), case) for case in CASES}
    lines = ",\n".join(f"    {json.dumps(label)}: {json.dumps(logits)}" for label, logits in rows.items())
    made = json.dumps(f"benchmarks/parity.py --golden, {versions()}")
    GOLDEN.write_text(f'{{\n  "made_by": {made},\n  "logits": {{\n{lines}\n  }}\n}}\n')


def main() -> None:
    """Print the table, or write the golden logits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--golden", action="store_true", help=f"rewrite {GOLDEN.name}")
    arguments = parser.parse_args()
    import_peers()
    if arguments.golden:
        write_golden()
    elif not print_table():
        sys.exit(1)


if __name__ == "__main__":
    main()
