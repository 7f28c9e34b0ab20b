"""The command: JSON and nothing else on stdout, one line for every refusal, the promised exit codes, quick to start."""

import io
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

import conviction
from conviction.cli import run
from conviction.cli.app import app, parse_image
from conviction.errors import UsageError
from conviction.nets import NETS

VERBS = ("nets", "show", "data", "plan", "lr", "fit", "evaluate", "predict", "explain-oom", "diagnose")


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = run([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def refused(capsys: pytest.CaptureFixture[str], code: int, *arguments: object) -> str:
    got, out, err = call(capsys, *arguments)
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert got == code, err
    assert out == "" and len(lines) == 1 and "Traceback" not in err
    assert " - " in lines[0], "says what to do"
    return lines[0]


def test_help_of_every_verb_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "--help")
    assert code == 0 and all(verb in out for verb in VERBS)
    for verb in VERBS:
        code, out, _ = call(capsys, verb, "--help")
        assert code == 0 and f"Example: conviction {verb}" in out
        assert len({word for word in out.split() if word.startswith("--")}) <= 20
        assert out.count("any other knob") <= 1


def test_start_up_needs_no_torch() -> None:
    for arguments in (["--help"], ["nets"], ["fit", "--help"], ["fti"]):
        program = (f"import sys; from conviction.cli import run; run({arguments!r}); "
                   "sys.exit(3 if 'torch' in sys.modules else 0)")  # fmt: skip
        assert subprocess.run([sys.executable, "-c", program], capture_output=True).returncode == 0, arguments


def test_nets_tells_every_net(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = call(capsys, "nets", "--json")
    rows = json.loads(out)["rows"]
    assert [row["name"] for row in rows] == list(NETS)
    assert set(rows[0]) == {"name", "paper", "year", "params", "macs", "image", "min_image", "weights"}
    _, out, _ = call(capsys, "nets")
    assert all(name in out for name in NETS)


def test_show_adds_up(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "show", "lenet", "--json")
    fields = json.loads(out)
    assert code == 0 and fields["params"] == 61_706
    assert fields["params"] == sum(layer["params"] for layer in fields["layers"])
    code, out, _ = call(capsys, "show", "vgg11/4", "--image", "1x224x224", "--classes", "10")
    assert code == 0 and "43,093,322" in out


OUT_OF_MEMORY = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.53 GiB. GPU 0 has a total capacity of 14.75 GiB "
    "of which 318.06 MiB is free. Including non-PyTorch memory, this process has 14.43 GiB memory in use. Of the "
    "allocated memory 12.11 GiB is allocated by PyTorch, and 1.98 GiB is reserved by PyTorch but unallocated."
)


@pytest.mark.parametrize("flags", [[], ["--net", "lenet", "--batch-size", "4"]])
def test_explain_oom_reads_an_argument_a_file_and_standard_input_alike(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str]
) -> None:
    file = tmp_path / "error.txt"
    file.write_text(OUT_OF_MEMORY)
    told = [call(capsys, "explain-oom", text, *flags, "--json") for text in (OUT_OF_MEMORY, file)]
    for words in (["-", *flags], [*flags, "-"]):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(OUT_OF_MEMORY.encode())))
        told.append(call(capsys, "explain-oom", *words, "--json"))
    assert all(code == 0 for code, _, _ in told), told
    assert len({out for _, out, _ in told}) == 1 and json.loads(told[0][1])["verdict"]


def test_fit_evaluate_predict(capsys: pytest.CaptureFixture[str], photos: Path, tmp_path: Path) -> None:
    out_folder = tmp_path / "run"
    code, out, err = call(
        capsys, "fit", "lenet-bn", photos, "--epochs", 3, "--bs", 4, "--lr0=0.01", "--set", "flip=false",
        "--out", out_folder, "--json",
    )  # fmt: skip
    assert code == 0, err
    result = json.loads(out)
    assert out.count("\n") == 1 and result["run"] == str(out_folder) and result["batch_size"] == 4
    assert "note: --bs is --batch-size here" in err and "epoch 3/3" in err
    code, out, _ = call(capsys, "evaluate", out_folder, "--json")
    measured = json.loads(out)
    assert code == 0 and measured["top1"] == pytest.approx(result["top1"])
    assert {"top1", "top5", "n", "interval", "per_class", "confusion"} <= set(measured)
    code, out, _ = call(capsys, "predict", out_folder, photos / "dark", str(photos / "bright" / "1*.png"), "--json")
    rows = json.loads(out)["rows"]
    assert code == 0 and len(rows) == 12 + 3
    assert set(rows[0]) == {"file", "label", "probability", "top"} and rows[0]["label"] in ("bright", "dark")
    code, out, _ = call(capsys, "data", photos, "--json")
    audit = json.loads(out)
    assert code == 0 and audit["images"] == 24 and audit["classes"] == ["bright", "dark"]
    assert {"classes", "counts", "images", "broken", "duplicates", "leaks", "warnings"} <= set(audit)
    refused(capsys, 2, "predict", out_folder, photos, "--top", 0)
    (photos / "dark" / "broken.png").write_bytes(b"nothing")
    code, out, _ = call(capsys, "predict", out_folder, photos / "dark", "--json")
    broken = [row for row in json.loads(out)["rows"] if "error" in row]
    assert code == 0 and [Path(row["file"]).name for row in broken] == ["broken.png"] and broken[0]["label"] is None
    assert "broken.png" in refused(capsys, 3, "predict", out_folder, photos / "dark" / "broken.png")
    (photos / "dark" / "broken.png").unlink()
    for verb, words in (("evaluate", [out_folder]), ("predict", [out_folder, photos]), ("data", [photos])):
        code, out, _ = call(capsys, verb, *words)
        assert code == 0 and out.strip() and not out.startswith("{")


def test_a_csv_of_pixels_is_data_too(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    generator = random.Random(0)
    lines = ["label," + ",".join(f"pixel{n}" for n in range(784))]
    for number in range(60):
        level = 200 * (number % 2)
        lines.append(f"{number % 2}," + ",".join(str(level + generator.randrange(50)) for _ in range(784)))
    (tmp_path / "train.csv").write_text("\n".join(lines) + "\n")
    code, out, err = call(
        capsys, "fit", "lenet-bn", tmp_path / "train.csv", "--epochs", 2, "--out", tmp_path / "run", "--json"
    )
    assert code == 0, err
    assert json.loads(out)["top1"] > 0.9
    code, out, _ = call(capsys, "data", tmp_path / "train.csv", "--json")
    assert code == 0 and json.loads(out)["images"] == 60


def test_bad_words_are_refused_in_one_line(capsys: pytest.CaptureFixture[str], photos: Path, tmp_path: Path) -> None:
    run_folder = tmp_path / "run"
    fit = ("fit", "lenet", photos, "--out", run_folder)
    assert "did you mean vgg1" in refused(capsys, 2, "fit", "vgg1", photos)
    assert "at least 12x12" in refused(capsys, 2, *fit, "--image-size", 8)
    assert "did you mean fashion-mini" in refused(capsys, 3, "fit", "lenet", "fashion-mini2")
    assert "lr = nan" in refused(capsys, 2, *fit, "--lr", "nan")
    assert "did you mean lr" in refused(capsys, 2, *fit, "--set", "lrr=1")
    assert "--epochs" in refused(capsys, 2, *fit, "--epoch", 3)
    assert "--epochs" in refused(capsys, 2, *fit, "--epochs", "many")
    refused(capsys, 2, *fit, "--resume", "--set", "mixup")
    refused(capsys, 2, "fit", "lenet", photos, "--resume")
    refused(capsys, 2, "fti")
    refused(capsys, 2, "fit")
    refused(capsys, 2, "show", "lenet", "--image", "28x28")
    refused(capsys, 2, *fit, "--device", "warp")
    refused(capsys, 4, "evaluate", tmp_path / "nowhere")
    refused(capsys, 4, "predict", photos, photos)
    refused(capsys, 4, "evaluate", "x" * 300)
    refused(capsys, 3, "data", "x" * 300)
    refused(capsys, 5, *fit[:3], "--out", "x" * 300)
    refused(capsys, 2, "data", "")
    refused(capsys, 2, *fit, "--device", "cuda:999")
    bad = tmp_path / "bad.toml"
    bad.write_text("lr = nan\n")
    assert "recipe key lr" in refused(capsys, 2, *fit, "--recipe", bad)
    bad.write_text("learning = 1\n")
    assert "bad.toml" in refused(capsys, 2, *fit, "--recipe", bad)
    assert not run_folder.exists(), "nothing was begun"


def test_broken_folders_are_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], photos: Path, tmp_path: Path
) -> None:
    def fit(folder: Path) -> str:
        return refused(capsys, 3, "fit", "lenet-bn", folder, "--out", tmp_path / "run", "--epochs", 1)

    picture = (photos / "dark" / "1.png").read_bytes()
    (photos / "dark" / "cut.png").write_bytes(picture[: len(picture) // 2])
    (photos / "bright" / "letter.jpg").write_text("this is no picture")
    line = fit(photos)
    assert "cut.png" in line and "letter.jpg" in line
    code, out, _ = call(capsys, "data", photos, "--json")
    assert code == 0 and len(json.loads(out)["broken"]) == 2
    (photos / "dark" / "cut.png").unlink()
    (photos / "bright" / "letter.jpg").unlink()
    (photos / "empty").mkdir()
    assert "empty" in fit(photos)
    (photos / "empty").rmdir()
    for file in (photos / "bright").iterdir():
        file.unlink()
    (photos / "bright").rmdir()
    assert "one class only (dark)" in fit(photos)
    fit(tmp_path / "nowhere")
    assert not (tmp_path / "run").exists()


def test_a_bug_of_ours_is_one_line_too(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conviction, "audit", lambda *a, **k: 1 / 0)
    line = refused(capsys, 1, "data", "fashion-mini")
    assert "ZeroDivisionError" in line and "CONVICTION_DEBUG" in line


def test_interrupt_leaves_with_130(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*a: object, **k: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(conviction, "audit", interrupted)
    refused(capsys, 130, "data", "fashion-mini")


def test_a_reader_that_leaves_is_no_error() -> None:
    command = f"{sys.executable} -m conviction nets | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""


def test_a_disk_that_fills_up_is_one_line(photos: Path, tmp_path: Path) -> None:
    """The real thing: the system lets no file grow beyond 40 kB, and the first checkpoint is larger."""
    program = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000)); "
        f"from conviction.cli import run; sys.exit(run(['fit', 'lenet-bn', {str(photos)!r}, '--epochs', '1', "
        f"'--out', {str(tmp_path / 'run')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 5 and len(errors) == 1 and "Traceback" not in done.stderr, done.stderr
    assert "file too large" in errors[0] and "checkpoints" in errors[0] and " - " in errors[0]
    assert not list((tmp_path / "run").rglob("*.tmp"))


def test_closed_streams_and_narrow_encodings_are_no_bugs(photos: Path, tmp_path: Path) -> None:
    (photos / "dark").rename(photos / "dunkel-ü-😀")
    python = f"{sys.executable} -m conviction"
    for command, code in (
        (f"{python} nets >&-", 0),
        (f"{python} fit vgg1 x --json 2>&-", 2),
        (f"{python} nets >/dev/full", 5),
        (f"PYTHONIOENCODING=ascii {python} data {photos}", 0),
    ):
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
        assert done.returncode == code and "bug" not in done.stderr, (command, done.stderr)
        assert "error:" not in done.stdout


def test_parse_image() -> None:
    assert parse_image("3x224X224") == (3, 224, 224)
    for text in ("", "3x", "0x2x2", "ax2x2", "3x224", "3x2x2x2", "\uff13x2x2"):
        with pytest.raises(UsageError, match="--image"):
            parse_image(text)


def test_every_verb_is_tested_here() -> None:
    registered = [name for name in app if not name.startswith("-")]
    assert sorted(registered) == sorted(VERBS)


def test_lr_proves_a_rate_and_draws_it(capsys: pytest.CaptureFixture[str], photos: Path, tmp_path: Path) -> None:
    words = ("lr", "lenet-relu/4", photos, "--optimizer", "sgd", "--seed", 3)
    code, out, _ = call(capsys, *words, "--json", "--out", tmp_path / "lr.svg")
    fields = json.loads(out)
    assert code == 0
    assert {"lr", "low", "high", "proved", "refused", "optimizer", "seconds"} <= set(fields)
    assert set(fields["proved"]) == {"lr", "loss_start", "loss_end"}
    assert fields["refused"] is None
    assert (tmp_path / "lr.svg").read_text().startswith("<svg")
    code, out, _ = call(capsys, *words)
    assert code == 0
    assert f"lr {fields['lr']:g} for lenet-relu/4" in out


def test_lr_that_refuses_exits_6_with_its_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ("lr", "nin-small/8", "fashion-mini", "--set", "init=pytorch", "--optimizer", "sgd", "--batch-size", 16)
    code, out, err = call(capsys, *words, "--json")
    assert code == 6
    assert json.loads(out)["lr"] is None
    assert json.loads(out)["refused"]["cause"] == "init-collapse"
    assert set(json.loads(out)["refused"]) == {"cause", "why"}
    assert err.splitlines()[-1].startswith("error: no learning rate helps: init-collapse, nin-small/8 - ")


def test_lr_says_that_a_given_rate_is_left_aside(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def find_lr(net: str, data: str, recipe: conviction.Recipe, **_: object) -> None:
        asked.append(recipe)
        raise UsageError("enough", "", "stop")

    monkeypatch.setattr(conviction, "find_lr", find_lr)
    note = "note: lr is what is looked for: the given one is left aside"
    for words, told in ((("--set", "lr=0.5"), True), (("--set", "mixup=0.2"), False)):
        code, out, err = call(capsys, "lr", "lenet", "fashion-mini", *words)
        assert (code, out) == (2, "") and (note in err.splitlines()) == told
        assert asked.pop().lr is None
