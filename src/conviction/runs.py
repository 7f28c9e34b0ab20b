"""The run folder: recipe.toml, run.json, history.csv, checkpoints/, written while training and read back later."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from conviction import data as data_room
from conviction.data.folder import load as load_pictures
from conviction.data.records import Data, Preprocessing
from conviction.errors import DataError, UsageError, WeightsError
from conviction.nets import build, is_foreign
from conviction.recipe import Recipe, format_toml, read_recipe
from conviction.storage import explain_os_error, make_folder, refusing, write_text
from conviction.text import list_some, printable, system_reason
from conviction.training.checkpoint import load_state, read_tensors

# What a run writes beside run.json.
FILES = ("recipe.toml", "history.csv", "report.html", "checkpoints")
BEST, LAST = Path("checkpoints/best.safetensors"), Path("checkpoints/last.safetensors")


@dataclass(frozen=True)
class Epoch:
    """One row of history.csv. Accuracies are fractions; training figures are running ones, with augmentation on."""

    epoch: int
    lr: float
    train_loss: float
    train_top1: float
    valid_loss: float
    valid_top1: float
    seconds: float
    images_per_second: float


@dataclass(frozen=True)
class Sources:
    """How the net and the data of a run were made, so that `load` can make them again; None where it cannot."""

    net: str | None
    net_options: dict[str, Any]
    data: str | None
    data_options: dict[str, Any]


@dataclass(frozen=True)
class Run:
    """A run, finished or not. `result` holds the fields of `conviction fit --json`, empty until the run is finished."""

    folder: Path
    sources: Sources
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    recipe: Recipe
    history: tuple[Epoch, ...]
    result: dict[str, Any]
    environment: dict[str, Any]
    notes: tuple[str, ...]

    @property
    def finished(self) -> bool:
        """Whether the run went to its end."""
        return bool(self.result)

    @property
    def top1(self) -> float:
        """Accuracy on the test split (on the validation split where there is no test), a fraction."""
        if not self.finished:
            raise WeightsError("the run is not finished", printable(self.folder), "finish it with --resume")
        return self.result["top1"]

    @cached_property
    def net(self) -> nn.Module:
        """The net with the weights that did best on validation, in eval mode.

        After `fit` it is the very net that was trained, on its device; of a loaded run it is built anew on the CPU. A
        net of a `module:factory` is made by that module, which is imported: load only runs whose code you trust.
        """
        if self.sources.net is None:
            raise WeightsError("the run's net was not built by name", printable(self.folder),
                               "make it yourself and call run.load_weights(net)")  # fmt: skip
        self._refuse_own_code()
        try:
            made = build(self.sources.net, len(self.classes), self.preprocessing.image, **self.sources.net_options)
        except (TypeError, UsageError) as error:
            what, remedy = (
                f"the run's net cannot be built: {printable(error)}",
                "make it and call run.load_weights(net)",
            )
            raise WeightsError(what, printable(self.folder), remedy) from error
        return self.load_weights(made)

    def _refuse_own_code(self) -> None:
        """Refuse code that came with the run: a run says where the code of its net was, and is data itself."""
        word, folder = self.sources.net or "", self.sources.net_options.get("folder")
        if not is_foreign(word) or word.startswith(("timm:", "torchvision:")):
            return
        if not isinstance(folder, str) or (Path(folder) / word).resolve().is_relative_to(self.folder.resolve()):
            raise WeightsError("the run's net is code of which only the run knows the place", printable(self.folder),
                               "make the net yourself and call run.load_weights(net)")  # fmt: skip

    def load_weights(self, net: nn.Module) -> nn.Module:
        """Copy the run's best weights into `net` and return it in eval mode."""
        path = self.folder / BEST
        tensors, _ = read_tensors(path)
        load_state(net, tensors, path)
        return net.eval()

    @cached_property
    def data(self) -> Data:
        """The run's data, opened again."""
        if self.sources.data is None:
            raise DataError("the run's data came from Python", printable(self.folder), "pass the data yourself")
        return load_pictures(data_room.open_data(self.sources.data, **self.sources.data_options))


def new_folder(out: str | Path | None, net_name: str) -> Path:
    """Make the folder of a new run: `out`, or the next free `runs/NET-N`. One that already holds a run is refused."""
    if out is not None:
        refuse_taken(Path(out))
        return make_folder(Path(out))
    stem = "".join(c if c.isalnum() or c in "-._" else "-" for c in net_name).strip(".") or "net"
    number = 1
    while True:
        folder = Path("runs") / f"{stem}-{number}"
        make_folder(folder.parent)
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        except OSError as error:
            raise explain_os_error(error, folder) from error
        else:
            return folder


def refuse_taken(folder: Path) -> None:
    """Raise `UsageError` where a new run cannot go: a folder that already holds one, or a file."""
    with refusing(folder):
        if holds_run(folder) and not _unborn(folder):
            raise UsageError("this folder already holds a run", printable(folder),
                             "choose another --out, or go on with --resume")  # fmt: skip
        if folder.exists() and not folder.is_dir():
            raise UsageError("--out is a file", printable(folder), "name a folder")
        theirs = [name for name in FILES if (folder / name).exists() and not holds_run(folder)]
    if theirs:
        raise UsageError(f"this folder holds {list_some(theirs)} that no run wrote", printable(folder),
                         "choose another --out, so that nothing is overwritten")  # fmt: skip


def refuse_inside(folder: Path, data: str | None) -> None:
    """Refuse to write into the folder of the data: a run in it would be read as a class by the next."""
    source = Path(data or "")
    if source.is_absolute() and source.is_dir() and folder.absolute().resolve().is_relative_to(source.resolve()):
        raise UsageError("the run's folder would lie inside the data", printable(folder), "choose another --out")


def refuse_another(
    run: Run, sources: Sources, data_name: str, classes: tuple[str, ...], image: tuple[int, int, int]
) -> None:
    """Refuse to go on with a run on another net or other data than it was begun with."""
    for what, now, then in (
        ("net", sources.net, run.sources.net),
        ("data", sources.data or data_name, run.sources.data or data_name),
        ("classes", classes, run.classes),
        ("image", image, run.preprocessing.image),
    ):
        if now != then:
            raise UsageError(f"the run was begun with another {what}: {printable(then)}", printable(run.folder),
                             "resume it with the same net and data, or choose another --out")  # fmt: skip


def left_aside(given: Recipe, own: Recipe) -> str:
    """Name the knobs that were given for a run that goes on with others."""
    default = Recipe().to_dict()
    names = [name for name, value in given.to_dict().items() if value not in (default[name], own.to_dict()[name])]
    return f"; left aside: {', '.join(names)}" if names else ""


def _unborn(folder: Path) -> bool:
    """Whether a run ended before its first epoch was saved: nothing is lost when another takes its place."""
    return not (folder / LAST).exists() and not (folder / BEST).exists() and not (folder / "report.html").exists()


def holds_run(folder: Path) -> bool:
    """Whether a folder holds a run."""
    return (folder / "run.json").exists()


def write_run(run: Run) -> None:
    """Write what is known of a run: recipe.toml, run.json, history.csv."""
    make_folder(run.folder)
    used = {"net": run.sources.net, "data": run.sources.data, "classes": run.classes}
    record = {
        "format": 1,
        "sources": dataclasses.asdict(run.sources),
        "classes": run.classes,
        "preprocessing": run.preprocessing.to_dict(),
        "result": run.result,
        "environment": run.environment,
        "notes": run.notes,
    }
    # First what tells that the folder holds a run of ours: whoever finds only half of the rest knows whose it is.
    write_text(run.folder / "run.json", json.dumps(record, indent=1) + "\n")
    write_text(run.folder / "recipe.toml", format_toml(run.recipe, used))
    write_history(run)
    make_folder(run.folder / "checkpoints")


def write_history(run: Run) -> None:
    """Write history.csv, all that changes from epoch to epoch."""
    write_text(run.folder / "history.csv", format_history(run.history))


def format_history(history: tuple[Epoch, ...]) -> str:
    """Write epochs as CSV; a number that is not finite is written as it is (`nan`, `inf`)."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in dataclasses.fields(Epoch)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(dataclasses.asdict(row) for row in history)
    return text.getvalue()


def read_run(folder: str | Path) -> Run:
    """Read a finished or interrupted run; raises `WeightsError` where there is none or it cannot be read."""
    folder = Path(folder)
    remedy = "give a run folder that `conviction fit` wrote"
    try:
        there, holds = folder.is_dir(), holds_run(folder)
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise WeightsError(f"the run cannot be opened: {system_reason(error)}", printable(folder),
                           remedy) from error  # fmt: skip
    if not there:
        raise WeightsError("no such run", printable(folder), remedy)
    if not holds:
        raise WeightsError("this folder holds no run", printable(folder), remedy)
    try:
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        return Run(
            folder=folder,
            sources=_checked_sources(record["sources"]),
            classes=tuple(_checked_words(record["classes"])),
            preprocessing=Preprocessing.from_dict(record["preprocessing"]),
            recipe=read_recipe(folder / "recipe.toml"),
            history=_read_history(folder / "history.csv"),
            result=record["result"],
            environment=record["environment"],
            notes=tuple(_checked_words(record["notes"])),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(f"the run cannot be read: {printable(error)}", printable(folder), remedy) from error


def _read_history(path: Path) -> tuple[Epoch, ...]:
    with path.open(encoding="utf-8", newline="") as file:
        return tuple(
            Epoch(int(row.pop("epoch")), **{name: float(value) for name, value in row.items()})
            for row in csv.DictReader(file)
        )


def _checked_words(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise ValueError("run.json holds something else where words are expected")
    return value


def _checked_sources(value: dict[str, Any]) -> Sources:
    sources = Sources(**value)
    words = all(word is None or isinstance(word, str) for word in (sources.net, sources.data))
    if not words or not isinstance(sources.net_options, dict) or not isinstance(sources.data_options, dict):
        raise ValueError("run.json does not tell the run's net and data")
    return sources
