"""The verbs and their flags. Nothing here imports torch: each verb asks the public page when it runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from conviction.cli import output
from conviction.errors import UsageError
from conviction.nets.catalogue import NETS, find_net
from conviction.recipe import Recipe, parse_setting, read_knobs
from conviction.text import printable
from conviction.version import __version__

app = App(
    name="conviction",
    help="Convolutional networks that train: build them, train them, see what they learned.",
    version=__version__,
    help_format="plaintext",
    suppress_keyboard_interrupt=False,
    default_parameter=Parameter(negative=()),
)

OTHER_KNOBS = "any other knob, as in --set mixup=0.2: " + ", ".join(sorted(set(Recipe.__dataclass_fields__) - {
    "epochs", "batch_size", "image_size", "lr", "weight_decay", "optimizer", "schedule", "precision", "init", "device",
    "workers", "seed",
}))  # fmt: skip
Json = Annotated[bool, Parameter(help="print one JSON object and nothing else")]
Device = Annotated[str | None, Parameter(help="cpu, cuda, cuda:1, mps; default the accelerator if there is one")]
DataRoot = Annotated[str | None, Parameter(help="folder that holds named data sets (or set CONVICTION_DATA)")]


Net = Annotated[str, Parameter(help="a name of `conviction nets`, as it is or narrowed by /2, /4, /8")]
DataWord = Annotated[
    str, Parameter(help="a folder of images, a file of pixels, or fashion-mini, fashion-mnist, cifar10")
]
OtherData = Annotated[str | None, Parameter(help="other data; default the run's own test split, else validation")]
Settings = Annotated[tuple[str, ...], Parameter(name="--set", help=OTHER_KNOBS)]
RunFolder = Annotated[Path, Parameter(help="the folder of a run, such as runs/vgg7-bn-2-1")]


def told(knob: str) -> Parameter:
    """Help for the flag of a recipe's knob: its reason and choices."""
    told = Recipe.__dataclass_fields__[knob].metadata
    return Parameter(help=told["reason"] + (f": {', '.join(told['choices'])}" if told["choices"] else ""))


@app.command(sort_key=0)
def nets(*, json: Json = False) -> None:
    """List the nets: paper, year, parameters, computation, smallest image, published weights.

    Example: conviction nets
    """
    output.show_nets(tuple(NETS.values()), json)


@app.command(sort_key=1)
def show(
    net: Net,
    /,
    *,
    image: Annotated[str | None, Parameter(help="channels x height x width, as in 3x224x224")] = None,
    classes: Annotated[int | None, Parameter(help="number of classes")] = None,
    batch_size: Annotated[int, Parameter(help="images for which saved bytes are told")] = 1,
    json: Json = False,
) -> None:
    """Show a net layer by layer: kind, output shape, parameters, multiply-accumulates, bytes saved for backward.

    Example: conviction show lenet --image 1x28x28
    """
    import conviction

    shape = find_net(net).image if image is None else parse_image(image)
    layers = conviction.layer_table(conviction.sketch(net, classes, shape), shape, batch_size)
    output.show_layers(net, shape, layers, json)


@app.command(sort_key=2)
def data(
    data: DataWord,
    /,
    *,
    data_root: DataRoot = None,
    json: Json = False,
) -> None:
    """Audit a data set: classes, counts, sizes, broken files, duplicates, leaks between splits.

    Example: conviction data ./photos
    """
    import conviction

    output.show_audit(conviction.audit(data, data_root=data_root), json)


@app.command(sort_key=3)
def lr(
    net: Net,
    data: DataWord,
    /,
    *,
    batch_size: Annotated[int | None, told("batch_size")] = None,
    image_size: Annotated[int | None, told("image_size")] = None,
    epochs: Annotated[int | None, told("epochs")] = None,
    optimizer: Annotated[str | None, told("optimizer")] = None,
    weight_decay: Annotated[float | None, told("weight_decay")] = None,
    schedule: Annotated[str | None, told("schedule")] = None,
    precision: Annotated[str | None, told("precision")] = None,
    init: Annotated[str | None, told("init")] = None,
    device: Annotated[str | None, told("device")] = None,
    workers: Annotated[int | None, told("workers")] = None,
    seed: Annotated[int | None, told("seed")] = None,
    recipe: Annotated[Path | None, Parameter(help="TOML file with any of the knobs; flags win over it")] = None,
    set_: Settings = (),
    out: Annotated[Path | None, Parameter(help="SVG file for the curve")] = None,
    data_root: DataRoot = None,
    json: Json = False,
) -> None:
    """Find a learning rate, proved by short runs; or say why no rate helps (exit 6).

    Example: conviction lr lenet-bn fashion-mini --optimizer sgd
    """
    import conviction

    flags = {
        "batch_size": batch_size, "image_size": image_size, "epochs": epochs, "optimizer": optimizer,
        "weight_decay": weight_decay, "schedule": schedule, "precision": precision, "init": init, "device": device,
        "workers": workers, "seed": seed,
    }  # fmt: skip
    knobs = merge_knobs(recipe, set_, flags)
    if knobs.pop("lr", None) is not None:
        print("note: lr is what is looked for: the given one is left aside", file=sys.stderr)
    sweep = conviction.find_lr(net, data, Recipe(**knobs), data_root=data_root)
    if out is not None:
        sweep.save(out)
    output.show_sweep(sweep, out, json)


@app.command(sort_key=4)
def fit(
    net: Net,
    data: DataWord,
    /,
    *,
    epochs: Annotated[int | None, told("epochs")] = None,
    batch_size: Annotated[int | None, told("batch_size")] = None,
    image_size: Annotated[int | None, told("image_size")] = None,
    lr: Annotated[float | None, told("lr")] = None,
    weight_decay: Annotated[float | None, told("weight_decay")] = None,
    optimizer: Annotated[str | None, told("optimizer")] = None,
    schedule: Annotated[str | None, told("schedule")] = None,
    precision: Annotated[str | None, told("precision")] = None,
    init: Annotated[str | None, told("init")] = None,
    device: Annotated[str | None, told("device")] = None,
    workers: Annotated[int | None, told("workers")] = None,
    seed: Annotated[int | None, told("seed")] = None,
    recipe: Annotated[Path | None, Parameter(help="TOML file with any of the knobs; flags win over it")] = None,
    set_: Settings = (),
    out: Annotated[Path | None, Parameter(help="folder of the run; default runs/NET-N")] = None,
    resume: Annotated[bool, Parameter(help="go on with the run in --out")] = False,
    data_root: DataRoot = None,
    json: Json = False,
) -> None:
    """Train a net on a data set, evaluate it on the test split, write a report.

    Example: conviction fit vgg7-bn/2 fashion-mini --epochs 8
    """
    import conviction

    flags = {
        "epochs": epochs, "batch_size": batch_size, "image_size": image_size, "lr": lr, "weight_decay": weight_decay,
        "optimizer": optimizer, "schedule": schedule, "precision": precision, "init": init, "device": device,
        "workers": workers, "seed": seed,
    }  # fmt: skip
    if resume and out is None:
        raise UsageError("--resume needs the run's folder", "--out", "add --out runs/NET-N")
    knobs = merge_knobs(recipe, set_, flags)
    run = conviction.fit(net, data, Recipe(**knobs), out, resume=resume, data_root=data_root)
    output.show_fit(run, json)


@app.command(sort_key=5)
def evaluate(
    run: RunFolder,
    data: OtherData = None,
    /,
    *,
    device: Device = None,
    data_root: DataRoot = None,
    json: Json = False,
) -> None:
    """Measure a run on its test split (else validation), or on other data: accuracy, confusion, calibration.

    Example: conviction evaluate runs/vgg7-bn-2-1
    """
    import conviction

    output.show_evaluation(conviction.evaluate_run(run, data, device=device, data_root=data_root), json)


@app.command(sort_key=6)
def predict(
    run: RunFolder,
    images: Annotated[tuple[str, ...], Parameter(help="files, folders or patterns such as 'photos/*.jpg'")],
    /,
    *,
    top: Annotated[int, Parameter(help="how many classes to tell for each image")] = 5,
    device: Device = None,
    json: Json = False,
) -> None:
    """Say what is in images: the likeliest classes with their probabilities.

    Example: conviction predict runs/vgg7-bn-2-1 cat.jpg
    """
    import conviction

    output.show_predictions(conviction.predict(run, images, top=top, device=device), json)


VERBS = ("nets", "show", "data", "lr", "fit", "evaluate", "predict")


def parse_image(text: str) -> tuple[int, int, int]:
    """Read `CxHxW`."""
    sizes = text.lower().split("x")
    if len(sizes) != 3 or not all(size.isascii() and size.isdigit() and int(size) > 0 for size in sizes):
        raise UsageError(f"--image {printable(text)!r} is not a shape", "--image", "write it as 3x224x224")
    channels, height, width = (int(size) for size in sizes)
    return channels, height, width


def merge_knobs(recipe: Path | None, settings: tuple[str, ...], flags: dict[str, Any]) -> dict[str, Any]:
    """Put together a recipe file, `--set` and the flags; the later win."""
    knobs = {} if recipe is None else read_knobs(recipe)
    knobs |= dict(parse_setting(setting) for setting in settings)
    return knobs | {name: value for name, value in flags.items() if value is not None}
