"""The corridor: a fit from words to a finished run, the same every time, resumable, refusing in one line."""

import csv
import dataclasses
import itertools
import json
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import conviction
from conviction.assembly import assemble
from conviction.data.held import Held
from conviction.data.records import Data
from conviction.errors import ConvictionError, DivergedError, ResourceError, UsageError
from conviction.feeding import Feed
from conviction.fitting import Note, fit_events
from conviction.recipe import read_recipe
from conviction.runs import Epoch
from conviction.training.checkpoint import read_tensors
from conviction.training.loop import Step

# So far above every rate that trains that three recoveries do not get there, all within the first epoch.
HOPELESS = conviction.Recipe(epochs=2, optimizer="sgd", lr=100.0, schedule="constant", warmup_epochs=0.0, clip_norm=0.0,
                             batch_size=32)  # fmt: skip

TOO_FAST = conviction.Recipe(epochs=4, batch_size=32, lr=0.1, clip_norm=0.0, ema=0.9)


def drain(events):
    try:
        while True:
            next(events)
    except StopIteration as stop:
        return stop.value


def weights(run: conviction.Run) -> torch.Tensor:
    return torch.cat([p.flatten() for p in run.net.state_dict().values()])


def test_a_run_learns_and_leaves_its_folder(finished: conviction.Run, small_data: Data) -> None:
    folder = finished.folder
    assert {p.name for p in folder.iterdir()} >= {
        "recipe.toml",
        "run.json",
        "history.csv",
        "report.html",
        "checkpoints",
    }
    assert finished.result["top1"] > 0.4  # chance is 0.1
    assert finished.result["split"] == "test"
    with (folder / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    best = max(float(row["valid_top1"]) for row in rows)
    assert finished.result["valid_top1"] == pytest.approx(best)
    recipe = tomllib.loads((folder / "recipe.toml").read_text())
    assert recipe["lr"] == 0.01 and recipe["run"]["net"] == "lenet-bn"
    assert recipe["precision"] in ("fp32", "bf16", "fp16"), "decisions are written resolved"
    assert not list(folder.rglob("*.tmp"))
    (events,) = folder.glob("events.out.tfevents.*")
    assert b"valid/top1" in events.read_bytes(), "TensorBoard shows the same columns"


def test_the_promised_fields_are_there(finished: conviction.Run) -> None:
    promised = ("run net data epochs top1 top5 train_top1 valid_top1 seconds images_per_second lr optimizer batch_size "
                "params findings")  # fmt: skip
    assert set(promised.split()) <= set(finished.result)
    json.dumps(finished.result, allow_nan=False)


def test_load_gives_the_same_net_back(finished: conviction.Run, small_data: Data) -> None:
    loaded = conviction.load(finished.folder)
    assert torch.equal(weights(loaded), weights(finished))
    assert loaded.recipe == finished.recipe and loaded.history == finished.history
    measured = conviction.evaluate(loaded.net, small_data.test)
    assert measured.top1 == pytest.approx(finished.result["top1"])


def test_the_same_fit_twice_is_the_same_to_the_last_bit(small_data: Data, tmp_path: Path) -> None:
    recipe = conviction.Recipe(epochs=2, batch_size=64, ema=0.9, mixup=0.2, erase=0.5)
    runs = [conviction.fit("lenet-relu", small_data, recipe, tmp_path / name) for name in ("a", "b")]
    other = conviction.fit("lenet-relu", small_data, recipe.replace(seed=1), tmp_path / "c")
    assert torch.equal(weights(runs[0]), weights(runs[1]))
    assert [row.train_loss for row in runs[0].history] == [row.train_loss for row in runs[1].history]
    assert not torch.equal(weights(runs[0]), weights(other))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(
    small_data: Data, tmp_path: Path, optimizer: str
) -> None:
    recipe = conviction.Recipe(epochs=3, batch_size=64, optimizer=optimizer, ema=0.9)
    whole = conviction.fit("lenet-relu", small_data, recipe, tmp_path / "whole")
    events = fit_events("lenet-relu", small_data, recipe, tmp_path / "cut")
    for _ in itertools.takewhile(lambda event: not (isinstance(event, Epoch) and event.epoch == 2), events):
        pass
    events.close()  # killed after the second epoch
    resumed = conviction.fit("lenet-relu", small_data, recipe, tmp_path / "cut", resume=True)
    assert torch.equal(weights(whole), weights(resumed))
    assert [row.valid_loss for row in whole.history] == [row.valid_loss for row in resumed.history]
    assert conviction.fit("lenet-relu", small_data, recipe, tmp_path / "cut", resume=True).result == resumed.result


@pytest.mark.parametrize("collapsed", [False, True])
def test_a_run_interrupted_in_its_first_epoch_starts_again_as_it_began(
    small_data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, collapsed: bool
) -> None:
    recipe = conviction.Recipe(epochs=1, batch_size=32, optimizer="sgd", lr=0.02)
    if collapsed:  # the preflight finds it and LSUV takes its place
        start = {nn.ReLU: lambda weight: nn.init.normal_(weight, std=1e-3)}
        monkeypatch.setattr("conviction.nets.init._FOR_ACTIVATION", start)
    else:  # the preflight only warns
        recipe = recipe.replace(init="pytorch", preflight="warn")
    whole = conviction.fit("nin-small/8", small_data, recipe, tmp_path / "whole")
    events = fit_events("nin-small/8", small_data, recipe, tmp_path / "cut")
    next(event for event in events if isinstance(event, Step))
    events.close()  # killed in the first epoch
    resumed = conviction.fit("nin-small/8", small_data, recipe, tmp_path / "cut", resume=True)
    assert torch.equal(weights(whole), weights(resumed))
    assert [row.train_loss for row in whole.history] == [row.train_loss for row in resumed.history]
    assert resumed.result["findings"] == whole.result["findings"] and bool(whole.result["findings"]) != collapsed
    assert sum(note.startswith("preflight") for note in resumed.notes) == (2 if collapsed else 1)
    assert resumed.recipe.init == whole.recipe.init == ("lsuv" if collapsed else "pytorch")


def test_what_the_preflight_saw_survives_a_resume(small_data: Data, tmp_path: Path) -> None:
    recipe = conviction.Recipe(epochs=2, batch_size=64)
    events = fit_events("lenet-relu", small_data, recipe, tmp_path / "run")
    next(event for event in events if isinstance(event, Epoch))
    events.close()
    resumed = conviction.fit("lenet-relu", small_data, recipe, tmp_path / "run", resume=True)
    assert resumed.result["preflight"]["healthy"] and resumed.result["preflight"]["first_loss"] > 0


def test_resume_without_a_run_starts_afresh(small_data: Data, tmp_path: Path) -> None:
    run = conviction.fit("lenet", small_data, conviction.Recipe(epochs=1), tmp_path / "new", resume=True)
    assert run.finished


def test_the_test_split_is_touched_once_at_the_end(small_data: Data, tmp_path: Path) -> None:
    class Counted:
        def __init__(self, source: Held) -> None:
            self.source, self.fetched = source, []

        def __len__(self) -> int:
            return len(self.source)

        def fetch(self, indices: torch.Tensor) -> torch.Tensor:
            self.fetched += indices.tolist()
            return self.source.fetch(indices)

    counted = Counted(small_data.test.source)
    data = dataclasses.replace(small_data, test=dataclasses.replace(small_data.test, source=counted))
    events = fit_events("lenet-bn", data, conviction.Recipe(epochs=2, batch_size=64), tmp_path / "run")
    for event in events:
        if getattr(event, "text", "") == "evaluating on the test split":
            break
        assert counted.fetched == [], "nothing is chosen by the test split"
    list(events)
    assert counted.fetched[: len(counted)] == list(range(len(counted))), "each picture once, then the mistakes to show"
    assert len(counted.fetched) <= len(counted) + 24


def test_a_folder_that_holds_a_run_is_refused(finished: conviction.Run, small_data: Data) -> None:
    before = (finished.folder / "run.json").read_bytes()
    with pytest.raises(UsageError, match="already holds a run") as caught:
        conviction.fit("lenet", small_data, conviction.Recipe(epochs=1), finished.folder)
    assert caught.value.exit_code == 2
    assert (finished.folder / "run.json").read_bytes() == before


def test_small_images_are_enlarged_for_a_net_that_needs_it_and_that_is_said(small_data: Data, tmp_path: Path) -> None:
    events = fit_events("vgg11/8", small_data, conviction.Recipe(epochs=1, batch_size=240), tmp_path / "vgg")
    told = [event.text for event in itertools.takewhile(lambda event: isinstance(event, Note), events)]
    events.close()
    assert any("too small for vgg11/8 (smallest 32): resized to 64x64" in text for text in told)


def test_an_image_size_below_the_smallest_is_refused(small_data: Data, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"image 1x20x20 is too small for vgg11/8, layer .*at least 32x32"):
        conviction.fit("vgg11/8", small_data, conviction.Recipe(image_size=20), tmp_path / "vgg")
    assert not (tmp_path / "vgg").exists()


def test_divergence_is_told_not_hidden(small_data: Data, tmp_path: Path) -> None:
    recipe = conviction.Recipe(epochs=2, optimizer="sgd", lr=100.0, schedule="constant", clip_norm=0.0, batch_size=32,
                               recoveries=0, preflight="off")  # fmt: skip
    with pytest.raises(DivergedError, match=r"the loss became (nan|-?inf) at step \d+") as caught:
        conviction.fit("vgg7/8", small_data, recipe, tmp_path / "run")
    assert caught.value.exit_code == 6


def test_three_strikes_end_a_run_with_what_was_tried(small_data: Data, tmp_path: Path) -> None:
    with pytest.raises(
        DivergedError, match=r"at step \d+, lr \S+ after 3 recoveries \(\S+\), .*run - .*--lr below"
    ) as caught:
        conviction.fit("vgg7/8", small_data, HOPELESS, tmp_path / "run")
    assert caught.value.exit_code == 6 and "\n" not in str(caught.value)
    notes = conviction.load(tmp_path / "run").notes
    assert sum("of the rate" in note for note in notes) == 3, "what was tried can be read afterwards"


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_hundred_times_the_right_rate_still_trains(small_data: Data, tmp_path: Path, optimizer: str) -> None:
    rate = {"adamw": 0.1, "sgd": 2.0}[optimizer]
    recipe = conviction.Recipe(
        epochs={"adamw": 6, "sgd": 10}[optimizer],
        batch_size=16,
        optimizer=optimizer,
        lr=rate,
        clip_norm=0.0,
        preflight="off",
    )
    told = []
    run = drain(told_by(fit_events("vgg7/8", small_data, recipe, tmp_path / "run"), told))
    assert run.result["top1"] > 0.3, "chance is 0.1"
    recoveries = run.result["recoveries"]
    assert 1 <= len(recoveries) <= 3 and len(run.result["findings"]) == len(recoveries)
    assert {finding["cause"] for finding in run.result["findings"]} <= {"lr-too-high", "dead-relu", "non-finite"}
    told_texts = [event.text for event in told if isinstance(event, Note)]
    for recovery in recoveries:
        assert any(text.startswith(f"step {recovery['step']}, epoch {recovery['epoch']}: ") for text in told_texts)
    assert max(row.lr for row in run.history[-2:]) < rate / 3
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Findings" in page and f"went back in epoch {recoveries[0]['epoch']}" in page
    json.dumps(run.result, allow_nan=False)


def told_by(events, told: list):
    """Hand events through and keep them."""
    while True:
        try:
            event = next(events)
        except StopIteration as stop:
            return stop.value
        told.append(event)
        yield event


@pytest.fixture(scope="module")
def recovered(small_data: Data, tmp_path_factory: pytest.TempPathFactory) -> conviction.Run:
    """A run that blows up and recovers on its way."""
    return conviction.fit("vgg7/8", small_data, TOO_FAST, tmp_path_factory.mktemp("recovered") / "run")


@pytest.mark.parametrize("cut", [1, 3, "step "])
def test_a_run_with_recoveries_resumes_to_the_same_bits(
    recovered: conviction.Run, small_data: Data, tmp_path: Path, cut: int | str
) -> None:
    events = fit_events("vgg7/8", small_data, TOO_FAST, tmp_path / "cut")
    next(event for event in events if cut in (getattr(event, "epoch", None), getattr(event, "text", "")[:5])
         and not isinstance(event, Step))  # fmt: skip
    next(events)  # killed within the next epoch, or right after a recovery
    events.close()
    resumed = conviction.fit("vgg7/8", small_data, TOO_FAST, tmp_path / "cut", resume=True)
    assert recovered.result["recoveries"] and resumed.result["recoveries"] == recovered.result["recoveries"]
    assert torch.equal(weights(recovered), weights(resumed)) and resumed.notes == recovered.notes
    assert [row.valid_loss for row in recovered.history] == [row.valid_loss for row in resumed.history]


@pytest.mark.parametrize("spoilt", [{(1, 2)}, {(0, 0), (1, 5), (1, 6)}])
def test_a_broken_image_costs_a_few_steps_and_not_the_run(
    small_data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoilt: set[tuple[int, int]]
) -> None:
    """An image that is not finite now and then, which no look at the first ones shows."""
    whole = Feed.__call__

    def broken(self: Feed, epoch: int):
        for number, (images, targets) in enumerate(whole(self, epoch)):
            if (epoch, number) in spoilt:
                images[0, 0, 3, 3] = float("nan")
            yield images, targets

    monkeypatch.setattr(Feed, "__call__", broken)
    run = conviction.fit(
        "lenet-bn", small_data, conviction.Recipe(epochs=4, batch_size=32, lr=0.01, preflight="off"), tmp_path / "run"
    )
    assert run.result["top1"] > 0.3
    assert [(each["cause"], each["rate_factor"]) for each in run.result["recoveries"]] == [("non-finite", 1)] * len(
        spoilt
    )
    assert all(torch.isfinite(torch.tensor([row.train_loss, row.valid_loss])).all() for row in run.history)


def test_lagging_statistics_are_recomputed_and_that_is_said(small_data: Data, tmp_path: Path) -> None:
    recipe = conviction.Recipe(epochs=3, batch_size=64, lr=0.1, schedule="constant", warmup_epochs=0.0)
    on, off = (conviction.fit("lenet-bn", small_data, recipe.replace(precise_bn=precise), tmp_path / str(precise))
               for precise in (True, False))  # fmt: skip
    assert [row.train_loss for row in on.history] == [row.train_loss for row in off.history], "training does not notice"
    assert [row.valid_loss for row in on.history] != [row.valid_loss for row in off.history]
    assert on.result["valid_top1"] > off.result["valid_top1"]
    (note,) = [note for note in on.notes if "batch norm" in note]
    assert f"{on.result['batch_norm_lag']['mean_sd']:.2g} sd" in note
    assert not [note for note in off.notes if "batch norm" in note] and off.result["batch_norm_lag"]["mean_sd"] == 0
    assert note in (tmp_path / "True" / "report.html").read_text()


def test_a_net_that_guesses_is_told_and_not_stopped(small_data: Data, tmp_path: Path) -> None:
    events = list(
        fit_events(
            "lenet", small_data, conviction.Recipe(epochs=2, batch_size=32, lr=1e-9, preflight="off"), tmp_path / "run"
        )
    )
    steps = sum(isinstance(event, Step) for event in events)
    said = [
        event.text for event in events if isinstance(event, Note) and "indistinguishable from guessing" in event.text
    ]
    assert said == [f"train accuracy is indistinguishable from guessing after {steps} steps"]
    run = conviction.load(tmp_path / "run")
    assert said[0] in run.notes and run.finished and run.result["findings"] == []
    learning = conviction.fit("lenet-bn", small_data, conviction.Recipe(epochs=3, batch_size=32), tmp_path / "learns")
    assert not any("indistinguishable" in note for note in learning.notes)


def test_any_module_can_be_fitted(small_data: Data, tmp_path: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    run = conviction.fit(net, small_data, conviction.Recipe(epochs=2, batch_size=32), tmp_path / "own")
    assert run.result["top1"] > 0.3 and run.result["net"] == "Sequential"
    loaded = conviction.load(tmp_path / "own")
    again = loaded.load_weights(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)))
    assert torch.equal(again[1].weight, run.net[1].weight.cpu())


def test_a_full_disk_is_one_line_with_exit_code_5(
    small_data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno
    import os

    from conviction import storage

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(storage.os, "fsync", full)
    with pytest.raises(ResourceError, match="no space left") as caught:
        conviction.fit("lenet", small_data, conviction.Recipe(epochs=1), tmp_path / "run")
    assert caught.value.exit_code == 5 and "\n" not in str(caught.value)


def test_googlenet_trains_with_its_auxiliary_heads(small_data: Data, tmp_path: Path) -> None:
    recipe = conviction.Recipe(epochs=1, batch_size=240, image_size=32)
    events = fit_events("googlenet/8", small_data, recipe, tmp_path / "run")
    started = next(event for event in events if hasattr(event, "params"))
    plain = sum(p.numel() for p in conviction.build("googlenet/8", 10, (1, 32, 32)).parameters())
    assert started.params == plain, "what answers is counted, not what only helps to train"
    list(events)
    tensors, _ = read_tensors(tmp_path / "run" / "checkpoints" / "last.safetensors")
    heads = [name for name in tensors if name.startswith("optimizer") and name.endswith("exp_avg")]
    assert any(name.startswith("net.aux") for name in tensors)
    assert len(heads) == len(list(conviction.build("googlenet/8", 10, (1, 32, 32), aux=True).parameters()))


def test_pictures_that_stream_train_to_the_same_bits_as_pictures_in_memory(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = conviction.Recipe(epochs=2, batch_size=4)
    held = conviction.fit("lenet-bn", photos, recipe, tmp_path / "held")
    monkeypatch.setattr("conviction.data.folder.held_kinds", lambda needed: set())
    for workers in (0, 2):
        streamed = conviction.fit("lenet-bn", photos, recipe.replace(workers=workers), tmp_path / f"streamed{workers}")
        assert streamed.data.train.source.streams
        assert torch.equal(weights(held), weights(streamed))
        assert held.result["top1"] == streamed.result["top1"]


def test_plain_torch_data_is_trained_on(small_data: Data, tmp_path: Path) -> None:
    from torch.utils.data import DataLoader, Dataset

    class Clothes(Dataset):
        def __init__(self, split: str) -> None:
            self.split = small_data.splits[split]

        def __len__(self) -> int:
            return len(self.split)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            picture = self.split.source.fetch(torch.tensor([index]))[0]
            return picture.float() / 255, int(self.split.labels[index])

    recipe = conviction.Recipe(epochs=2, batch_size=32, workers=0, lr=0.01)
    for name, wrap in (("sets", lambda data: data), ("loaders", lambda data: DataLoader(data, 24))):
        data = conviction.from_loaders(*(wrap(Clothes(split)) for split in ("train", "valid", "test")))
        run = conviction.fit("lenet-bn", data, recipe, tmp_path / name)
        assert run.result["top1"] > 0.3
        assert (tmp_path / name / "report.html").read_text().count("data:image/png") > 0, "the worst mistakes are shown"
    epoch = next(e for e in fit_events("lenet-bn", data, recipe, tmp_path / "steps") if hasattr(e, "steps_per_epoch"))
    assert epoch.steps_per_epoch == -(-len(small_data.train) // 24), "the loader's own batches count"


def test_lsuv_starts_from_measured_layers(small_data: Data, tmp_path: Path) -> None:
    run = conviction.fit(
        "vgg7/8", small_data, conviction.Recipe(epochs=4, batch_size=32, init="lsuv"), tmp_path / "run"
    )
    assert run.result["top1"] > 0.3 and run.recipe.init == "lsuv"


def test_a_run_on_enlarged_images_opens_its_data_at_that_size(tmp_path: Path, photos: Path) -> None:
    run = conviction.fit("vgg11/8", photos, conviction.Recipe(epochs=1, batch_size=8), tmp_path / "run")
    loaded = conviction.load(tmp_path / "run")
    assert loaded.data.image == run.data.image == loaded.preprocessing.image == (3, 32, 32)
    loaded = conviction.load(tmp_path / "run")
    assert conviction.evaluate_run(loaded).top1 == pytest.approx(run.result["top1"])


def test_a_net_that_flattens_with_view_is_trained(small_data: Data, tmp_path: Path) -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 8, 3), nn.Linear(8 * 13 * 13, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = nn.functional.max_pool2d(self.conv(x).relu(), 2)
            return self.head(x.view(x.size(0), -1))

    run = conviction.fit(Own(), small_data, conviction.Recipe(epochs=2, batch_size=32, lr=0.005), tmp_path / "run")
    assert run.result["top1"] > 0.3


class Listing(nn.Module):
    """A net that answers with something else than logits while it trains."""

    def __init__(self, wrap: Callable[[torch.Tensor], object]) -> None:
        super().__init__()
        self.linear, self.wrap = nn.Linear(784, 10), wrap

    def forward(self, x: torch.Tensor) -> object:
        logits = self.linear(x.flatten(1))
        return self.wrap(logits) if self.training else logits


class Caching(nn.Module):
    """A net that makes a buffer when it first runs."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(784, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not hasattr(self, "scale"):
            self.register_buffer("scale", torch.ones(784))
        return self.linear(x.flatten(1) * self.scale)


class Mapping(nn.Module):
    """A net that answers with a mapping, as those of text libraries do."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(784, 10)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.linear(x.flatten(1))}


class LazyHead(nn.Module):
    """A net with a layer that only training runs, of a size that nobody has told."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.unused = nn.Linear(784, 10), nn.LazyLinear(10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x.flatten(1))


@pytest.mark.parametrize(
    "make",
    [Caching, lambda: nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(10))],
    ids=["caching", "lazy"],
)
def test_a_net_that_completes_itself_when_it_runs_is_trained(
    small_data: Data, tmp_path: Path, make: Callable[[], nn.Module]
) -> None:
    run = conviction.fit(make(), small_data, conviction.Recipe(epochs=1, batch_size=32), tmp_path / "run")
    assert run.result["top1"] > 0.2 and run.result["params"] > 0


def test_trying_whether_a_net_fits_leaves_its_statistics_and_mode(small_data: Data) -> None:
    net = nn.Sequential(nn.BatchNorm2d(1, momentum=0.5), nn.Flatten(), nn.Linear(784, 10)).eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    assemble(net, small_data, conviction.Recipe())
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert not any(module.training for module in net.modules())


MISFITS = {
    "a list": Listing(lambda logits: [logits]),
    "a mapping": Listing(lambda logits: {"out": logits}),
    "a list within a tuple": Listing(lambda logits: (logits, [logits])),
    "other heads": Listing(lambda logits: (logits, logits[:, :3])),
    "a list always": nn.ModuleList(),
    "a mapping always": Mapping(),
    "never lazy": LazyHead(),
    "another training": Listing(lambda logits: logits.reshape(3, -1)),
    "too few outputs": nn.Sequential(nn.Flatten(), nn.Linear(784, 9)),
    "too many outputs": nn.Sequential(nn.Flatten(), nn.Linear(784, 11)),
    "another input": nn.Linear(5, 10),
    "no logits": nn.Identity(),
    "float64": nn.Sequential(nn.Flatten(), nn.Linear(784, 10)).double(),
    "maps": nn.Conv2d(1, 10, 3),
    "a number": 3,
    "nothing": None,
}


@pytest.mark.parametrize("net", MISFITS.values(), ids=MISFITS)
def test_a_net_that_does_not_fit_the_data_is_refused_before_anything_is_written(
    small_data: Data, tmp_path: Path, net: object
) -> None:
    with pytest.raises(UsageError) as caught:
        conviction.fit(net, small_data, conviction.Recipe(epochs=1), tmp_path / "run")
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()
    assert "has no attribute" not in str(caught.value), "Python's words, not ours"


def test_resume_with_another_net_data_or_recipe(finished: conviction.Run, small_data: Data, tmp_path: Path) -> None:
    recipe = conviction.Recipe(epochs=2, batch_size=64)
    events = fit_events("lenet-bn", small_data, recipe, tmp_path / "run")
    next(event for event in events if isinstance(event, Epoch))
    events.close()
    with pytest.raises(UsageError, match="begun with another net: lenet-bn"):
        conviction.fit("lenet-relu", small_data, recipe, tmp_path / "run", resume=True)
    with pytest.raises(UsageError, match="begun with another classes"):
        renamed = dataclasses.replace(small_data, classes=("gown", *small_data.classes[1:]))
        conviction.fit("lenet-bn", renamed, recipe, tmp_path / "run", resume=True)
    events = fit_events("lenet-bn", small_data, recipe.replace(epochs=9, lr=0.5), tmp_path / "run", resume=True)
    assert "left aside: epochs, lr" in next(events).text
    events.close()


def test_photographs_of_all_sizes_resume_to_the_same_bits(photos: Path, tmp_path: Path) -> None:
    from PIL import Image

    for number, side in enumerate((40, 50, 64, 90)):
        Image.new("RGB", (side, side + 9), (40 * number, 90, 200)).save(photos / "dark" / f"large{number}.png")
    recipe = conviction.Recipe(epochs=2, batch_size=4)
    whole = conviction.fit("lenet-bn", photos, recipe, tmp_path / "whole")
    events = fit_events("lenet-bn", photos, recipe, tmp_path / "cut")
    next(event for event in events if isinstance(event, Epoch))
    events.close()
    resumed = conviction.fit("lenet-bn", photos, recipe, tmp_path / "cut", resume=True)
    assert torch.equal(weights(whole), weights(resumed)) and whole.preprocessing == resumed.preprocessing
    repeated = conviction.fit("lenet-bn", photos, read_recipe(tmp_path / "whole" / "recipe.toml"), tmp_path / "again")
    assert torch.equal(weights(whole), weights(repeated))
    assert conviction.load(tmp_path / "whole").data.preprocessing == whole.preprocessing


def test_what_is_the_users_is_never_overwritten(small_data: Data, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "recipe.toml").write_text("epochs = 1\n")
    with pytest.raises(UsageError, match=r"holds recipe\.toml that no run wrote"):
        conviction.fit("lenet", small_data, conviction.Recipe(epochs=1), tmp_path / "own")
    with pytest.raises(UsageError, match="inside the data"):
        conviction.fit("lenet-bn", photos, conviction.Recipe(epochs=1), photos / "run")
    assert not (photos / "run").exists()


def test_a_run_that_ended_before_its_first_epoch_makes_room(small_data: Data, tmp_path: Path) -> None:
    with pytest.raises(DivergedError):
        conviction.fit("vgg7/8", small_data, HOPELESS, tmp_path / "run")
    assert conviction.fit("lenet", small_data, conviction.Recipe(epochs=1), tmp_path / "run").finished


def test_a_net_changed_after_build_is_not_rebuilt_as_it_was(small_data: Data, tmp_path: Path) -> None:
    net = conviction.build("lenet-relu", 10, (1, 28, 28))
    net.relu1 = nn.Tanh()
    conviction.fit(net, small_data, conviction.Recipe(epochs=1), tmp_path / "run")
    with pytest.raises(ConvictionError, match="not built by name"):
        _ = conviction.load(tmp_path / "run").net


def test_a_batch_of_one_is_refused_in_one_line(small_data: Data, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="batch norm cannot train on a batch of 1"):
        conviction.fit("lenet-bn", small_data, conviction.Recipe(epochs=1, batch_size=1), tmp_path / "run")


def test_errors_are_one_line(tmp_path: Path) -> None:
    for call in (
        lambda: conviction.fit("vgg1", "fashion-mini"),
        lambda: conviction.fit("lenet", tmp_path / "nowhere"),
        lambda: conviction.load(tmp_path),
        lambda: conviction.Recipe(lr=float("nan")),
    ):
        with pytest.raises(ConvictionError) as caught:
            call()
        assert "\n" not in str(caught.value) and " - " in str(caught.value)
