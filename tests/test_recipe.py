"""Recipe: every knob checked, TOML out and in without loss, and refusals that name the key and what it takes."""

from __future__ import annotations

import dataclasses
import datetime
import math
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conviction.errors import UsageError
from conviction.recipe import Recipe, format_toml, parse_setting, parse_toml, read_recipe

FIELDS = {field.name: field for field in dataclasses.fields(Recipe)}
OPTIONAL = [name for name, field in FIELDS.items() if str(field.type).endswith("| None")]


def values_of(field: dataclasses.Field[Any]) -> st.SearchStrategy[Any]:
    """Every value that a knob may take."""
    data, kind = field.metadata, str(field.type).removesuffix(" | None")
    if data["choices"]:
        values: st.SearchStrategy[Any] = st.sampled_from(data["choices"])
    elif kind == "int":
        values = st.integers(data["low"], data["high"])
    elif kind == "float":
        values = st.floats(data["low"], data["high"])
    else:
        values = st.booleans() if kind == "bool" else st.text()
    return st.none() | values if field.name in OPTIONAL else values


recipes = st.builds(Recipe, **{name: values_of(field) for name, field in FIELDS.items()})


@settings(deadline=None)
@given(recipes)
def test_toml_round_trip(recipe: Recipe) -> None:
    assert Recipe(**parse_toml(format_toml(recipe))) == recipe


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["net", "data", "note"]), st.text(st.characters(exclude_categories=()))))
def test_run_table_is_told_and_left_aside(run: dict[str, str]) -> None:
    text = format_toml(Recipe(), run).encode().decode()
    told = tomllib.loads(text).get("run", {})
    assert told == {key: value.encode("utf-8", "backslashreplace").decode() for key, value in run.items()}
    assert parse_toml(text) == parse_toml(format_toml(Recipe()))


def test_toml_says_why_and_what_is_open() -> None:
    text = format_toml(Recipe(lr=0.05, flip=True), {"classes": ("a", 'b"'), "data": None, "n": 3})
    lines = dict(line.split(" = ", 1) for line in text.splitlines() if " = " in line)
    assert lines["lr"].split() == ["0.05", "#", "peak", "learning", "rate"]
    assert lines["flip"].startswith("true ")
    assert lines["# epochs"].startswith("undecided")
    assert tomllib.loads(text)["run"] == {"classes": ["a", 'b"'], "n": 3}
    assert all(field.metadata["reason"] in text for field in FIELDS.values())


@pytest.mark.parametrize("name", [name for name, field in FIELDS.items() if field.metadata["low"] is not None])
def test_bounds_hold_and_are_told(name: str) -> None:
    field = FIELDS[name]
    low, high = field.metadata["low"], field.metadata["high"]
    for inside in (low, high):
        assert getattr(Recipe(**{name: inside}), name) == inside
    for outside in (low - 1, high * 2 + 1, math.nan, math.inf, -math.inf, 10**400, -(10**400)):
        with pytest.raises(UsageError) as refusal:
            Recipe(**{name: outside})
        assert f"recipe key {name}" in str(refusal.value)
        if not isinstance(outside, float):
            assert f"{name} = {outside} is out of range" in str(refusal.value)
            assert f"use a number from {low:g} to {high:g}" in str(refusal.value)


WRONG = {
    "int": [True, 1.0, "1", [1]],
    "float": [False, "0.1", [0.1], 1j],
    "bool": [1, 0, "true"],
    "str": [1, True, b"a"],
}


@pytest.mark.parametrize("name", FIELDS)
def test_wrong_types_are_refused_by_name(name: str) -> None:
    field = FIELDS[name]
    wrong = WRONG[str(field.type).removesuffix(" | None")]
    for value in wrong if name in OPTIONAL else [*wrong, None]:
        with pytest.raises(UsageError) as refusal:
            Recipe(**{name: value})
        assert f"recipe key {name} - use" in str(refusal.value)
        assert f"{name} = " in str(refusal.value)


@pytest.mark.parametrize("name", [name for name, field in FIELDS.items() if field.metadata["choices"]])
def test_unknown_choices_are_refused_with_the_known(name: str) -> None:
    with pytest.raises(UsageError) as refusal:
        Recipe(**{name: "sg\x1bd"})
    assert f"use one of {', '.join(FIELDS[name].metadata['choices'])}" in str(refusal.value)
    assert "\x1b" not in str(refusal.value)


def test_messages() -> None:
    def refusal(**knobs: Any) -> str:
        with pytest.raises(UsageError) as caught:
            Recipe(**knobs)
        return str(caught.value)

    assert refusal(lr="fast") == (
        "lr = 'fast' is not a number, recipe key lr - use a number from 0 to 100"
    )  # fmt: skip
    assert refusal(optimizer="adam") == (
        "optimizer = 'adam' is unknown (did you mean adamw?), recipe key optimizer - use one of sgd, adamw"
    )
    assert refusal(flip=1) == "flip = 1 is not true or false, recipe key flip - use true or false"
    assert refusal(epochs=0) == "epochs = 0 is out of range, recipe key epochs - use a number from 1 to 100000"


def test_whole_numbers_become_floats_where_floats_are_meant() -> None:
    assert type(Recipe(lr=1).lr) is float
    assert Recipe(lr=1) == Recipe(lr=1.0)


def test_replace_refuses_unknown_keys() -> None:
    assert Recipe().replace(lr=0.1, epochs=3) == Recipe(lr=0.1, epochs=3)
    with pytest.raises(UsageError, match=r"unknown recipe key 'epoch' \(did you mean epochs\?\)"):
        Recipe().replace(epoch=3)
    with pytest.raises(UsageError, match="lr = -1 is out of range"):
        Recipe().replace(lr=-1)


def test_to_dict_has_every_knob() -> None:
    assert list(Recipe(lr=0.1).to_dict()) == list(FIELDS)
    assert Recipe(**Recipe(lr=0.1).to_dict()) == Recipe(lr=0.1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr == 3", "not TOML"),
        ("lr = 1\nlr = 2", "not TOML"),
        ("seed = " + "9" * 5000, "not TOML"),
        ("lr = " + "[" * 5000, "not TOML"),
        ("learning_rate = 1", "unknown recipe key 'learning_rate'"),
        ("[train]\nlr = 1", "unknown recipe key 'train'"),
        ('"a\\u001bb" = 1', "unknown recipe key 'a\\\\x1bb'"),
    ],
)
def test_bad_toml_is_one_line_with_its_file(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as refusal:
        read_recipe(path)
    assert message.replace("\\\\", "\\") in str(refusal.value).replace("\\\\", "\\")
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_recipe_files(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(b"\xef\xbb\xbf" + format_toml(Recipe(seed=7), {"net": "lenet"}).encode())
    assert read_recipe(path) == Recipe(seed=7)
    path.write_bytes(b"# \xff\n")
    for unreadable in (path, tmp_path, tmp_path / "none.toml", Path("a\0b")):
        with pytest.raises(UsageError, match="the recipe cannot be read"):
            read_recipe(unreadable)


@pytest.mark.parametrize(
    ("setting", "key", "value"),
    [
        ("lr=0.05", "lr", 0.05),
        ("lr=1e-3", "lr", 1e-3),
        ("lr=.05", "lr", 0.05),
        ("epochs=3", "epochs", 3),
        ("batch-size = 64", "batch_size", 64),
        ("flip=true", "flip", True),
        ("optimizer=adamw", "optimizer", "adamw"),
        ('optimizer="adamw"', "optimizer", "adamw"),
        ("device=cuda:1", "device", "cuda:1"),
        ("device=", "device", ""),
        ("device=a=b", "device", "a=b"),
        ("seed=1979-05-27", "seed", datetime.date(1979, 5, 27)),  # refused by the recipe, as no whole number
        ("lr=" + "[" * 5000, "lr", "[" * 5000),
        ("lr=1\nepochs=3", "lr", 1),
    ],
)
def test_settings(setting: str, key: str, value: Any) -> None:
    assert parse_setting(setting) == (key, value)
    assert type(parse_setting(setting)[1]) is type(value)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("lr", "--set 'lr' has no value - write it as --set key=value"),
        ("epoch=3", "unknown recipe key 'epoch' (did you mean epochs?), --set - see"),
        ("=3", "unknown recipe key '', --set - see"),
    ],
)
def test_bad_settings(setting: str, message: str) -> None:
    with pytest.raises(UsageError) as refusal:
        parse_setting(setting)
    assert message in str(refusal.value)


@settings(deadline=None)
@given(st.text())
def test_no_setting_is_a_crash(value: str) -> None:
    key, parsed = parse_setting(f"device={value}")
    assert key == "device"
    if isinstance(parsed, str):
        return
    try:
        expected = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        expected = float(value)
    assert parsed == expected or (parsed != parsed and expected != expected)
