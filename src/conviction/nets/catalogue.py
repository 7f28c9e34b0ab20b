"""NETS: the visible table of every net with its builder, image, published figures and paper. Needs no torch.

`params` and `macs` are those of the row's own image and classes (multiply-accumulates of convolutions and linear
layers, one image, forward). `min_image` is the true smallest side. Tests hold every figure against the built net.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from conviction.errors import UsageError
from conviction.text import printable, suggest

WIDTH_DIVISORS = (2, 4, 8)


@dataclass(frozen=True)
class Row:
    """One net of the table. `builder` is `file:function` in this folder; `start` the paper's own initialisation."""

    name: str
    builder: str
    image: tuple[int, int, int]
    num_classes: int
    params: int
    macs: int
    min_image: int
    paper: str
    year: int
    start: str = "kaiming"
    weights: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    width_divisor: int = 1

    @property
    def comfortable_side(self) -> int:
        """A side well above the smallest, for images that are too small: at it the last maps are more than a point."""
        return next(side for side in (32, 64, 96, 128, 160, 224) if side >= 1.4 * self.min_image)


_LENET = ("LeCun et al., Gradient-based learning applied to document recognition", 1998)
_BATCH_NORM = ("Ioffe & Szegedy, Batch normalization", 2015)
_ALEXNET = ("Krizhevsky, Sutskever & Hinton, ImageNet classification with deep convolutional networks", 2012)
_ONE_WEIRD_TRICK = ("Krizhevsky, One weird trick for parallelizing convolutional neural networks", 2014)
_VGG = ("Simonyan & Zisserman, Very deep convolutional networks", 2014)
_NIN = ("Lin, Chen & Yan, Network in network", 2013)
_GOOGLENET = ("Szegedy et al., Going deeper with convolutions", 2014)
_INCEPTION_V3 = ("Szegedy et al., Rethinking the Inception architecture", 2015)
_INCEPTION_V4 = ("Szegedy et al., Inception-v4, Inception-ResNet and the impact of residual connections", 2016)
_RESNET = ("He et al., Deep residual learning for image recognition", 2015)
_PREACT = ("He et al., Identity mappings in deep residual networks", 2016)
_RESNET9 = ("Page, How to train your ResNet", 2018)
_DENSENET = ("Huang et al., Densely connected convolutional networks", 2016)


def _row(
    name: str, builder: str, image: tuple[int, int, int], num_classes: int, params: int, macs: int, min_image: int,
    paper: tuple[str, int], start: str = "kaiming", weights: tuple[str, ...] = (), **options: Any,
) -> tuple[str, Row]:  # fmt: skip
    return name, Row(name, builder, image, num_classes, params, macs, min_image, *paper, start, weights, options)


_GREY28, _CIFAR, _GREY224 = (1, 28, 28), (3, 32, 32), (1, 224, 224)
_IMAGENET, _IMAGENET299 = (3, 224, 224), (3, 299, 299)

# fmt: off
NETS: dict[str, Row] = dict([
    _row("lenet", "lenet:lenet", _GREY28, 10, 61_706, 416_520, 12, _LENET, "xavier"),
    _row("lenet-relu", "lenet:lenet_relu", _GREY28, 10, 61_706, 416_520, 12, _LENET),
    _row("lenet-bn", "lenet:lenet_bn", _GREY28, 10, 44_878, 281_640, 16, _BATCH_NORM, "xavier"),
    _row("alexnet", "alexnet:alexnet", _IMAGENET, 1000, 61_100_840, 714_188_480, 63, _ONE_WEIRD_TRICK, "normal",
         ("alexnet-owt-7be5be79.pth",)),
    _row("alexnet-book", "alexnet:alexnet_book", _GREY224, 10, 46_764_746, 938_146_176, 65, _ALEXNET, "normal"),
    _row("alexnet-small", "alexnet:alexnet_small", _GREY28, 10, 697_098, 18_869_504, 15, _ALEXNET),
    _row("vgg7", "vgg:vgg7", _GREY28, 10, 2_407_690, 59_701_248, 8, _VGG),
    _row("vgg7-bn", "vgg:vgg7", _GREY28, 10, 2_409_098, 59_701_248, 8, _VGG, batch_norm=True),
    _row("vgg11", "vgg:vgg", _IMAGENET, 1000, 132_863_336, 7_609_090_048, 32, _VGG, "normal",
         ("vgg11-8a719046.pth", "timm/vgg11.tv_in1k"), depth=11),
    _row("vgg11-bn", "vgg:vgg", _IMAGENET, 1000, 132_868_840, 7_609_090_048, 32, _VGG, "normal",
         ("vgg11_bn-6002323d.pth", "timm/vgg11_bn.tv_in1k"), depth=11, batch_norm=True),
    _row("vgg13", "vgg:vgg", _IMAGENET, 1000, 133_047_848, 11_308_466_176, 32, _VGG, "normal",
         ("vgg13-19584684.pth", "timm/vgg13.tv_in1k"), depth=13),
    _row("vgg13-bn", "vgg:vgg", _IMAGENET, 1000, 133_053_736, 11_308_466_176, 32, _VGG, "normal",
         ("vgg13_bn-abd245e5.pth", "timm/vgg13_bn.tv_in1k"), depth=13, batch_norm=True),
    _row("vgg16", "vgg:vgg", _IMAGENET, 1000, 138_357_544, 15_470_264_320, 32, _VGG, "normal",
         ("vgg16-397923af.pth", "timm/vgg16.tv_in1k"), depth=16),
    _row("vgg16-bn", "vgg:vgg", _IMAGENET, 1000, 138_365_992, 15_470_264_320, 32, _VGG, "normal",
         ("vgg16_bn-6c64b313.pth", "timm/vgg16_bn.tv_in1k"), depth=16, batch_norm=True),
    _row("vgg19", "vgg:vgg", _IMAGENET, 1000, 143_667_240, 19_632_062_464, 32, _VGG, "normal",
         ("vgg19-dcbb9e9d.pth", "timm/vgg19.tv_in1k"), depth=19),
    _row("vgg19-bn", "vgg:vgg", _IMAGENET, 1000, 143_678_248, 19_632_062_464, 32, _VGG, "normal",
         ("vgg19_bn-c79401a0.pth", "timm/vgg19_bn.tv_in1k"), depth=19, batch_norm=True),
    _row("nin", "nin:nin", _GREY224, 10, 1_992_166, 762_297_352, 67, _NIN),
    _row("nin-small", "nin:nin_small", _GREY28, 10, 241_386, 36_849_408, 7, _NIN),
    _row("nin-no-first-1x1", "nin:nin", _GREY224, 10, 1_769_112, 669_884_996, 67, _NIN, first_1x1=False),
    _row("nin-no-second-1x1", "nin:nin", _GREY224, 10, 1_769_112, 669_884_996, 67, _NIN, second_1x1=False),
    _row("googlenet-book", "googlenet:googlenet_book", (1, 96, 96), 10, 5_977_530, 276_066_304, 1, _GOOGLENET),
    _row("googlenet", "googlenet:googlenet", _IMAGENET, 1000, 6_624_904, 1_498_376_192, 15, _GOOGLENET,
         "truncated-0.01", ("googlenet-1378be20.pth",)),
    _row("googlenet-small", "googlenet:googlenet_small", _GREY28, 10, 581_458, 61_654_784, 1, _GOOGLENET),
    _row("inception-bn", "inception_bn:inception_bn", _IMAGENET, 1000, 11_295_240, 2_032_600_064, 7, _BATCH_NORM),
    _row("inception-v3", "inception_v3:inception_v3", _IMAGENET299, 1000, 23_834_568, 5_713_216_096, 75, _INCEPTION_V3,
         "truncated-0.1", ("inception_v3_google-0cc3c7bd.pth", "timm/inception_v3.tv_in1k")),
    _row("inception-v4", "inception_v4:inception_v4", _IMAGENET299, 1000, 42_679_816, 12_253_974_624, 75, _INCEPTION_V4,
         weights=("timm/inception_v4.tf_in1k",)),
    _row("inception-resnet-v1", "inception_resnet:inception_resnet_v1", _IMAGENET299, 1000, 22_756_328, 6_206_361_696,
         75, _INCEPTION_V4),
    _row("inception-resnet-v2", "inception_resnet:inception_resnet_v2", _IMAGENET299, 1000, 55_843_464, 13_155_794_016,
         75, _INCEPTION_V4, weights=("timm/inception_resnet_v2.tf_in1k",)),
    _row("resnet18", "resnet:resnet", _IMAGENET, 1000, 11_689_512, 1_814_073_344, 1, _RESNET,
         weights=("resnet18-f37072fd.pth", "timm/resnet18.tv_in1k"), depth=18),
    _row("resnet34", "resnet:resnet", _IMAGENET, 1000, 21_797_672, 3_663_761_408, 1, _RESNET,
         weights=("resnet34-b627a593.pth", "timm/resnet34.tv_in1k"), depth=34),
    _row("resnet50", "resnet:resnet", _IMAGENET, 1000, 25_557_032, 4_089_184_256, 1, _RESNET,
         weights=("resnet50-0676ba61.pth", "resnet50-11ad3fa6.pth", "timm/resnet50.tv_in1k"), depth=50),
    _row("resnet101", "resnet:resnet", _IMAGENET, 1000, 44_549_160, 7_801_405_440, 1, _RESNET,
         weights=("resnet101-63fe2227.pth", "timm/resnet101.tv_in1k"), depth=101),
    _row("resnet152", "resnet:resnet", _IMAGENET, 1000, 60_192_808, 11_513_626_624, 1, _RESNET,
         weights=("resnet152-394f9c45.pth", "timm/resnet152.tv_in1k"), depth=152),
    _row("resnet18-book", "resnet:resnet18_book", (1, 96, 96), 10, 11_178_378, 318_657_536, 1, _RESNET),
    *[_row(f"resnet{depth}-preact", "resnet:resnet_preact", _IMAGENET, 1000, params, macs, 1, _PREACT, depth=depth)
      for depth, params, macs in ((18, 11_687_720, 1_814_073_344), (34, 21_795_880, 3_663_761_408),
                                  (50, 25_549_352, 4_089_184_256), (101, 44_541_480, 7_801_405_440),
                                  (152, 60_185_128, 11_513_626_624))],
    *[_row(f"resnet{depth}-cifar", "resnet:resnet_cifar", _CIFAR, 10, params, macs, 1, _RESNET, depth=depth)
      for depth, params, macs in ((18, 11_173_962, 555_422_720), (34, 21_282_122, 1_159_402_496),
                                  (50, 23_520_842, 1_297_829_888), (101, 42_512_970, 2_509_983_744),
                                  (152, 58_156_618, 3_722_137_600))],
    _row("resnet9", "resnet:resnet9", _CIFAR, 10, 6_573_120, 379_261_952, 8, _RESNET9),
    _row("resnet9-small", "resnet:resnet9", _GREY28, 10, 2_569_560, 107_191_040, 8, _RESNET9, stem_width=40),
    _row("densenet121", "densenet:densenet", _IMAGENET, 1000, 7_978_856, 2_834_161_664, 29, _DENSENET,
         weights=("densenet121-a639ec97.pth", "timm/densenet121.tv_in1k"), depth=121),
    _row("densenet161", "densenet:densenet", _IMAGENET, 1000, 28_681_000, 7_727_907_072, 29, _DENSENET,
         weights=("densenet161-8d451a50.pth", "timm/densenet161.tv_in1k"), depth=161),
    _row("densenet169", "densenet:densenet", _IMAGENET, 1000, 14_149_480, 3_359_843_328, 29, _DENSENET,
         weights=("densenet169-b2777c0a.pth", "timm/densenet169.tv_in1k"), depth=169),
    _row("densenet201", "densenet:densenet", _IMAGENET, 1000, 20_013_928, 4_291_365_888, 29, _DENSENET,
         weights=("densenet201-c1103571.pth", "timm/densenet201.tv_in1k"), depth=201),
    _row("densenet-book", "densenet:densenet_book", (1, 96, 96), 10, 758_226, 129_077_168, 29, _DENSENET),
])
# fmt: on


def is_foreign(name: str) -> bool:
    """Whether a word names a net from elsewhere: `module:factory`, `timm:NAME`, `torchvision:NAME`."""
    return ":" in name


def find_net(name: str) -> Row:
    """Return the row of a name such as `vgg11` or `vgg11/4` (every convolution a quarter as wide).

    A word for a net from elsewhere is looked up there, which imports torch and what the word names; of its row only
    the image and the classes are known. Raises `UsageError` for a name that is not in the table, nor there.
    """
    if is_foreign(name):
        from conviction.nets.foreign import find_foreign  # which needs torch

        return find_foreign(name)
    base, slash, divisor = name.partition("/")
    if base in NETS and not slash:
        return NETS[base]
    if base in NETS and divisor in {str(allowed) for allowed in WIDTH_DIVISORS}:
        return replace(NETS[base], name=name, width_divisor=int(divisor))
    remedy = f"widths go by {', '.join(f'/{d}' for d in WIDTH_DIVISORS)}" if base in NETS else "see `conviction nets`"
    raise UsageError(f"unknown net {printable(name)!r}{suggest(base, NETS) if base not in NETS else ''}", "", remedy)


def names() -> tuple[str, ...]:
    """Return the names of all nets, without those narrowed by `/2`, `/4`, `/8`."""
    return tuple(NETS)
