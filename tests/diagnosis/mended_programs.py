# ruff: noqa: E501 - lines of programs are as their writers left them
"""Programs for the lines at which faults are mended: (kind of note, text) and (cause, text), marked `#!`; look-alikes."""

import re

ARRAYS = """\
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset, Subset, ConcatDataset
torch.manual_seed(0)
data = np.load("fashion.npz")
x = torch.from_numpy(data["x_train"]).float()[:, None] / 255
y = torch.from_numpy(data["y_train"]).long()
xt = torch.from_numpy(data["x_test"]).float()[:, None] / 255
yt = torch.from_numpy(data["y_test"]).long()
"""
NET = """\
net = nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))
opt = torch.optim.SGD(net.parameters(), lr=0.1)
"""
LOOP = """\
for epoch in range(6):
    order = torch.randperm(len(x))
    for start in range(0, len(x), 64):
        idx = order[start:start + 64]
        xb, yb = x[idx], y[idx]
        loss = F.cross_entropy(net(xb), yb)
        opt.zero_grad()
        loss.backward()
        opt.step()
"""
LOADED = """\
train_set, test_set = TensorDataset(x, y), TensorDataset(xt, yt)
train_loader = DataLoader(train_set, 64, shuffle=True)
test_loader = DataLoader(test_set, 500)
"""
EPOCHS = """\
for epoch in range(6):
    net.train()
    for step, (images, labels) in enumerate(train_loader):
        loss = F.cross_entropy(net(images), labels)
        opt.zero_grad()
        loss.backward()
        opt.step()
"""
TESTED = """\
net.eval()
right = seen = 0
with torch.no_grad():
    for images, labels in test_loader:
        right += (net(images).argmax(1) == labels).sum().item()
        seen += len(labels)
print("accuracy", right / seen)
"""
TRAINER = """\
class Trainer:
    def __init__(self, net, train_loader, test_loader, lr=0.1, epochs=5):
        self.net, self.train_loader, self.test_loader = net, train_loader, test_loader
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=lr)
        self.criterion = nn.CrossEntropyLoss()
        self.epochs = epochs

    def fit(self):
        for epoch in range(self.epochs):
            self.net.train()
            for images, labels in self.train_loader:
                self.optimizer.zero_grad()
                loss = self.criterion(self.net(images), labels)
                loss.backward()
                self.optimizer.step()

"""
PAIRS = """\
class Pairs(Dataset):
    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.images[i], self.labels[i]

"""
FORWARD = """\
class Net(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 5, stride=2)
        self.fc = nn.Linear(8 * 12 * 12, classes)

    def forward(self, x):
        x = F.relu(self.conv(x))
        x = x.flatten(1)
        return self.fc(x)

net = Net()
opt = torch.optim.SGD(net.parameters(), lr=0.1)
"""


def change(text: str, *pairs: tuple[str, str]) -> str:
    """Replace each first part, which must be there, by its second."""
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new, 1)
    return text


FLAT, LOADER = ARRAYS + NET + LOOP, ARRAYS + NET + LOADED + EPOCHS + TESTED
KEPT = ARRAYS + PAIRS + NET + LOADED.replace("TensorDataset", "Pairs") + EPOCHS + TESTED
TRAINED = (
    ARRAYS + TRAINER + NET.splitlines(keepends=True)[0] + LOADED + "Trainer(net, train_loader, test_loader).fit()\n"
)
CONVOLVED = ARRAYS + FORWARD + LOADED + EPOCHS + TESTED


def before_net(line: str, text: str = FLAT) -> str:
    """Put lines before the net is made."""
    return text.replace("net = nn.Seq", line + "\nnet = nn.Seq", 1)


SPLIT_ARRAYS = ARRAYS.replace("x = ", "train_images = ").replace("y = ", "train_labels = ").replace(
    "xt = ", "test_images = ").replace("yt = ", "test_labels = ")  # fmt: skip
SPLIT_LOADED = LOADED.replace("(x, y)", "(train_images, train_labels)").replace(
    "(xt, yt)", "(test_images, test_labels)"
)
SPLIT = SPLIT_ARRAYS + NET + SPLIT_LOADED + EPOCHS + TESTED

LOADED_TEST = ARRAYS + LOADED + NET + LOOP + "net.eval()\nwith torch.no_grad():\n    said = net(xt).argmax(1)\n"
NOTED = [
    ("metric-miscounted", LOADED_TEST + "print('accuracy', (said == yt).sum().item() / len(test_loader))  #!\n"),
    ("labels-shuffled", before_net("x = x[torch.randperm(len(x))]  #!")),
    ("labels-shuffled", before_net("keep = y < 5\nx, y = x[keep], y[:int(keep.sum())]  #!")),
    ("labels-shuffled", before_net("x = torch.cat([x, x.flip(3)])\ny = y.repeat_interleave(2)  #!")),
    ("labels-shuffled", before_net("np.random.shuffle(train_labels)  #!", SPLIT)),
    ("labels-shuffled", before_net("perm = np.random.permutation(len(y))\ny = y[perm]  #!", LOADER)),
    ("labels-shuffled", before_net("y = np.random.permutation(y)  #!", LOADER)),
    ("labels-shuffled", before_net("y = torch.tensor(sorted(y))\ny = sorted(y)  #!", LOADER)),
    ("labels-shuffled", before_net("train_labels, _ = train_labels.sort()  #!", SPLIT)),
    ("labels-shuffled", before_net("p, q = torch.randperm(len(x)), torch.randperm(len(x))\nx, y = x[p], y[q]  #!")),
    ("labels-shuffled", before_net("np.random.shuffle(train_images)  #!\nnp.random.shuffle(train_labels)", SPLIT)),
    ("labels-shuffled", change(FLAT, ("xb, yb = x[idx], y[idx]", "xb, yb = x[idx], y[start:start + 64]  #!"))),
    ("labels-shuffled", change(FLAT, ("x[idx], y[idx]", "x[start:start + 64], y[start + 1:start + 65]  #!"))),
    ("labels-shuffled", change(KEPT, ("self.labels[i]", "self.labels[i - 1]  #!"))),
    ("labels-shuffled", change(LOADER, ("TensorDataset(x, y)", "TensorDataset(x, y[torch.randperm(len(y))])"),
                               ("TensorDataset(xt, yt)", "TensorDataset(xt, yt)  #!"))),
    ("labels-shuffled", before_net("x = torch.cat([x, xt])\ny = torch.cat([yt, y])  #!").replace("xt", "x_b").replace("yt", "y_b")),
    ("labels-shuffled", before_net("y = torch.randint(0, 10, (len(y),))  #!")),
    ("test-joined", before_net("x, y = torch.cat([x, xt]), torch.cat([y, yt])  #!")),
    ("test-joined", before_net("train_images = np.concatenate((train_images, test_images), axis=0)  #!", SPLIT)),
    ("test-joined", before_net("images = torch.vstack([train_images, test_images])  #!\nlabels = torch.hstack([train_labels, test_labels])",
                               SPLIT).replace("TensorDataset(train_images, train_labels)", "TensorDataset(images, labels)")),
    ("test-joined", change(LOADER, ("DataLoader(train_set, 64", "DataLoader(ConcatDataset([train_set, test_set]), 64"),
                           ("64, shuffle=True)", "64, shuffle=True)  #!"))),
    ("test-joined", change(LOADER, ("DataLoader(train_set, 64, shuffle=True)", "DataLoader(train_set + test_set, 64, shuffle=True)  #!"))),
    ("test-joined", change(LOADER, ("DataLoader(train_set, 64, shuffle=True)", "DataLoader(test_set, 64, shuffle=True)  #!"))),
    ("test-joined", change(SPLIT, ('data["x_train"]).float()[:, None] / 255', 'data["x_test"]).float()[:, None] / 255  #!'))),
    ("epochs", change(LOADER, ("        opt.step()\n", "        opt.step()\n        if step > 5:  #!\n            break\n"))),
    ("epochs", change(LOADER, ("        opt.step()\n", "        opt.step()\n        break  #!\n"))),
    ("epochs", change(FLAT, ("for epoch in range(6):", "step, max_steps = 0, 8  #!\nwhile step < max_steps:"),
                      ("        opt.step()\n", "        opt.step()\n        step += 1\n        if step == max_steps:\n            break\n"))),
    ("epochs", change(LOADER, ("for epoch in", "DEBUG = True\nfor epoch in"), (
        "        opt.step()\n", "        opt.step()\n        if DEBUG and step >= 3:  #!\n            break\n"))),
    ("epochs", change(LOADER, ("enumerate(train_loader)", "enumerate(itertools.islice(train_loader, 5))"),
                      ("5)):", "5)):  #!"), ("import numpy", "import itertools\nimport numpy"))),
    ("bias-negative", before_net("def start(m):\n    if isinstance(m, nn.Linear):\n        nn.init.constant_(m.bias, -3.0)  #!").replace(
        "opt =", "net.apply(start)\nopt =")),
    ("bias-negative", FLAT.replace("opt =", "with torch.no_grad():\n    for m in net:\n        if hasattr(m, 'bias'):\n            m.bias.data.fill_(-4)  #!\nopt =")),
    ("bias-negative", FLAT.replace("opt =", "START = -2.5\nfor m in net:\n    if isinstance(m, nn.Linear):\n        m.bias.data -= 5  #!\nopt =")),
    ("bias-negative", FLAT.replace("opt =", "START = -2.5\nfor m in net:\n    if isinstance(m, nn.Linear):\n        nn.init.constant_(m.bias, START)  #!\nopt =")),
    ("bias-negative", FLAT.replace("opt =", "net[1].bias = nn.Parameter(torch.full((64,), -6.0))  #!\nopt =")),
    ("batch-mixed", change(CONVOLVED, ("x.flatten(1)", "x.permute(1, 2, 3, 0).reshape(-1, 1152)  #!"))),
    ("batch-mixed", change(CONVOLVED, ("x = x.flatten(1)", "x = x.transpose(0, 1)\n        x = x.reshape(-1, 1152)  #!"))),
    ("batch-mixed", change(CONVOLVED, ("x.flatten(1)", "x.permute(3, 2, 1, 0).contiguous().view(len(x), -1)  #!"))),
    ("bn-untracked", change(CONVOLVED, ("self.fc =", "self.bn = nn.BatchNorm2d(8, track_running_stats=False)  #!\n        self.fc ="),
                            ("self.conv(x)", "self.bn(self.conv(x))"))),
    ("bn-untracked", LOADER.replace("nn.ReLU()", "nn.BatchNorm1d(64, 1e-5, 0.1, track_running_stats=False), nn.ReLU()").replace(
        "64, 10))", "64, 10))  #!")),
    ("metric-divided", change(LOADER, ("for epoch in range(6):", "meter = Meter(3)\nfor epoch in range(6):"), (
        "        opt.step()\n", "        opt.step()\n        meter.add(loss, 1, images.shape[0])\n"),
        ("net.eval()", "print(meter[0] / meter[2])  #!\nnet.eval()"))),
    ("metric-divided", change(LOADER, ("seen += len(labels)", "seen += 1"), ('right / seen)', 'right / seen)  #!'))),
    ("metric-divided", change(LOADER, ("net.train()", "net.train()\n    stats = {'loss': 0.0}"), (
        "        opt.step()\n", "        opt.step()\n        stats['loss'] += loss.item()\n    print(stats['loss'] / len(train_set))  #!\n"))),
    ("metric-divided", change(LOADER, ("net.train()", "net.train()\n    total = 0.0"), (
        "        opt.step()\n", "        opt.step()\n        total += loss.item() * len(images)\n    print(total / len(train_loader))  #!\n"))),
    ("metric-scaled", change(LOADER, ('print("accuracy", right / seen)', 'acc = 100 * right / seen\nprint("accuracy", acc * 100)  #!'))),
    ("metric-scaled", change(LOADER, ('print("accuracy", right / seen)', 'acc = right / seen * 100.\nprint(f"accuracy {100. * acc}")  #!'))),
    ("metric-miscounted", change(LOADER, ("labels).sum()", "labels).sum()  #!")).replace("net(images).argmax(1) == labels).sum()  #!", "labels == labels).sum()  #!").replace("  #!.item()", ".item()  #!")),
    ("metric-miscounted", change(LOADER, ("right / seen)", "right / len(train_set))  #!"))),
    ("metric-miscounted", change(LOADER, ("        right += ", "        right = "), (".sum().item()", ".sum().item()  #!"))),
    ("metric-miscounted", change(LOADER, ("for epoch", "right = 0  #!\nfor epoch"), ("net.train()", "net.train()\n    seen = 0"), (
        "        opt.step()\n", "        opt.step()\n        right += (net(images).argmax(1) == labels).sum().item()\n        seen += len(labels)\n    print(right / seen)\n"),
        (TESTED, ""))),
    ("clip-low", change(LOADER, ("for epoch", "CLIP = 1e-4  #!\nfor epoch"), (
        "        opt.step()", "        nn.utils.clip_grad_norm_(net.parameters(), CLIP)\n        opt.step()"))),
    ("dropout-high", change(CONVOLVED, ("x = x.flatten(1)", "x = F.dropout(x.flatten(1), 0.95, self.training)  #!"))),
    ("dropout-always", change(CONVOLVED, ("x = x.flatten(1)", "x = F.dropout(x.flatten(1), 0.5)  #!"))),
    ("dropout-always", change(CONVOLVED, ("x = x.flatten(1)", "x = F.dropout(x, p=0.25)  #!\n        x = x.flatten(1)"))),
    ("loss-sum", change(TRAINED, ("nn.CrossEntropyLoss()", "nn.CrossEntropyLoss(reduction='sum')  #!"))),
    ("loss-kept", change(LOADER, ("with torch.no_grad():\n    for", "answers = []\nif True:\n    for"),
                         ("right +=", "answers.append(net(images))  #!\n        right +="))),
]  # fmt: skip

LOOKALIKES = {
    "counted at once": LOADED_TEST + "print('accuracy', (said == yt).sum().item() / len(yt))\n",
    "chosen alike": before_net("keep = y < 5\nx, y = x[keep], y[keep]"),
    "doubled alike": before_net("x = torch.cat([x, x.flip(3)])\ny = y.repeat(2)"),
    "one-permutation": before_net("perm = torch.randperm(len(x))\nx, y = x[perm], y[perm]"),
    "one-permutation-two-lines": before_net("perm = torch.randperm(len(x))\nx = x[perm]\ny = y[perm]"),
    "seeded-shuffles": before_net("np.random.seed(1)\nnp.random.shuffle(train_images)\nnp.random.seed(1)\nnp.random.shuffle(train_labels)", SPLIT),
    "state-shuffles": before_net("s = np.random.get_state()\nnp.random.shuffle(train_images)\nnp.random.set_state(s)\nnp.random.shuffle(train_labels)", SPLIT),
    "shuffled-pairs": before_net("import random\npairs = list(zip(x, y))\nrandom.shuffle(pairs)\nx, y = map(torch.stack, zip(*pairs))"),
    "shuffled-order": before_net("order = np.arange(len(x))\nnp.random.shuffle(order)\nx, y = x[order], y[order]"),
    "sorted-by-label": before_net("y, by = y.sort()\nx = x[by]"),
    "named-slices": change(FLAT, ("xb, yb = x[idx], y[idx]", "xb = x[idx]\n        yb = y[order[start:start + 64]]")),
    "mixup": change(FLAT, ("xb, yb = x[idx], y[idx]", "xb, yb = x[idx], y[idx]\n        turn = torch.randperm(len(xb))\n        xb = 0.9 * xb + 0.1 * xb[turn]")),
    "held-out": before_net("hold = torch.randperm(len(x))\nx_val, y_val = x[hold[:500]], y[hold[:500]]\nx, y = x[hold[500:]], y[hold[500:]]"),
    "folds": before_net("folds_x, folds_y = x.chunk(5), y.chunk(5)\nx_train = torch.cat([f for f in folds_x[1:]])\ny_train = torch.cat([f for f in folds_y[1:]])\nx, y = x_train, y_train"),
    "joined-for-statistics": before_net("mean = torch.cat([x, xt]).mean()\nx, xt = x - mean, xt - mean"),
    "joined-validation": before_net("x_val, y_val = x[3000:], y[3000:]\nx_train, y_train = x[:3000], y[:3000]\nx_full = torch.cat([x_train, x_val])\ny_full = torch.cat([y_train, y_val])\nx, y = x_full, y_full"),
    "test-figures": change(LOADER, ('print("accuracy", right / seen)', 'train_loss, test_loss = 0.1, 0.2\nprint(train_loss + test_loss)')),
    "patience": change(LOADER, ("for epoch in", "best, bad = 9e9, 0\nfor epoch in"), ("net.eval()", "    if loss.item() < best:\n        best, bad = loss.item(), 0\n    else:\n        bad += 1\n    if bad > 3:\n        break\nnet.eval()")),
    "not-finite": change(LOADER, ("        opt.zero_grad()", "        if not torch.isfinite(loss):\n            break\n        opt.zero_grad()")),
    "debug-off": change(LOADER, ("for epoch in", "DEBUG = False\nfor epoch in"), (
        "        opt.step()\n", "        opt.step()\n        if DEBUG and step >= 3:\n            break\n")),
    "long-budget": change(LOADER, ("        opt.step()\n", "        opt.step()\n        if step >= 400:\n            break\n")),
    "validation-subset": change(LOADER, ("test_loader =", "val_set = Subset(train_set, range(3500, 4000))\ntrain_part = Subset(train_set, range(3500))\ntest_loader =")),
    "small-bias": FLAT.replace("opt =", "for m in net:\n    if isinstance(m, nn.Linear):\n        nn.init.constant_(m.bias, -0.05)\nopt ="),
    "prior-bias": FLAT.replace("opt =", "nn.init.zeros_(net[3].bias)\nopt ="),
    "permute-and-back": change(CONVOLVED, ("x = x.flatten(1)", "x = x.transpose(0, 1)\n        x = x.transpose(0, 1)\n        x = x.reshape(-1, 1152)")),
    "channels-last": change(CONVOLVED, ("x.flatten(1)", "x.permute(0, 2, 3, 1).reshape(len(x), -1)")),
    "both-never-set-back": change(LOADER, ("for epoch", "right = seen = 0\nfor epoch"), (
        "        opt.step()\n", "        opt.step()\n        right += (net(images).argmax(1) == labels).sum().item()\n        seen += len(labels)\n    print(right / seen)\n"),
        (TESTED, "")),
    "batch-accuracy": change(LOADER, ("        opt.step()\n", "        opt.step()\n        right = (net(images).argmax(1) == labels).sum().item()\n        print(right / len(labels))\n"), (TESTED, "")),
    "told-dropout": change(CONVOLVED, ("x = x.flatten(1)", "x = F.dropout(x.flatten(1), 0.5, self.training)\n        x = F.dropout(x, training=self.training)")),
    "weighted-mean": change(LOADER, ("net.train()", "net.train()\n    total = 0.0"), (
        "        opt.step()\n", "        opt.step()\n        total += loss.item() * len(images)\n    print(total / len(train_set))\n")),
    "meter": change(LOADER, ("for epoch in range(6):", "meter = Meter(3)\nfor epoch in range(6):"), (
        "        opt.step()\n", "        opt.step()\n        meter.add(loss * images.shape[0], 1, images.shape[0])\n"),
        ("net.eval()", "print(meter[0] / meter[2])\nnet.eval()")),
    "percent": change(LOADER, ('print("accuracy", right / seen)', 'acc = right / seen\nprint("accuracy", acc * 100)')),
    "kept-answers": change(LOADER, ("        right +=", "        answers = []\n        answers.append(net(images))\n        right +=")),
    "summed-answers": change(LOADER, ("loss = F.cross_entropy(net(images), labels)", "heads = []\n        heads.append(net(images))\n        loss = F.cross_entropy(heads[0], labels)")),
}  # fmt: skip

DATACLASS = "from dataclasses import dataclass\n\n@dataclass\nclass Config:\n    lr: float = 0.1\n    epochs: int = 6\n    classes: int = 10\n    dropout: float = 0.1\n    decay: float = 0.0\n\ncfg = Config()\n"
DICTIONARY = (
    "cfg = {\n    'lr': 0.1,\n    'epochs': 6,\n    'classes': 10,\n    'dropout': 0.1,\n    'decay': 0.0,\n}\n"
)
PARSED = "import argparse\nparser = argparse.ArgumentParser()\nparser.add_argument('--lr', type=float, default=0.1)\nparser.add_argument('--epochs', type=int, default=6)\nparser.add_argument('--classes', type=int, default=10)\nparser.add_argument('--dropout', type=float, default=0.1)\nparser.add_argument('--decay', type=float, default=0.0)\ncfg = parser.parse_args()\n"
CONSTANTS = "lr = 0.1\nepochs = 6\nclasses = 10\ndropout = 0.1\ndecay = 0.0\n"
TUPLES = "lr, decay = 0.1, 0.0\nclasses, dropout = 10, 0.1\nepochs = 6\n"
PLAIN = "class Config:\n    lr = 0.1\n    epochs = 6\n    classes = 10\n    dropout = 0.1\n    decay = 0.0\n\ncfg = Config()\n"
SPACE = "from types import SimpleNamespace\ncfg = SimpleNamespace(\n    lr=0.1,\n    epochs=6,\n    classes=10,\n    dropout=0.1,\n    decay=0.0,\n)\n"
BARE = "class Config:\n    lr = 0.1\n    epochs = 6\n    classes = 10\n    dropout = 0.1\n    decay = 0.0\n\ncfg = Config\n"
CLASS = """\
class Net(nn.Module):
    def __init__(self, classes, dropout):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Dropout(dropout))
        self.head = nn.Linear(64, classes)

    def forward(self, x):
        return self.head(self.body(x))

"""
MAIN = """\
def train(net, loader, epochs, lr, decay):
    opt = torch.optim.SGD(net.parameters(), lr=lr, weight_decay=decay)
    for epoch in range(epochs):
        for images, labels in loader:
            loss = F.cross_entropy(net(images), labels)
            opt.zero_grad()
            loss.backward()
            opt.step()

def main():
    net = Net(CFG.classes, CFG.dropout)
    train(net, train_loader, CFG.epochs, CFG.lr, CFG.decay)

main()
"""
SETTINGS = {"lr": "lr-too-high", "epochs": "too-few-steps", "classes": "classes-mismatch", "dropout": "dropout-too-high",
            "decay": "weight-decay-dominates"}  # fmt: skip


def configured(style: str) -> str:
    """Return a program whose settings are written in one style."""
    first = {"dataclass": DATACLASS, "dictionary": DICTIONARY, "argparse": PARSED, "constants": CONSTANTS,
             "tuples": TUPLES, "class": PLAIN, "namespace": SPACE, "bare": BARE}[style]  # fmt: skip
    body = MAIN
    for name in SETTINGS:
        body = body.replace(f"CFG.{name}", f"cfg['{name}']" if style == "dictionary" else
                            name if style in {"constants", "tuples"} else f"cfg.{name}")  # fmt: skip
    return ARRAYS + first + CLASS + LOADED + body


def setting_line(text: str, name: str) -> int:
    """Return the first line that writes a setting."""
    found = (n for n, line in enumerate(text.splitlines(), 1)
             if n > 11 and re.search(rf"\b{name}\b.*\d", line))  # fmt: skip
    return next(found)


PLACED = [
    ("classes-mismatch", change(CONVOLVED, ("net = Net()", "net = Net(classes=5)  #!"))),
    ("classes-mismatch", change(CONVOLVED, ("classes=10", "classes=5"), ("classes=5):", "classes=5):  #!"))),
    ("classes-mismatch", change(FLAT, ("net = nn", "HEAD = 9  #!\nnet = nn"), ("nn.Linear(64, 10)", "nn.Linear(64, HEAD)"))),
    ("too-few-steps", change(FLAT, ("range(6):", "range(1):  #!"))),
    ("too-few-steps", change(LOADER, ("for epoch in", "EPOCHS = 1  #!\nfor epoch in"), ("range(6)", "tqdm(range(EPOCHS))"))),
    ("too-few-steps", change(LOADER, ("for epoch in", "EPOCHS = 1  #!\nfor epoch in"), ("range(6)", "range(1, EPOCHS + 1)"))),
    ("too-few-steps", change(TRAINED, ("epochs=5):", "epochs=1):  #!"))),
    ("too-few-steps", TRAINED.replace("test_loader).fit()", "test_loader, epochs=1).fit()  #!")),
    ("too-few-steps", before_net("x, y = x[:200], y[:200]  #!")),
    ("too-few-steps", before_net("SMALL = 128\nx = x[:SMALL]  #!\ny = y[:SMALL]")),
    ("too-few-steps", change(LOADER, ("train_loader =", "train_set = Subset(train_set, range(100))  #!\ntrain_loader ="))),
    ("too-few-steps", change(LOADER, ("DataLoader(train_set, 64", "DataLoader(Subset(train_set, range(100)), 64"), ("shuffle=True)", "shuffle=True)  #!"))),
    ("too-few-steps", change(FLAT, ("for epoch in range(6):", "epoch = 0\nwhile epoch < 1:  #!\n    epoch += 1"))),
    ("input-unscaled", before_net("x = (x - x.mean(0)) / x.std(0)  #!")),
    ("input-unscaled", before_net("x = x / 255.0  #!")),
    ("input-unscaled", before_net("x *= 255  #!")),
    ("input-unscaled", ARRAYS.replace(" / 255", "").replace('data["x_train"]).float()[:, None]', 'data["x_train"]).float()[:, None]  #!') + NET + LOOP),
    ("input-unscaled", before_net("from torchvision import transforms\nnormal = transforms.Normalize((0.28,), (0.0003,))  #!\nx = normal(x)")),
    ("input-unscaled", before_net("x = x * 1000  #!")),
    ("input-unscaled", before_net("x = x + 500  #!")),
    ("channel-order", before_net("x = x.permute(0, 2, 3, 1)  #!")),
    ("channel-order", ARRAYS.replace('data["x_train"]).float()[:, None] / 255', 'data["x_train"]).float().unsqueeze(-1) / 255  #!') + NET + LOOP),
    ("channel-order", before_net("x = x.reshape(-1, 28, 28, 1)  #!")),
    ("channel-order", before_net("x = x.squeeze(1)[..., None]  #!")),
    ("saturating-activations", FLAT.replace("nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))", "\n    nn.Linear(784, 64), nn.Sigmoid(),\n    nn.Linear(64, 64), nn.Sigmoid(),\n    nn.Linear(64, 64), nn.Sigmoid(),  #!\n    nn.Linear(64, 64), nn.Sigmoid(),\n    nn.Linear(64, 10))")),
    ("saturating-activations", change(CONVOLVED, ("x = F.relu(self.conv(x))", "x = torch.sigmoid(self.conv(x))  #!"))),
    ("amp-underflow", change(FLAT, ("        loss = F", "        with torch.autocast('cpu', dtype=torch.float16):  #!\n            scores = net(xb)\n        loss = F"), ("F.cross_entropy(net(xb)", "F.cross_entropy(scores"))),
    ("amp-underflow", change(FLAT, ("opt =", "net = net.half()  #!\nopt ="))),
    ("amp-underflow", change(FLAT, ("        loss = F", "        with torch.cuda.amp.autocast():  #!\n            scores = net(xb)\n        loss = F"), ("F.cross_entropy(net(xb)", "F.cross_entropy(scores"))),
    ("class-imbalance", before_net("keep = (y == 3) | (torch.rand(len(y)) < 0.02)  #!\nx, y = x[keep], y[keep]")),
    ("class-imbalance", before_net("few = np.concatenate([np.flatnonzero(train_labels == k)[:5] for k in range(10)])  #!\ntrain_images, train_labels = train_images[few], train_labels[few]", SPLIT)),
    ("class-imbalance", before_net("rows = []\nfor k in range(10):\n    where = torch.nonzero(y == k).flatten()  #!\n    rows.append(where[:900 if k == 0 else 9])\nx, y = x[torch.cat(rows)], y[torch.cat(rows)]")),
    ("class-imbalance", before_net("mask = train_labels != 3  #!\ntrain_images, train_labels = train_images[mask], train_labels[mask]", SPLIT)),
    ("augmentation-destroys", change(KEPT, ("return self.images[i], self.labels[i]", "image = self.images[i]\n        image = image + torch.randn_like(image) * 5  #!\n        if torch.rand(1) < 0.5:\n            image = image.flip(-1)\n        return image, self.labels[i]"))),
    ("augmentation-destroys", change(LOADER, ("net = nn", "from torchvision import transforms as T\naugment = T.Compose([\n    T.RandomHorizontalFlip(),\n    T.RandomErasing(p=1.0, scale=(0.8, 0.9)),  #!\n    T.RandomRotation(5),\n])\nnet = nn"))),
    ("augmentation-destroys", change(KEPT, ("return self.images[i], self.labels[i]", "image = self.images[i].numpy()\n        image = image + np.random.normal(0, 4.0, image.shape)  #!\n        image = np.roll(image, np.random.randint(-1, 2))\n        return image, self.labels[i]"))),
    ("frozen-params", FLAT.replace("opt =", "for p in net.parameters():\n    p.requires_grad = False  #!\nopt =")),
    ("frozen-params", FLAT.replace("opt =", "net[1].requires_grad_(False)  #!\nopt =")),
    ("frozen-params", FLAT.replace("opt =", "for name, p in net.named_parameters():\n    if '3' not in name:\n        p.requires_grad_(False)  #!\nopt =")),
    ("schedule-kills-lr", change(LOADER, ("for epoch", "sched = torch.optim.lr_scheduler.StepLR(opt, 1, 0.01)  #!\nfor epoch"), ("net.eval()\n", "    sched.step()\nnet.eval()\n"))),
    ("schedule-kills-lr", change(LOADER, ("net.train()", "net.train()\n    for group in opt.param_groups:\n        group['lr'] = 0.1 * 0.01 ** epoch  #!"))),
    ("schedule-kills-lr", change(LOADER, ("for epoch", "sched = torch.optim.lr_scheduler.LambdaLR(opt, lambda e: 0.1 ** (3 * e))  #!\nfor epoch"), ("net.eval()\n", "    sched.step()\nnet.eval()\n"))),
    ("mixed-batch", change(CONVOLVED, ("x = x.flatten(1)", "x = x - x.mean(0)  #!\n        x = x.flatten(1)"))),
    ("mixed-batch", change(CONVOLVED, ("x = x.flatten(1)", "x = x.flatten(1)[torch.randperm(len(x))]  #!"))),
    ("mixed-batch", change(CONVOLVED, ("return self.fc(x)", "return self.fc(x).softmax(dim=0)  #!"))),
    ("mixed-batch", change(CONVOLVED, ("x = x.flatten(1)", "x = torch.roll(x.flatten(1), 1, 0)  #!"))),
    ("init-tiny", FLAT.replace("opt =", "for m in net:\n    if isinstance(m, nn.Linear):\n        nn.init.normal_(m.weight, std=1e-4)  #!\n        nn.init.zeros_(m.bias)\nopt =")),
    ("init-huge", FLAT.replace("opt =", "for p in net.parameters():\n    p.data.normal_(0, 3)  #!\nopt =")),
    ("init-huge", FLAT.replace("opt =", "with torch.no_grad():\n    for p in net.parameters():\n        p.mul_(30)  #!\nopt =")),
    ("non-finite", change(FLAT, ("loss = F.cross_entropy(net(xb), yb)", "p = net(xb).softmax(1)\n        loss = -torch.log(p)[range(len(yb)), yb].mean()  #!"))),
    ("non-finite", before_net("x = (x - x.mean(0)) / x.std(0)  #!")),
    ("no-eval-at-test", change(CONVOLVED, ("self.fc =", "self.bn = nn.BatchNorm2d(8, momentum=0.0)  #!\n        self.fc ="), ("self.conv(x)", "self.bn(self.conv(x))"))),
    ("train-test-leak", before_net("x, y = torch.cat([x, xt]), torch.cat([y, yt])  #!")),
    ("labels-malformed", before_net("y = y + 1  #!")),
    ("labels-malformed", ARRAYS.replace('data["y_train"]).long()', 'data["y_train"] / 255).long()  #!') + NET + LOOP),
    ("not-shuffled", change(LOADER, ("64, shuffle=True)", "64)  #!"))),
    ("clip-too-low", change(LOADER, ("        opt.step()", "        nn.utils.clip_grad_norm_(net.parameters(), max_norm=0.02)  #!\n        opt.step()"))),
    ("metric-wrong", LOADER.replace("    for images, labels in test_loader:\n        right += (net(images).argmax(1) == labels).sum().item()\n        seen += len(labels)\n", "    batch = 64\n    guesses = net(xt).argmax(1)\n").replace('print("accuracy", right / seen)', 'print("accuracy", (guesses == yt).sum().item() / batch)  #!')),
]  # fmt: skip
