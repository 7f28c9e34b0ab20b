"""Nets from elsewhere by a word: `timm:NAME`, `torchvision:NAME`, or `module:factory` of the user's own.

Neither package is needed for anything else, nor imported before such a word is met. A module is looked for in the
working folder first, as `python -m` does; `path/to/file.py:factory` names a file.
"""

from __future__ import annotations

import contextlib
import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from conviction.errors import ConvictionError, ImageTooSmallError, UsageError
from conviction.nets.catalogue import Row
from conviction.nets.own_modules import WRITE_IT, find_maker, imports_from, in_a_line, named_arguments, refusing
from conviction.nets.shapes import assemble
from conviction.text import printable, suggest

Image = tuple[int, int, int]
PACKAGES = ("timm", "torchvision")
# Where a factory does not say what it is made for: the images and classes of ImageNet.
_IMAGE, _CLASSES = (3, 224, 224), 1000


@dataclass(frozen=True)
class Factory:
    """What makes a net: `call(num_classes, image)`, with the image and the classes that it is made for by default.

    `follows_image` says that nets for other images differ; `folder` is where a module of the user's own was looked for.
    """

    word: str
    call: Callable[[int, Image], Any]
    image: Image = _IMAGE
    num_classes: int = _CLASSES
    follows_image: bool = False
    folder: Path | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The options with which the word means the same anywhere."""
        return {} if self.folder is None else {"folder": str(self.folder)}

    def make(self, num_classes: int, image: Image) -> nn.Module:
        """Make the net where the factory does; raises `UsageError` with the factory's own error in one line."""
        with refusing(self.word, "the factory raises"), imports_from(self.folder):
            net = self.call(num_classes, image)
        if not isinstance(net, nn.Module):
            raise UsageError(f"the factory makes {printable(type(net).__name__)}, no nn.Module", printable(self.word),
                             "return the net")  # fmt: skip
        return net


def find_factory(word: str, folder: str | None = None) -> Factory:
    """Find what a word such as `timm:convnext_tiny` or `mynets:make_net` means; imports what it names.

    A module of the user's own is looked for in `folder`, by default the working folder. Its factory, a function or a
    class, is called with as many of `num_classes` and `image` (C, H, W) as its signature names; the other arguments
    need defaults. Raises `UsageError` for what is not there, cannot be imported or needs more arguments.
    """
    package, _, name = word.partition(":")
    place, _, last = word.rpartition(":")
    if "/" in last:
        raise UsageError(f"{printable(word)!r} has a /", "", "widths such as /4 go with the names of `conviction nets`")
    if not place or not last:
        raise UsageError(f"{printable(word)!r} names no net", "", WRITE_IT)
    if package in PACKAGES:
        return (_timm_net if package == "timm" else _torchvision_net)(word, name)
    at = Path(folder) if folder is not None else Path.cwd()
    return _own_net(word, place, last, at)


def find_foreign(word: str) -> Row:
    """Return the row of a net from elsewhere, whose figures are not known before it is made (0)."""
    factory = find_factory(word)
    return Row(word, "", factory.image, factory.num_classes, 0, 0, 1, "", 0)


def draw(factory: Factory, num_classes: int, image: Image) -> nn.Module:
    """Make a net on the meta device; in memory where its factory cannot, as one that reads data or picks a device."""
    with torch.random.fork_rng(devices=[]):
        with contextlib.suppress(ConvictionError), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # weights that are loaded into nothing
            with torch.device("meta"):
                net = _settled(factory.make(num_classes, image), image)
            if {tensor.device.type for tensor in (*net.parameters(), *net.buffers())} <= {"meta"}:
                return net
        return _settled(factory.make(num_classes, image), image)


def sketch_foreign(factory: Factory, num_classes: int, image: Image) -> nn.Module:
    """Do as `draw`; raises `ImageTooSmallError` where the net takes larger images only, in one mode or the other."""
    net = draw(factory, num_classes, image)
    if any(tensor.device.type != "meta" for tensor in net.parameters()):
        return net  # each look would take the memory and the time of a real net

    def make(other: Image) -> nn.Module:
        return draw(factory, num_classes, other) if factory.follows_image and other != image else net

    try:
        assemble(make, factory.word, image, 1)
    except Exception as error:  # what fails for another reason is refused, or runs, where it is used
        if isinstance(error, ImageTooSmallError):
            raise
    return net.train()


def build_foreign(factory: Factory, num_classes: int, image: Image) -> nn.Module:
    """Make a net in memory, with the weights that its factory gives it, on the CPU."""
    net = _settled(factory.make(num_classes, image), image)
    with refusing(factory.word, "the net cannot be moved to the CPU"):
        return net.to("cpu")


def _settled(net: nn.Module, image: Image) -> nn.Module:
    """Let layers that take their sizes from the first images have them; what fails is told by whoever runs the net."""
    if any(is_lazy(parameter) for parameter in net.parameters()):
        device = next(parameter.device for parameter in net.parameters())
        with contextlib.suppress(Exception), torch.no_grad():
            net.eval()(torch.zeros(2, *image, device=device))
    return net.train()


def _timm_net(word: str, name: str) -> Factory:
    timm = _package("timm", word)
    if not timm.is_model(name):  # which also keeps names out for which it would ask the network
        raise UsageError(f"timm has no net {printable(name)!r}{suggest(name, timm.list_models())}", "",
                         "see timm.list_models()")  # fmt: skip
    known = getattr(timm.get_pretrained_cfg(name, allow_unregistered=True), "input_size", None)

    def call(num_classes: int, image: Image) -> Any:
        return timm.create_model(name, pretrained=False, num_classes=num_classes, in_chans=image[0])

    return Factory(word, call, tuple(known or _IMAGE))


def _torchvision_net(word: str, name: str) -> Factory:
    models = _package("torchvision.models", word)
    known = models.list_models(module=models)
    if name not in known:
        raise UsageError(f"torchvision has no classifier {printable(name)!r}{suggest(name, known)}", "",
                         "see torchvision.models.list_models()")  # fmt: skip

    def call(num_classes: int, image: Image) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # how it may draw its weights one day
            return _for_channels(models.get_model(name, weights=None, num_classes=num_classes), image[0])

    side = _IMAGE[1]
    with contextlib.suppress(Exception):  # a net without published weights says no size
        side = int(models.get_model_weights(name).DEFAULT.transforms().crop_size[0])
    return Factory(word, call, (3, side, side))


def _for_channels(net: nn.Module, channels: int) -> nn.Module:
    """Give a net that reads 3 channels a first convolution for others, newly drawn as PyTorch does by default."""
    name, first = next((pair for pair in net.named_modules() if isinstance(pair[1], nn.Conv2d)), ("", None))
    if first is None or first.in_channels == channels:
        return net
    again = nn.Conv2d(
        channels, first.out_channels, first.kernel_size, first.stride, first.padding, first.dilation,
        bias=first.bias is not None, padding_mode=first.padding_mode, dtype=first.weight.dtype,
    )  # fmt: skip
    owner, _, last = name.rpartition(".")
    setattr(net.get_submodule(owner), last, again)
    return net


def _package(name: str, word: str) -> Any:
    package = name.partition(".")[0]
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise _cannot_import(package, error, word) from error
        raise UsageError(f"{package} is not installed", printable(word), f"pip install {package}") from error
    except Exception as error:  # a build for another torch raises RuntimeError or OSError
        raise _cannot_import(package, error, word) from error


def _cannot_import(package: str, error: Exception, word: str) -> UsageError:
    return UsageError(f"{package} cannot be imported: {in_a_line(error)}", printable(word),
                      f"install a {package} that was made for torch {torch.__version__}")  # fmt: skip


def _own_net(word: str, place: str, name: str, folder: Path) -> Factory:
    maker = find_maker(word, place, name, folder)
    taken = named_arguments(word, maker)

    def call(num_classes: int, image: Image) -> Any:
        sizes = {"num_classes": num_classes, "image": image}
        return maker(**{key: sizes[key] for key in taken})

    image, classes = taken.get("image"), taken.get("num_classes")
    shaped = isinstance(image, tuple) and len(image) == 3 and all(isinstance(size, int) for size in image)
    return Factory(word, call, image if shaped else _IMAGE, classes if isinstance(classes, int) else _CLASSES,
                   "image" in taken, folder)  # fmt: skip
