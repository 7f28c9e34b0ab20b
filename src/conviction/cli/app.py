"""The verbs and their flags. Nothing here imports torch: each verb asks the public page when it runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from conviction.cli import output
from conviction.cli.doctor import diagnose
from conviction.cli.words import (
    CARD,
    DataRoot,
    DataWord,
    Device,
    Json,
    Net,
    OtherData,
    RunFolder,
    Settings,
    merge_knobs,
    parse_image,
    read_message,
    told,
)
from conviction.errors import UsageError
from conviction.nets.catalogue import NETS, find_net
from conviction.recipe import Recipe
from conviction.version import __version__

if TYPE_CHECKING:
    from conviction.planning.oom_arithmetic import Expected

app = App(
    name="conviction",
    help="Convolutional networks that train: build them, train them, see what they learned.",
    version=__version__,
    help_format="plaintext",
    suppress_keyboard_interrupt=False,
    default_parameter=Parameter(negative=()),
)


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
def plan(
    net: Net,
    data: DataWord | None = None,
    /,
    *,
    image: Annotated[str | None, Parameter(help="channels x height x width, where no data is given")] = None,
    classes: Annotated[int | None, Parameter(help="number of classes, where no data is given")] = None,
    batch_size: Annotated[int | None, told("batch_size")] = None,
    image_size: Annotated[int | None, told("image_size")] = None,
    optimizer: Annotated[str | None, told("optimizer")] = None,
    precision: Annotated[str | None, told("precision")] = None,
    device: Annotated[str | None, Parameter(help=CARD)] = None,
    recipe: Annotated[Path | None, Parameter(help="TOML file with any of the knobs; flags win over it")] = None,
    set_: Settings = (),
    out: Annotated[Path | None, Parameter(help="folder for the pictures: memory, layers, roofline")] = None,
    data_root: DataRoot = None,
    json: Json = False,
) -> None:
    """Say what training and prediction will cost before anything runs: memory, computation, time, whether it fits.

    Example: conviction plan vgg11 --image 3x224x224 --batch-size 128 --device t4
    """
    import conviction

    flags = {"batch_size": batch_size, "image_size": image_size, "optimizer": optimizer, "precision": precision}
    if data is not None and (image is not None or classes is not None):
        raise UsageError("DATA has its own images and classes", "--image", "leave out --image and --classes, or DATA")
    images = parse_image(image) if image is not None else data
    made = conviction.plan(net, images, Recipe(**merge_knobs(recipe, set_, flags)), num_classes=classes, device=device,
                           data_root=data_root)  # fmt: skip
    pictures = conviction.save_plan(made, out) if out is not None else ()
    output.show_plan(made, pictures, json)


@app.command(name="explain-oom", sort_key=8)
def explain_oom(
    text: Annotated[str, Parameter(help="the message, its file, or - for standard input", allow_leading_hyphen=True)],
    /,
    *,
    net: Annotated[str | None, Parameter(help="the net that ran, to compare with its plan")] = None,
    image: Annotated[str | None, Parameter(help="channels x height x width of its images")] = None,
    classes: Annotated[int | None, Parameter(help="number of classes")] = None,
    batch_size: Annotated[int | None, told("batch_size")] = None,
    optimizer: Annotated[str | None, told("optimizer")] = None,
    precision: Annotated[str | None, told("precision")] = None,
    device: Annotated[str | None, Parameter(help=CARD)] = None,
    json: Json = False,
) -> None:
    """Read an out-of-memory message and say what held the memory, against the plan where the net is given.

    Example: conviction explain-oom error.txt --net vgg11 --batch-size 128
    """
    import conviction

    expected: Expected | None = None
    if net is not None:
        given = Recipe(batch_size=batch_size, optimizer=optimizer, precision=precision)
        shape = parse_image(image) if image is not None else None
        made = conviction.plan(net, shape, given, num_classes=classes, device=device or "16GiB", measure=False)
        expected = conviction.expected_of(made, on_this_card=device is not None)
    output.show_explanation(conviction.explain_oom(read_message(text), expected), json)


@app.command(sort_key=4)
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


@app.command(sort_key=5)
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


@app.command(sort_key=6)
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


@app.command(sort_key=7)
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


app.command(diagnose, sort_key=9)

VERBS = ("nets", "show", "data", "plan", "lr", "fit", "evaluate", "predict", "explain-oom", "diagnose")
