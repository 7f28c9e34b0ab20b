# ruff: noqa: E501 - lines of programs are as their writers left them
"""Programs with one fault each: (kind of note, text); the line to be named ends in `#!`."""

import re

from healthy_programs import (
    AUTOENCODER,
    BATCH_NORM,
    BOOK,
    BOOK_SCRATCH,
    COMPARED,
    CONFIG,
    FEATURES,
    FLAT,
    FUNCTIONS,
    HEAD,
    LISTED_LOSSES,
    MIXED_PRECISION,
    MIXUP,
    PREACT,
    RUN_EPOCH,
    SCHEDULED,
    TEST_FIRST,
    TRAINER,
)


def change(text: str, *pairs: tuple[str, str]) -> str:
    """Replace each first part, which must be there, by its second."""
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new)
    return text


def mark(text: str, line: str) -> str:
    """Mark the only line with this text."""
    assert text.count(line) == 1, line
    return re.sub(rf"({re.escape(line)}.*)", r"\1  #!", text)


LOOP = "    for images, labels in train_loader:\n"
MLP = (
    HEAD
    + """\
net = nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))
criterion = nn.CrossEntropyLoss()
lr = 0.1
opt = torch.optim.SGD(net.parameters(), lr=lr)
for epoch in range(3):
    for xb, yb in train_loader:
        logits = net(xb)
        loss = criterion(logits, yb)
        opt.zero_grad()
        loss.backward()
        opt.step()
hits = 0
for xb, yb in test_loader:
    with torch.no_grad():
        hits += (net(xb).argmax(1) == yb).sum().item()
print("accuracy", hits / len(test_set))
"""
)
OTHER = "net2 = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))\n"

SICK = [
    ("syntax-error", "import torch\nfor x in y  #!\n    pass\n"),
    ("syntax-error", "x = (1,\n     2]  #!\n"),
    (
        "net-unused",
        change(MLP, ("criterion =", "deep = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))  #!\ncriterion =")),
    ),
    (
        "net-unused",
        change(
            COMPARED,
            ("small, large = make(32), make(256)", "small = make(32)\nlarge = Wide()"),
            ("train(large, 0.1, 3)", "evaluate(large)"),
            (
                "def make(",
                "class Wide(nn.Module):\n    def __init__(self):\n        super().__init__()\n        self.a = nn.Linear(784, 10)\n"
                "    def forward(self, x):\n        return self.a(x.flatten(1))\n\ndef make(",
            ),
            ("large = Wide()", "large = Wide()  #!"),
        ),
    ),
    (
        "net-unused",
        change(
            FUNCTIONS,
            ("    model = Net().to(device)\n", "    model = Net().to(device)\n    repaired = Net().to(device)  #!\n"),
        ),
    ),
    ("class-unused", change(TRAINER, ("class Trainer:", "class Wide(nn.Module):  #!\n    pass\n\nclass Trainer:"))),
    ("class-unused", change(FUNCTIONS, ("def train(", "class Better(Net):  #!\n    pass\n\ndef train("))),
    (
        "init-unused",
        change(
            MLP,
            (
                "criterion =",
                "def init_weights(m):  #!\n    if isinstance(m, nn.Linear):\n        nn.init.kaiming_normal_(m.weight)\ncriterion =",
            ),
        ),
    ),
    (
        "init-unused",
        change(FUNCTIONS, ("def test(", "def initialise(m):  #!\n    nn.init.xavier_uniform_(m.weight)\n\ndef test(")),
    ),
    ("variable-unused", change(MLP, ("lr=lr", "lr=1e-5"), ("lr = 0.1", "lr = 0.1  #!"))),
    (
        "variable-unused",
        change(
            BOOK,
            (
                "def train_ch6(net, train_iter, test_iter, num_epochs, lr, device):",
                "def train_ch6(net, train_iter, test_iter, num_epochs, lr, device):  #!",
            ),
            ("lr=lr", "lr=0.9"),
        ),
    ),
    ("variable-unused", change(RUN_EPOCH, ("criterion = nn", "weight_decay = 5e-4  #!\ncriterion = nn"))),
    (
        "arguments-swapped",
        mark(
            change(
                BOOK,
                (
                    "train_ch6(net, train_iter, test_iter, num_epochs, lr, d2l.try_gpu())",
                    "train_ch6(net, train_iter, test_iter, lr, num_epochs, d2l.try_gpu())",
                ),
            ),
            "test_iter, lr, num_epochs, d2l",
        ),
    ),
    (
        "arguments-swapped",
        mark(
            change(
                COMPARED,
                ("train(make(64), lr, 3)", "train(make(64), epochs, learning_rate)"),
                ("for lr in (0.01, 0.1)", "epochs = 10\nfor learning_rate in (0.01, 0.1)"),
                ("results[lr]", "results[learning_rate]"),
                ("train(small, 0.1, 3), train(large, 0.1, 3)", "1"),
                ("small, large = make(32), make(256)\n", ""),
            ),
            "train(make(64), epochs",
        ),
    ),
    (
        "arguments-swapped",
        mark(change(COMPARED, ("train(make(64), lr, 3)", "train(make(64), 10, 0.1)")), "train(make(64), 10, 0.1)"),
    ),
    (
        "arguments-swapped",
        mark(
            change(
                TRAINER,
                (
                    "trainer = Trainer(model, torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05), nn.CrossEntropyLoss(), train_loader, test_loader)",
                    "optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)\nloss_fn = nn.CrossEntropyLoss()\ntrainer = Trainer(model, loss_fn, optimizer, train_loader, test_loader)",
                ),
            ),
            "trainer = Trainer(",
        ),
    ),
    (
        "optimizer-before-net",
        change(MLP, ("lr=lr)", "lr=lr)  #!\nnet = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))")),
    ),
    (
        "optimizer-before-net",
        change(
            TRAINER,
            (
                "model = ResNet()\n",
                "model = ResNet()\nopt = torch.optim.AdamW(model.parameters(), lr=1e-3)  #!\nmodel = ResNet()\n",
            ),
            ("torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)", "opt"),
        ),
    ),
    ("optimizer-before-net", change(FUNCTIONS, ("lr=args.lr)", "lr=args.lr)  #!\n    model = Net().to(device)"))),
    (
        "forward-other-net",
        change(MLP, ("criterion =", OTHER + "criterion ="), ("logits = net(xb)", "logits = net2(xb)  #!")),
    ),
    (
        "forward-other-net",
        change(
            FUNCTIONS,
            ("        output = model(data)\n        loss", "        output = net(data)  #!\n        loss"),
            ("def main():", "net = Net()\n\ndef main():"),
        ),
    ),
    (
        "forward-other-net",
        change(
            RUN_EPOCH,
            ("train_loss, train_acc = run_epoch(model,", "train_loss, train_acc = run_epoch(second,"),
            ("optimizer = torch", "second = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))\noptimizer = torch"),
            ("out = model(xb)", "out = model(xb)  #!"),
        ),
    ),
    ("step-missing", change(FLAT, ("        optimizer.step()\n", ""), ("loss.backward()", "loss.backward()  #!"))),
    (
        "step-missing",
        change(TRAINER, ("        self.optimizer.step()\n", ""), ("loss.backward()", "loss.backward()  #!")),
    ),
    ("step-missing", change(FUNCTIONS, ("optimizer.step()", "optimizer.step  #!"))),
    ("step-missing", change(FUNCTIONS, ("        optimizer.step()\n", ""), ("loss.backward()", "loss.backward()  #!"))),
    (
        "zero-grad-missing",
        change(FLAT, ("        optimizer.zero_grad()\n", ""), ("loss.backward()", "loss.backward()  #!")),
    ),
    (
        "zero-grad-missing",
        change(
            TRAINER,
            ("        self.optimizer.zero_grad(set_to_none=True)\n", ""),
            ("loss.backward()", "loss.backward()  #!"),
        ),
    ),
    (
        "zero-grad-missing",
        change(
            FLAT,
            ("        optimizer.zero_grad()\n", ""),
            ("    net.train()\n", "    net.train()\n    optimizer.zero_grad()\n"),
            ("loss.backward()", "loss.backward()  #!"),
        ),
    ),
    ("zero-grad-missing", change(RUN_EPOCH, ("optimizer.zero_grad()", "optimizer.zero_grad  #!"))),
    (
        "zero-grad-missing",
        change(BOOK, ("            optimizer.zero_grad()\n", ""), ("l.backward()", "l.backward()  #!")),
    ),
    ("backward-missing", change(FLAT, ("        loss.backward()\n", ""), ("optimizer.step()", "optimizer.step()  #!"))),
    ("backward-missing", change(FUNCTIONS, ("loss.backward()", "loss.backward  #!"))),
    ("eval-without-train", change(FLAT, ("    net.train()\n", ""), ("net.eval()", "net.eval()  #!"))),
    ("eval-without-train", change(FUNCTIONS, ("    model.train()\n", ""), ("model.eval()", "model.eval()  #!"))),
    (
        "eval-without-train",
        change(TRAINER, ("            self.model.train()\n", ""), ("self.model.eval()", "self.model.eval()  #!")),
    ),
    (
        "eval-without-train",
        change(TEST_FIRST, ("    model.train()\n", ""), ("    model.eval()", "    model.eval()  #!")),
    ),
    (
        "eval-missing",
        change(
            FLAT,
            ("    net.eval()\n", ""),
            ("predicted = net(images).argmax(dim=1)", "predicted = net(images).argmax(dim=1)  #!"),
        ),
    ),
    ("eval-missing", mark(change(TRAINER, ("        self.model.eval()\n", "")), "hits += (self.model(x)")),
    (
        "eval-missing",
        change(
            FUNCTIONS,
            ("    model.eval()\n", ""),
            ("            output = model(data)\n", "            output = model(data)  #!\n"),
        ),
    ),
    (
        "no-grad-missing",
        change(
            FLAT,
            ("    with torch.no_grad():\n", "    if True:\n"),
            ("predicted = net(images).argmax(dim=1)", "predicted = net(images).argmax(dim=1)  #!"),
        ),
    ),
    (
        "no-grad-missing",
        change(
            COMPARED,
            (
                "    with torch.no_grad():\n        return",
                "    for x, y in test_loader:\n        hits += (net(x).argmax(1) == y).sum()  #!\n    if True:\n        return",
            ),
            ("return sum((net(x).argmax(1) == y).sum().item() for x, y in test_loader)", "return hits"),
        ),
    ),
    ("loss-kept", change(FLAT, ("running += loss.item()", "running += loss  #!"))),
    (
        "loss-kept",
        change(
            TRAINER, ("return loss.item()", "return loss"), ("total += self.step(x, y)", "total += self.step(x, y)  #!")
        ),
    ),
    (
        "loss-kept",
        change(
            MLP,
            ("        opt.step()\n", "        opt.step()\n        history.append(loss)  #!\n"),
            ("lr = 0.1\n", "lr = 0.1\nhistory = []\n"),
        ),
    ),
    (
        "loss-kept",
        change(
            MLP,
            ("        opt.step()\n", "        opt.step()\n        total = total + loss  #!\n"),
            ("lr = 0.1\n", "lr = 0.1\ntotal = 0\n"),
        ),
    ),
    (
        "loss-detached",
        change(FLAT, ("loss = criterion(outputs, labels)", "loss = criterion(outputs, labels).detach()  #!")),
    ),
    (
        "loss-detached",
        change(FUNCTIONS, ("output = model(data)\n        loss", "output = model(data).data  #!\n        loss")),
    ),
    (
        "loss-detached",
        change(
            MLP,
            (
                "        loss.backward()",
                "        loss = torch.tensor(loss.item(), requires_grad=True)  #!\n        loss.backward()",
            ),
        ),
    ),
    (
        "loss-detached",
        change(
            MLP, ("        logits = net(xb)\n", "        with torch.no_grad():  #!\n            logits = net(xb)\n")
        ),
    ),
    (
        "loss-detached",
        change(MLP, ("loss = criterion(logits, yb)", "loss = criterion(logits.argmax(1).float(), yb)  #!")),
    ),
    ("loss-detached", change(MLP, ("lr = 0.1\n", "lr = 0.1\ntorch.set_grad_enabled(False)  #!\n"))),
    ("loss-negated", change(FLAT, ("loss.backward()", "(-loss).backward()  #!"))),
    ("loss-negated", change(MLP, ("loss = criterion(logits, yb)", "loss = -criterion(logits, yb)  #!"))),
    ("loss-negated", change(MLP, ("lr=lr", "lr=lr, maximize=True"), ("maximize=True)", "maximize=True)  #!"))),
    (
        "loss-sum",
        change(
            MLP,
            ("nn.CrossEntropyLoss()", "nn.CrossEntropyLoss(reduction='sum')  #!"),
        ),
    ),
    (
        "loss-sum",
        change(
            FUNCTIONS,
            ("loss = F.nll_loss(output, target)\n", "loss = F.nll_loss(output, target, reduction='sum')  #!\n"),
        ),
    ),
    (
        "softmax-before-ce",
        mark(
            change(PREACT, ("return self.fc(self.pool(x))", "return F.softmax(self.fc(self.pool(x)), dim=1)")),
            "F.softmax(self.fc",
        ),
    ),
    (
        "softmax-before-ce",
        mark(change(MLP, ("nn.Linear(64, 10))", "nn.Linear(64, 10), nn.Softmax(dim=1))")), "nn.Softmax(dim=1)"),
    ),
    (
        "softmax-before-ce",
        mark(change(FLAT, ("criterion(outputs,", "criterion(torch.softmax(outputs, 1),")), "torch.softmax"),
    ),
    (
        "relu-on-logits",
        mark(change(MLP, ("nn.Linear(64, 10))", "nn.Linear(64, 10), nn.ReLU())")), "nn.Linear(64, 10), nn.ReLU()"),
    ),
    (
        "relu-on-logits",
        mark(
            change(PREACT, ("return self.fc(self.pool(x))", "return torch.relu(self.fc(self.pool(x)))")),
            "torch.relu(self.fc",
        ),
    ),
    (
        "relu-on-logits",
        change(
            HEAD
            + """\
def nin_block(cin, cout):
    return nn.Sequential(nn.Conv2d(cin, cout, 3), nn.ReLU(), nn.Conv2d(cout, cout, 1), nn.ReLU())
net = nn.Sequential(nin_block(1, 32), nin_block(32, 10), nn.AdaptiveAvgPool2d(1), nn.Flatten())  #!
opt = torch.optim.Adam(net.parameters(), lr=1e-3)
for x, y in train_loader:
    opt.zero_grad()
    F.cross_entropy(net(x), y).backward()
    opt.step()
"""
        ),
    ),
    ("nll-without-log-softmax", mark(change(MLP, ("nn.CrossEntropyLoss()", "nn.NLLLoss()")), "loss = criterion")),
    (
        "nll-without-log-softmax",
        change(
            FUNCTIONS,
            ("F.log_softmax(x, dim=1)", "F.softmax(x, dim=1)"),
            ("loss = F.nll_loss(output, target)\n", "loss = F.nll_loss(output, target)  #!\n"),
        ),
    ),
    (
        "mse-on-classes",
        mark(
            change(
                MLP,
                ("nn.CrossEntropyLoss()", "nn.MSELoss()"),
                ("criterion(logits, yb)", "criterion(logits, F.one_hot(yb, 10).float())"),
                ("        opt.step()\n", "        opt.step()\n        acc = (logits.argmax(1) == yb).float().mean()\n"),
            ),
            "loss = criterion",
        ),
    ),
    (
        "mse-on-classes",
        mark(
            change(
                FLAT,
                (
                    "        optimizer.step()\n",
                    "        optimizer.step()\n        good = outputs.argmax(1).eq(labels).sum()\n",
                ),
                (
                    "loss = criterion(outputs, labels)",
                    "loss = F.l1_loss(outputs, nn.functional.one_hot(labels).float())",
                ),
                ("criterion = nn.CrossEntropyLoss()\n", ""),
            ),
            "F.l1_loss",
        ),
    ),
    ("softmax-dim", mark(change(FUNCTIONS, ("F.log_softmax(x, dim=1)", "F.log_softmax(x, dim=0)")), "dim=0")),
    ("softmax-dim", mark(change(FLAT, ("net(images).argmax(dim=1)", "net(images).argmax(dim=0)")), "dim=0")),
    (
        "softmax-dim",
        mark(
            change(
                MLP,
                ("nn.Linear(64, 10))", "nn.Linear(64, 10), nn.LogSoftmax(dim=0))"),
                ("nn.CrossEntropyLoss()", "nn.NLLLoss()"),
            ),
            "dim=0",
        ),
    ),
    (
        "view-for-permute",
        mark(
            change(PREACT, ("x = x.permute(0, 2, 3, 1).reshape(n, h * w, c)", "x = x.view(n, h, w, c)")),
            "x.view(n, h, w, c)",
        ),
    ),
    (
        "view-for-permute",
        mark(
            change(
                MLP,
                (
                    "logits = net(xb)",
                    "xb = xb.reshape(xb.shape[0], xb.shape[3], xb.shape[1], xb.shape[2])\n        logits = net(xb)",
                ),
            ),
            "xb.reshape(",
        ),
    ),
    ("labels-shifted", mark(change(MLP, ("criterion(logits, yb)", "criterion(logits, yb + 1)")), "yb + 1")),
    (
        "labels-shifted",
        mark(
            change(
                FLAT,
                ("        optimizer.zero_grad()\n", "        optimizer.zero_grad()\n        labels = labels - 1\n"),
            ),
            "labels - 1",
        ),
    ),
    (
        "super-init-missing",
        mark(
            change(
                PREACT,
                (
                    "    def __init__(self, cin, c1, c2):\n        super().__init__()",
                    "    def __init__(self, cin, c1, c2):",
                ),
            ),
            "def __init__(self, cin, c1, c2)",
        ),
    ),
    (
        "super-init-missing",
        mark(change(FUNCTIONS, ("        super().__init__()\n", "")), "def __init__(self, classes=10)"),
    ),
    (
        "layers-in-list",
        mark(
            change(TRAINER, ("nn.ModuleList([Block(16) for _ in range(3)])", "[Block(16) for _ in range(3)]")),
            "self.blocks = [",
        ),
    ),
    (
        "layers-in-list",
        mark(
            change(
                PREACT,
                ("        layers = []\n", "        self.layers = []\n"),
                ("layers.append(", "self.layers.append("),
                ("self.body = nn.Sequential(*layers)", "self.body = nn.Identity()"),
            ),
            "self.layers = []",
        ),
    ),
    (
        "parameters-frozen",
        mark(
            change(MLP, ("criterion =", "for p in net.parameters():\n    p.requires_grad = False\ncriterion =")),
            "p.requires_grad = False",
        ),
    ),
    (
        "parameters-frozen",
        mark(
            change(
                FEATURES,
                ('weights="IMAGENET1K_V1"', "weights=None"),
                ("    model.load_state_dict(torch.load('best.pt'))\n", ""),
                ("model.fc.parameters()", "model.parameters()"),
            ),
            "param.requires_grad = False",
        ),
    ),
    (
        "parameters-frozen",
        mark(change(MLP, ("criterion =", "net.requires_grad_(False)\ncriterion =")), "net.requires_grad_(False)"),
    ),
    (
        "init-constant",
        mark(change(BOOK, ("nn.init.xavier_uniform_(m.weight)", "nn.init.constant_(m.weight, 0.01)")), "constant_"),
    ),
    (
        "init-constant",
        mark(change(PREACT, ('nn.init.kaiming_normal_(m.weight, mode="fan_out")', "m.weight.data.zero_()")), "zero_()"),
    ),
    (
        "init-constant",
        mark(change(MLP, ("criterion =", "for p in net.parameters():\n    nn.init.ones_(p)\ncriterion =")), "ones_(p)"),
    ),
    (
        "init-scale",
        mark(change(BOOK, ("nn.init.xavier_uniform_(m.weight)", "nn.init.normal_(m.weight, std=1.0)")), "std=1.0"),
    ),
    (
        "init-scale",
        mark(
            change(PREACT, ('nn.init.kaiming_normal_(m.weight, mode="fan_out")', "m.weight.data.normal_(0, 0.0001)")),
            "0.0001",
        ),
    ),
    ("dropout-high", mark(change(FUNCTIONS, ("nn.Dropout(0.5)", "nn.Dropout(0.95)")), "0.95")),
    (
        "dropout-high",
        mark(
            change(MLP, ("nn.ReLU(),", "nn.ReLU(), nn.Dropout(p=0.9),"), ("hits = 0\n", "hits = 0\nnet.eval()\n")),
            "p=0.9",
        ),
    ),
    ("optimizer-settings", mark(change(MLP, ("lr = 0.1", "lr = 10")), "lr = 10")),
    ("optimizer-settings", mark(change(FLAT, ("momentum=0.9", "momentum=0.999")), "momentum=0.999")),
    ("optimizer-settings", mark(change(FLAT, ("lr=0.1, momentum=0.9", "0.1, 0.0, 0.9")), "0.1, 0.0, 0.9")),
    (
        "optimizer-settings",
        mark(
            change(
                PREACT,
                (
                    "torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)",
                    "torch.optim.Adam(net.parameters(), lr=1e-3, betas=(0.999, 0.9))",
                ),
            ),
            "betas=",
        ),
    ),
    (
        "optimizer-settings",
        mark(change(PREACT, ("lr=0.05, momentum=0.9)", "lr=0.05, weight_decay=0.5)")), "weight_decay=0.5"),
    ),
    (
        "optimizer-settings",
        mark(
            change(
                RUN_EPOCH,
                (
                    "torch.optim.RMSprop(model.parameters(), lr=1e-3)",
                    "torch.optim.Adam(model.parameters(), 1e-3, eps=1.0)",
                ),
            ),
            "eps=1.0",
        ),
    ),
    ("clip-low", mark(change(MIXED_PRECISION, ("net.parameters(), 1.0)", "net.parameters(), 1e-4)")), "1e-4)")),
    (
        "clip-low",
        mark(
            change(
                MLP,
                (
                    "        opt.step()",
                    "        nn.utils.clip_grad_value_(net.parameters(), clip_value=0.001)\n        opt.step()",
                ),
            ),
            "clip_value",
        ),
    ),
    (
        "scheduler-per-batch",
        mark(change(SCHEDULED, ("T_max=epochs * len(train_loader)", "T_max=epochs")), "        scheduler.step()"),
    ),
    (
        "scheduler-per-batch",
        mark(
            change(MIXUP, ("        optimizer.step()\n    scheduler", "        optimizer.step()\n        scheduler")),
            "scheduler.step()",
        ),
    ),
    (
        "scheduler-per-batch",
        mark(
            change(
                SCHEDULED,
                (
                    "torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs * len(train_loader))",
                    "torch.optim.lr_scheduler.StepLR(optimizer, 5, gamma=0.5)",
                ),
            ),
            "        scheduler.step()",
        ),
    ),
    ("seed-in-loop", mark(change(SCHEDULED, ("torch.manual_seed(epoch)", "torch.manual_seed(0)")), "manual_seed")),
    (
        "seed-in-loop",
        mark(
            change(
                MLP,
                (
                    "    for xb, yb in train_loader:\n        logits",
                    "    torch.manual_seed(42)\n    for xb, yb in train_loader:\n        logits",
                ),
            ),
            "manual_seed",
        ),
    ),
    ("shuffle-false", mark(change(FLAT, ("batch_size=64, shuffle=True", "batch_size=64")), "batch_size=64")),
    (
        "shuffle-false",
        mark(change(TRAINER, ("batch_size=64, shuffle=True", "batch_size=64, shuffle=False")), "shuffle=False"),
    ),
    ("shuffle-false", mark(change(FUNCTIONS, ("batch_size=64, shuffle=True", "batch_size=64")), "batch_size=64")),
    ("data-on-test", mark(change(FLAT, ("DataLoader(test_set,", "DataLoader(train_set,")), "test_loader = DataLoader")),
    (
        "data-on-test",
        mark(
            change(MLP, ("TensorDataset(x_test, y_test)", "TensorDataset(x_train, y_train)")),
            "test_set = TensorDataset",
        ),
    ),
    (
        "data-on-test",
        mark(
            change(
                LISTED_LOSSES,
                ("net =", "a = datasets.MNIST('.', train=True)\nmnist_test = datasets.MNIST('.', train=True)\nnet ="),
            ),
            "mnist_test =",
        ),
    ),
    (
        "loader-worker-random",
        change("""\
import numpy as np
class Noisy(torch.utils.data.Dataset):
    def __init__(self, x):
        self.x, self.rng = x, 0
        self.rng = np.random.default_rng(0)
    def __len__(self):
        return len(self.x)
    def __getitem__(self, i):
        return self.x[i] + self.rng.normal()
loader = DataLoader(Noisy(x_train), 64, shuffle=True, num_workers=4)  #!
"""),
    ),
    (
        "loader-worker-random",
        mark(
            change(
                FLAT,
                (
                    "batch_size=64, shuffle=True",
                    "batch_size=64, shuffle=True, num_workers=2, worker_init_fn=lambda i: np.random.seed(0)",
                ),
            ),
            "worker_init_fn",
        ),
    ),
    (
        "metric-divided",
        mark(change(FLAT, ("running += loss.item()", "running += loss.item() / len(images)")), "/ len(images)"),
    ),
    (
        "metric-divided",
        mark(change(FLAT, ("running / len(train_loader):", "running / len(train_loader.dataset):")), "running / len("),
    ),
    ("metric-divided", mark(change(MLP, ("hits / len(test_set)", "hits / len(test_loader)")), "hits / len(")),
    ("bn-momentum", mark(change(FLAT, ("nn.BatchNorm2d(16)", "nn.BatchNorm2d(16, momentum=0.0)")), "momentum=0.0")),
    ("bn-momentum", mark(change(RUN_EPOCH, ("nn.BatchNorm1d(64)", "nn.BatchNorm1d(64, 1e-5, 0.99)")), "0.99")),
    (
        "statistics-kept",
        mark(
            change(
                BATCH_NORM,
                ("        Y, self.moving_mean, self.moving_var = batch_norm(X,", "        Y, _, _ = batch_norm(X,"),
            ),
            "Y, _, _ = batch_norm",
        ),
    ),
    (
        "statistics-kept",
        mark(
            change(
                BATCH_NORM,
                (
                    "        Y, self.moving_mean, self.moving_var = batch_norm(X,",
                    "        Y, mean, var = batch_norm(X,",
                ),
            ),
            "Y, mean, var = batch_norm",
        ),
    ),
    (
        "half-without-scaler",
        mark(
            change(
                MIXED_PRECISION,
                ("    scaler.scale(loss).backward()", "    loss.backward()"),
                ("        scaler.unscale_(optimizer)\n", ""),
                ("scaler.step(optimizer)", "optimizer.step()"),
                ("        scaler.update()\n", ""),
                ("scaler = torch.amp.GradScaler()\n", ""),
            ),
            "float16",
        ),
    ),
    ("half-without-scaler", mark(change(MLP, ("nn.Linear(64, 10))", "nn.Linear(64, 10)).half()")), ".half()")),
    (
        "zero-grad-missing",
        mark(
            change(BOOK_SCRATCH, ("            param.grad.zero_()\n", ""), ("            updater.zero_grad()\n", "")),
            "param -= lr",
        ),
    ),
    (
        "dropout-high",
        mark(
            change(
                CONFIG,
                ("    batch_size = 64\n", "    batch_size = 64\n    drop: float = 0.9\n"),
                ("nn.Linear(784, 10))", "nn.Dropout(cfg.drop), nn.Linear(784, 10))"),
            ),
            "drop: float",
        ),
    ),
    (
        "optimizer-settings",
        mark(change(FUNCTIONS, ("torch.optim.Adadelta(model", "torch.optim.Adam(model")), "default=1.0"),
    ),
    (
        "metric-divided",
        mark(
            change(
                MLP,
                (
                    "hits += (net(xb).argmax(1) == yb).sum().item()",
                    "hits += (net(xb).argmax(1) == yb).float().mean().item()",
                ),
            ),
            "hits / len(",
        ),
    ),
    (
        "forward-other-net",
        change(
            AUTOENCODER,
            ("ae = AE()", "ae, other = AE(), AE()"),
            ("F.mse_loss(ae(img), img)", "F.mse_loss(other(img), img)  #!"),
        ),
    ),
    (
        "update-divided",
        mark(change(BOOK_SCRATCH, ("l.sum().backward()", "l.mean().backward()")), "param -= lr"),
    ),
    (
        "update-divided",
        mark(
            change(
                BOOK_SCRATCH,
                ("l.sum().backward()", "l.mean().backward()"),
                ("lr * param.grad / batch_size", "(lr / batch_size) * param.grad"),
            ),
            "param -= (lr",
        ),
    ),
]
