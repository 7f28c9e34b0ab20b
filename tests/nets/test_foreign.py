"""Nets from elsewhere by a word: found, called as they ask, refused in one line, trained and loaded again."""

from __future__ import annotations

import itertools
import json
import re
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import conviction
from conviction.cli import run as run_command
from conviction.data.records import Data
from conviction.errors import ConvictionError, ImageTooSmallError, ResourceError, UsageError, WeightsError
from conviction.fitting import fit_events
from conviction.nets import build, find_net, has_option, is_foreign, sketch

SOURCE = '''
import torch
from torch import nn

print("noise on import")


def make_net(num_classes, image=(3, 20, 20)):
    channels, height, width = image
    return nn.Sequential(nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(), nn.Flatten(),
                         nn.Linear(4 * height * width, num_classes))


class Viewing(nn.Module):
    """Flattens with `view`, which refuses the layout NHWC."""

    def __init__(self, num_classes=10):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.head = nn.Linear(4 * 26 * 26, num_classes)

    def forward(self, x):
        x = self.conv(x)
        return self.head(x.view(x.size(0), -1))


class Deep(nn.Module):
    """Three strides of two: images below 17 pixels leave nothing."""

    origin = "of its own"

    def __init__(self, *, num_classes):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 5, 2), nn.Conv2d(4, 4, 5, 2))
        self.head = nn.Linear(4, num_classes)

    def forward(self, x):
        return self.head(self.stem(x).mean((2, 3)))


def reading(num_classes=3):
    """Needs numbers while it is made."""
    net = nn.Linear(4, num_classes)
    net.weight.data.fill_(torch.full((2,), 0.25)[0].item())
    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), net)


def learnt(num_classes):
    net = reading(num_classes)
    net[2].bias.data.fill_(7.0)
    return net


def lazy(num_classes):
    return nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(num_classes))


def raising():
    raise ValueError("first line\\nsecond \\x1b[2J line")


def leaving():
    raise SystemExit(3)


def number():
    return 3


def needing(width, num_classes, /, depth):
    return nn.Linear(width, num_classes)


def greedy():
    raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 TB")


instance = nn.Linear(3, 4)
'''


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with modules of a user; what they leave in the process is cleared away."""
    folder = tmp_path / "home"
    (folder / "sub").mkdir(parents=True)
    (folder / "my_own_nets.py").write_text(SOURCE)
    (folder / "sub" / "others.py").write_text("from beside import make\n")
    (folder / "sub" / "beside.py").write_text(SOURCE.replace("make_net", "make").replace("print", "str"))
    (folder / "broken_syntax.py").write_text("x = 1\ndef make(:\n")
    (folder / "broken_need.py").write_text("\nimport no_such_thing_at_all\n")
    monkeypatch.chdir(folder)
    known, path = set(sys.modules), list(sys.path)
    yield folder
    sys.path[:] = path
    for name in set(sys.modules) - known:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def shapes(net: nn.Module) -> list[tuple[int, ...]]:
    return [tuple(parameter.shape) for parameter in net.parameters()]


def test_a_factory_is_given_what_its_signature_names(home: Path) -> None:
    net = build("my_own_nets:make_net", 7, (1, 8, 6))
    assert net(torch.zeros(2, 1, 8, 6)).shape == (2, 7) and net.training
    assert find_net("my_own_nets:make_net").image == (3, 20, 20)
    assert find_net("my_own_nets:Viewing").num_classes == 10
    assert build("my_own_nets:Viewing", 5)(torch.zeros(1, 1, 28, 28)).shape == (1, 5)
    assert shapes(build("my_own_nets:reading")) == [(3, 4), (3,)]
    assert shapes(sketch("my_own_nets:make_net")) == shapes(build("my_own_nets:make_net", 1000, (3, 20, 20)))


def test_files_are_named_too_and_import_their_neighbours(home: Path) -> None:
    word = "sub/others.py:make"
    assert shapes(build(word, 4, (1, 8, 8))) == [(4, 1, 3, 3), (4,), (4, 256), (4,)]
    assert shapes(build(f"{home}/{word}", 4, (1, 8, 8))) == shapes(sketch(word, 4, (1, 8, 8)))


def test_the_working_folder_comes_before_all_others(home: Path) -> None:
    (home / "wave.py").write_text(SOURCE)  # the standard library has one too
    assert shapes(build("wave:reading")) == [(3, 4), (3,)]
    assert sys.path.index(str(home)) == len(sys.path) - 1, "afterwards it shadows nothing"


def test_a_sketch_takes_no_memory_and_leaves_chance_alone(home: Path) -> None:
    before = torch.random.get_rng_state()
    drawn = sketch("my_own_nets:make_net", 10, (3, 2000, 2000))
    assert {parameter.device.type for parameter in drawn.parameters()} == {"meta"}
    assert {parameter.device.type for parameter in sketch("my_own_nets:reading").parameters()} == {"cpu"}
    assert torch.equal(before, torch.random.get_rng_state())
    assert shapes(sketch("my_own_nets:lazy", 3, (1, 8, 8))) == [(4, 1, 3, 3), (4,), (3, 144), (3,)]


def test_weights_stay_as_the_factory_gives_them(home: Path) -> None:
    assert build("my_own_nets:learnt", 3, (1, 8, 8))[2].bias.tolist() == [7.0] * 3
    assert build("my_own_nets:learnt", 3, (1, 8, 8), init="paper")[2].weight.eq(0.25).all()
    assert not build("my_own_nets:learnt", 3, (1, 8, 8), init="kaiming")[2].bias.any()


def test_a_net_below_its_smallest_image_is_refused_with_it(home: Path) -> None:
    with pytest.raises(ImageTooSmallError, match=r"layer stem\.1 cannot take 4x4x8 - use images of at least 13x13"):
        sketch("my_own_nets:Deep", 5, (1, 12, 20))
    assert build("my_own_nets:Deep", 5, (1, 13, 20)).origin == "of its own"  # what the net has is left to it


REFUSALS = {
    "no_such_mod:make": "no module 'no_such_mod'",
    "my_own_net:make": "(did you mean my_own_nets?)",
    "my_own_nets.deeper:make": "no module 'my_own_nets.deeper'",
    "sub/nothing.py:make": "no such file",
    "my_own_nets:make_nett": "my_own_nets has no 'make_nett' (did you mean make_net?) - it has make_net, Viewing, Deep",
    "my_own_nets:raising": "the factory raises: ValueError: first line second \\x1b[2J line, my_own_nets:raising - see "
                           "my_own_nets.py, line ",
    "my_own_nets:leaving": "the factory raises: SystemExit: 3",
    "my_own_nets:number": "the factory makes int, no nn.Module",
    "my_own_nets:needing": "the factory needs width, num_classes, depth",
    "my_own_nets:instance": "my_own_nets:instance is Linear, not what makes a net",
    "my_own_nets:SystemError": "has no 'SystemError'",
    "my_own_nets:make_net/4": "widths such as /4 go with the names of `conviction nets`",
    "timm:resnet18/4": "widths such as /4",
    "broken_syntax:make": "SyntaxError: invalid syntax (broken_syntax.py, line 2), broken_syntax:make - see",
    "broken_need:make": "No module named 'no_such_thing_at_all', broken_need:make - see broken_need.py, line 2",
    ":make": "names no net",
    "my_own_nets:": "names no net",
}  # fmt: skip


@pytest.mark.parametrize("word", REFUSALS)
@pytest.mark.parametrize("call", [find_net, build, sketch])
def test_what_cannot_be_made_is_refused_in_one_line(word: str, call: Callable[[str], Any], home: Path) -> None:
    with pytest.raises(UsageError) as caught:
        sketch(word) if call is find_net and "factory" in REFUSALS[word] else call(word)
    told = str(caught.value)
    assert REFUSALS[word] in told and " - " in told and "\n" not in told and "\x1b" not in told
    assert caught.value.exit_code == 2


def test_sizes_and_options_are_checked(home: Path) -> None:
    for sizes, told in (((10**12, (1, 8, 8)), "too many"), ((0, (1, 8, 8)), "not a number of classes"),
                        ((5, (3, 10**6, 10**6)), "too large"), ((5, (3, 0, 8)), "not a shape")):  # fmt: skip
        with pytest.raises(UsageError, match=told):
            sketch("my_own_nets:make_net", *sizes)
    with pytest.raises(UsageError, match="has no option 'aux' - it takes folder"):
        build("my_own_nets:make_net", 5, (1, 8, 8), aux=True)
    with pytest.raises(ResourceError) as caught:
        build("my_own_nets:greedy")
    assert caught.value.exit_code == 5
    assert not has_option("my_own_nets:make_net", "aux") and is_foreign("a:b") and not is_foreign("vgg11/4")


def test_another_module_of_the_same_name_is_never_taken_for_it(home: Path) -> None:
    build("my_own_nets:make_net", 3, (1, 8, 8))
    other = home / "sub" / "my_own_nets.py"
    other.write_text("from torch import nn\ndef make_net(): return nn.Linear(2, 2)\n")
    with pytest.raises(UsageError, match="another module 'my_own_nets' is in use here"):
        build("my_own_nets:make_net", folder=str(other.parent))
    assert shapes(build("sub/my_own_nets.py:make_net")) == [(2, 2), (2,)]


def test_a_run_of_a_foreign_net_goes_on_and_loads_from_anywhere(
    small_data: Data, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = conviction.Recipe(epochs=2, batch_size=64, lr=0.01)
    for word in ("my_own_nets:Viewing", "sub/others.py:make"):
        folder, cut = tmp_path / word.partition(":")[2], tmp_path / "cut" / word.partition(":")[2]
        whole = conviction.fit(word, small_data, recipe, folder)
        assert whole.result["net"] == word and whole.top1 > 0.3 and not whole.recipe.channels_last
        events = fit_events(word, small_data, recipe, cut)
        assert any(isinstance(event, conviction.runs.Epoch) for event in itertools.islice(events, 20))
        events.close()
        again = conviction.fit(word, small_data, recipe, cut, resume=True)
        assert again.result["top1"] == whole.top1
        monkeypatch.chdir(tmp_path)
        loaded = conviction.load(folder)
        assert conviction.evaluate(loaded.net, small_data.test).top1 == whole.top1
        assert conviction.evaluate_run(loaded, small_data).top1 == whole.top1
        monkeypatch.chdir(home)
    monkeypatch.chdir(tmp_path)
    (home / "sub" / "others.py").unlink()
    for name in [name for name in sys.modules if name.startswith("others_")]:
        del sys.modules[name]
    with pytest.raises(WeightsError, match="the run's net cannot be built: no such file"):
        _ = conviction.load(folder).net


def test_a_fit_of_the_built_net_loads_again_too(small_data: Data, home: Path, tmp_path: Path) -> None:
    net = build("my_own_nets:make_net", 10, (1, 28, 28))
    run = conviction.fit(net, small_data, conviction.Recipe(epochs=1, lr=0.01), tmp_path / "run")
    assert conviction.evaluate(conviction.load(run.folder).net, small_data.test).top1 == run.top1


def test_code_that_came_with_a_run_is_not_run(small_data: Data, home: Path, tmp_path: Path) -> None:
    run = conviction.fit("my_own_nets:Viewing", small_data, conviction.Recipe(epochs=1, lr=0.01), tmp_path / "run")
    record = json.loads((run.folder / "run.json").read_text())
    (run.folder / "evil.py").write_text("raise SystemExit('it ran')")
    for word, options in (("evil:make", {"folder": str(run.folder)}), ("evil.py:make", {"folder": str(run.folder)}),
                          ("run/evil.py:make", {"folder": str(tmp_path)}), ("my_own_nets:Viewing", {})):  # fmt: skip
        record["sources"] |= {"net": word, "net_options": options}
        (run.folder / "run.json").write_text(json.dumps(record))
        with pytest.raises(WeightsError, match="only the run knows the place"):
            _ = conviction.load(run.folder).net


def test_images_too_small_are_enlarged_and_that_is_said(small_data: Data, home: Path, tmp_path: Path) -> None:
    (home / "needs_48.py").write_text(
        SOURCE.replace("5, 2", "9, 4").replace("num_classes):", "num_classes, image=(1, 48, 48)):")
    )
    made = conviction.assembly.assemble("needs_48:Deep", small_data, conviction.Recipe())
    assert made.data.image == (1, 48, 48)
    assert any("too small for needs_48:Deep: resized to 48x48" in note for note in made.notes)
    assert not made.fresh


def test_no_name_of_a_users_file_is_taken_for_a_net_of_ours(small_data: Data, home: Path) -> None:
    (home / "resnet.py").write_text(SOURCE)
    words = ("resnet.py:Viewing", "my_own_nets:Viewing")
    rates = [conviction.assembly.assemble(word, small_data, conviction.Recipe()).recipe.lr for word in words]
    assert rates[0] == rates[1]


def test_the_command_takes_them_and_prints_nothing_of_theirs(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    words = ("my_own_nets:make_net", "--image", "1x28x28", "--classes", "10", "--json")
    assert run_command(["show", *words]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["params"] == 4 * 9 + 4 + 4 * 784 * 10 + 10 and "noise on import" in err
    assert run_command(["plan", *words, "--device", "t4"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert (planned["params"], planned["num_classes"], planned["channels_last"]) == (31_410, 10, False)
    assert run_command(["plan", "my_own_nets:raising"]) == 2
    err = capsys.readouterr().err
    assert err.count("error: ") == 1 and "Traceback" not in err


def classifiers(monkeypatch: pytest.MonkeyPatch) -> tuple[types.ModuleType, types.ModuleType]:
    """Stand-ins for timm and torchvision with one net each; `calls` of each says what was asked of it."""

    class Small(nn.Module):
        def __init__(self, channels: int, classes: int) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.BatchNorm2d(channels) if channels == 3 else nn.Identity(),
                                      nn.Conv2d(channels, 6, 3, stride=2, padding=1, bias=False))  # fmt: skip
            self.head = nn.Linear(6, classes)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.stem(x).mean((2, 3)))

    timm, vision, models = (types.ModuleType(name) for name in ("timm", "torchvision", "torchvision.models"))
    timm.calls, models.calls = [], []

    def create_model(name: str, **options: Any) -> nn.Module:
        timm.calls.append((name, options))
        return Small(options["in_chans"], options["num_classes"])

    def get_model(name: str, **options: Any) -> nn.Module:
        models.calls.append((name, options))
        net = Small(3, options["num_classes"])
        net.stem[0] = nn.Identity()
        return net

    def no_weights(name: str) -> Any:
        raise ValueError(name)

    timm.create_model, timm.is_model = create_model, lambda name: name == "tiny_net"
    timm.list_models = lambda: ["tiny_net"]
    timm.get_pretrained_cfg = lambda name, allow_unregistered: types.SimpleNamespace(input_size=(3, 64, 64))
    models.get_model, models.list_models, models.get_model_weights = get_model, lambda module: ["small_net"], no_weights
    for module in (timm, vision, models):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return timm, models


def test_timm_and_torchvision_nets_are_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    timm, models = classifiers(monkeypatch)
    assert build("timm:tiny_net", 5, (1, 9, 9))(torch.zeros(2, 1, 9, 9)).shape == (2, 5)
    assert timm.calls[-1] == ("tiny_net", {"pretrained": False, "num_classes": 5, "in_chans": 1})
    assert find_net("timm:tiny_net").image == (3, 64, 64) and find_net("torchvision:small_net").image == (3, 224, 224)
    net = build("torchvision:small_net", 5, (1, 9, 9))
    assert models.calls[-1] == ("small_net", {"weights": None, "num_classes": 5})
    assert repr(net.stem[1]) == repr(nn.Conv2d(1, 6, 3, stride=2, padding=1, bias=False))
    assert net(torch.zeros(2, 1, 9, 9)).shape == (2, 5)
    assert build("torchvision:small_net", 5, (3, 9, 9)).stem[1].in_channels == 3
    assert sketch("timm:tiny_net").head.weight.is_meta and sketch("timm:tiny_net").head.out_features == 1000
    refusals = {"timm:tiny_nett": "did you mean tiny_net?", "timm:hf-hub:a/b": "has a /",
                "timm:x:tiny_net": "timm has no net", "torchvision:small": "did you mean small_net?"}  # fmt: skip
    for word, told in refusals.items():
        with pytest.raises(UsageError) as caught:
            build(word)
        assert told in str(caught.value)


def test_a_rebuilt_first_convolution_is_said(monkeypatch: pytest.MonkeyPatch, small_data: Data) -> None:
    classifiers(monkeypatch)
    made = conviction.assembly.assemble("torchvision:small_net", small_data, conviction.Recipe())
    assert any("its first convolution was drawn anew for 1" in note for note in made.notes)
    assert made.sources.net == "torchvision:small_net" and made.sources.net_options == {}
    made = conviction.assembly.assemble("timm:tiny_net", small_data, conviction.Recipe())
    assert not any("anew" in note for note in made.notes)


def test_packages_that_are_missing_or_broken_are_told(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    for name in ("timm", "torchvision"):
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.delitem(sys.modules, f"{name}.models", raising=False)
        (home / f"{name}.py").write_text("raise RuntimeError('operator torchvision::nms\\ndoes not exist')")
    with pytest.raises(ConvictionError) as caught:
        build("timm:resnet18")
    assert "timm" in str(caught.value) and caught.value.exit_code == 2
    monkeypatch.delitem(sys.modules, "timm")
    monkeypatch.syspath_prepend(str(home))
    with pytest.raises(UsageError, match="timm cannot be imported: RuntimeError: operator torchvision::nms does not"):
        build("timm:resnet18")


def test_neither_package_is_imported_before_it_is_named() -> None:
    sources = [path.read_text() for path in Path(conviction.__file__).parent.rglob("*.py")]
    assert sources and not [each for each in sources if re.search(r"^\s*(import|from) (timm|torchvision)", each, re.M)]
