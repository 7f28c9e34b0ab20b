"""Repairs of pairs, choices, augmentation and budgets: which lines go, which come, and what is left alone."""

import difflib

import pytest

from conviction.diagnosis.reading.source import read_source
from conviction.diagnosis.repairs.fixes import fix_for
from conviction.findings.records import Finding

HEAD = """\
import random
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
store = np.load("data.npz")
train_images, train_labels = store["x_train"], store["y_train"]
"""
LOOP = """\
net = nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
criterion = nn.CrossEntropyLoss()
x = torch.from_numpy(train_images).float() / 255
y = torch.from_numpy(train_labels).long()
"""
STEP = """\
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
"""
BATCHES = (
    """\
for epoch in range(8):
    order = torch.randperm(len(x))
    for start in range(0, len(x), 64):
        pick = order[start:start + 64]
        loss = criterion(net(x[pick]), y[pick])
"""
    + STEP
)
LOADED = (
    """\
loader = DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True)
for epoch in range(8):
    for step, (images, labels) in enumerate(loader):
        loss = criterion(net(images), labels)
"""
    + STEP
)
AUGMENTED = """\
class Photos(Dataset):
    def __init__(self, images, labels):
        self.images, self.labels = images, labels
    def __len__(self):
        return len(self.images)
    def __getitem__(self, index):
        image = self.images[index] / 255.0
        return torch.from_numpy(self.augment(image)).float(), self.labels[index]
    def augment(self, image):
        if random.random() < 0.5:
            image = np.fliplr(image)
        OPERATION
"""
CASES = {
    "images shuffled in place": (
        "labels-shuffled",
        HEAD + "np.random.shuffle(train_images)\n" + LOOP + LOADED,
        {"- np.random.shuffle(train_images)"},
    ),
    "images alone permuted": (
        "labels-shuffled",
        HEAD + LOOP + "x = x[torch.randperm(len(x))]\n" + BATCHES,
        {"- x = x[torch.randperm(len(x))]"},
    ),
    "labels in their own order": (
        "labels-shuffled",
        HEAD + LOOP + BATCHES.replace("y[pick]", "y[start:start + 64]"),
        {
            "-         loss = criterion(net(x[pick]), y[start:start + 64])",
            "+         loss = criterion(net(x[pick]), y[pick])",
        },
    ),
    "a few of most classes": (
        "class-imbalance",
        HEAD
        + "keep = (train_labels == 3) | (np.arange(len(train_labels)) % 45 == 0)\n"
        + "train_images, train_labels = train_images[keep], train_labels[keep]\n"
        + LOOP
        + LOADED,
        {"- train_images, train_labels = train_images[keep], train_labels[keep]"},
    ),
    "noise above the signal": (
        "augmentation-destroys",
        HEAD
        + AUGMENTED.replace("OPERATION", "return image + np.random.normal(0, 4.0, image.shape)")
        + LOOP
        + LOADED.replace("TensorDataset(x, y)", "Photos(train_images, train_labels)"),
        {"-         return image + np.random.normal(0, 4.0, image.shape)", "+         return image"},
    ),
    "turned and covered": (
        "augmentation-destroys",
        HEAD
        + AUGMENTED.replace(
            "OPERATION",
            "image = np.rot90(image, random.randint(0, 3))\n"
            "        return np.where(np.random.rand(28, 28) < 0.9, np.random.rand(28, 28), image)",
        )
        + LOOP
        + LOADED.replace("TensorDataset(x, y)", "Photos(train_images, train_labels)"),
        {
            "-         image = np.rot90(image, random.randint(0, 3))",
            "-         return np.where(np.random.rand(28, 28) < 0.9, np.random.rand(28, 28), image)",
            "+         return image",
        },
    ),
    "ends after a few batches": (
        "too-few-steps",
        HEAD + LOOP + LOADED + "        if step > 5:\n            break\n",
        {"-         if step > 5:", "-             break"},
    ),
    "few steps by name": (
        "too-few-steps",
        HEAD + LOOP + "step, max_steps = 0, 8\n" + LOADED.replace("for step, (images, labels) in enumerate(loader)",
        "for images, labels in loader") + "        step += 1\n        if step >= max_steps:\n            break\n",
        {"- step, max_steps = 0, 8", "+ step, max_steps = 0, 1000"},
    ),
    "biases far below": (
        "dead-relu",
        HEAD + LOOP + "for layer in net:\n    if isinstance(layer, nn.Linear):\n"
        "        nn.init.constant_(layer.bias, -3.0)\n" + LOADED,
        {"-         nn.init.constant_(layer.bias, -3.0)", "+         nn.init.constant_(layer.bias, 0.0)"},
    ),
    "divided by a deviation of nothing": (
        "non-finite",
        HEAD + "def scaled(t):\n    return (t - t.mean(0)) / t.std(0)\n" + LOOP + "x = scaled(x)\n" + LOADED,
        {"-     return (t - t.mean(0)) / t.std(0)", "+     return (t - t.mean(0)) / (t.std(0) + 1e-6)"},
    ),
}  # fmt: skip
LEFT_ALONE = {
    "both in one order": (
        "labels-shuffled",
        HEAD + LOOP + "order = torch.randperm(len(x))\nx, y = x[order], y[order]\n" + LOADED,
    ),
    "stops where it no longer gets better": (
        "too-few-steps",
        HEAD + LOOP + LOADED + "    if loss.item() < 1e-3:\n        break\n",
    ),
    "all images": ("class-imbalance", HEAD + LOOP + LOADED),
    "no augmentation": ("augmentation-destroys", HEAD + LOOP + LOADED),
}


def fixed(cause: str, text: str) -> str | None:
    return fix_for(cause, read_source(text, "train.py"), text, Finding(cause, "seen", "expected", "remedy"))


@pytest.mark.parametrize(("cause", "text", "changed"), CASES.values(), ids=CASES)
def test_exactly_the_faulty_lines_are_changed(cause: str, text: str, changed: set[str]) -> None:
    new = fixed(cause, text)
    assert new is not None
    assert {line for line in difflib.ndiff(text.splitlines(), new.splitlines()) if line[:2] in {"- ", "+ "}} == changed


@pytest.mark.parametrize(("cause", "text"), LEFT_ALONE.values(), ids=LEFT_ALONE)
def test_what_is_right_is_left_alone(cause: str, text: str) -> None:
    assert fixed(cause, text) is None


def test_a_width_is_changed_where_it_is_written() -> None:
    net = "class Net(nn.Module):\n    def __init__(self, classes):\n        super().__init__()\n"
    net += "        self.last = nn.Linear(784, classes)\n"
    net += "    def forward(self, x):\n        return self.last(x.flatten(1))\n"
    text = HEAD + net + LOOP.replace(LOOP.splitlines()[0], "net = Net(classes=5)") + LOADED
    said = Finding("classes-mismatch", "label 9 does not fit 5 outputs", "10 outputs or more", "nn.Linear(..., 10)")
    new = fix_for("classes-mismatch", read_source(text, "train.py"), text, said)
    assert new == text.replace("classes=5", "classes=10")


def test_labels_that_count_from_one_are_shifted_after_an_error() -> None:
    said = Finding("labels-malformed", "label 10 does not fit 10 outputs", "whole numbers from 0 to 9",
                   "subtract 1: the labels count from one")  # fmt: skip
    text = HEAD + LOOP + LOADED
    new = fix_for("labels-malformed", read_source(text, "train.py"), text, said)
    assert new is not None and "labels = labels - 1" in new
