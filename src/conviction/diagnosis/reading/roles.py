"""What a name says of what it holds: images or labels, for training or for a test."""

from __future__ import annotations

import ast
import re

from conviction.diagnosis.reading.syntax import last_name

_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_IMAGES = frozenset({"x", "xs", "xb", "image", "images", "img", "imgs", "input", "inputs", "pixels", "features", "pics",
                     "pictures", "photos", "digits"})  # fmt: skip
_LABELS = frozenset({"y", "ys", "yb", "label", "labels", "lab", "labs", "lbl", "lbls", "target", "targets"})
_TRAIN = frozenset({"train", "training", "tr", "trn", "fit"})
_TEST = frozenset({"test", "testing", "te", "tst", "eval", "evaluation", "holdout", "heldout"})
_VALID = frozenset({"val", "valid", "validation", "dev", "v", "va"})
_SHORT = re.compile(r"^([xy])(t|te|ts|test|v|va|val|valid|tr|trn|train)$|^(te|ts|test|va|val|valid|tr|train)([xy])$")


def parts_of(name: str) -> list[str]:
    """Return the words of a name in lower case: `self.xTrain_all` has x, train and all."""
    found: list[str] = []
    for word in (part.lower() for part in _PARTS.findall(name.rpartition(".")[2])):
        short = _SHORT.match(word)
        found += [p for p in short.groups() if p] if short else [word]
    return found


def role_of(name: str) -> str:
    """Return `images`, `labels`, or an empty string."""
    words = set(parts_of(name))
    if words & _LABELS:
        return "labels"
    return "images" if words & _IMAGES else ""


def split_of(name: str) -> str:
    """Return `train`, `test` or `valid`, as a name says, else an empty string."""
    words = parts_of(name)
    if any(word in _TRAIN for word in words):
        return "train"
    if any(word in _TEST or (word == "t" and len(words) > 1) for word in words):
        return "test"
    return "valid" if any(word in _VALID and (len(word) > 1 or len(words) > 1) for word in words) else ""


def key_of(name: str) -> str:
    """Return what images and their labels have in common in their names: `train` of train_x and of train_y."""
    words = [word for word in parts_of(name) if word not in _IMAGES | _LABELS]
    return "-".join(sorted("train" if w in _TRAIN else "test" if w in _TEST or w == "t" else w for w in words))


def called(node: ast.AST | None) -> str:
    """Return the name under which an expression goes: a variable's, an attribute's, `x_test` of `data["x_test"]`."""
    if isinstance(node, ast.Subscript):
        inner = node.slice
        return inner.value if isinstance(inner, ast.Constant) and isinstance(inner.value, str) else called(node.value)
    if isinstance(node, ast.Call):
        words = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        if words:
            return words[-1] if words[-1].isidentifier() else ""
        if isinstance(node.func, ast.Attribute) and not node.args:
            return called(node.func.value)
        return called(node.args[0]) if len(node.args) == 1 else ""
    if isinstance(node, ast.BinOp):
        return called(node.left) or called(node.right)
    return last_name(node) if node is not None else ""
