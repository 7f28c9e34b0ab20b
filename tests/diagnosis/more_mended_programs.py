# ruff: noqa: E501 - lines of programs are as their writers left them
"""More programs for the lines at which faults are mended: (cause, text), marked `#!`."""

from mended_programs import (
    ARRAYS,
    CONVOLVED,
    EPOCHS,
    FLAT,
    KEPT,
    LOADED,
    LOADER,
    LOOP,
    NET,
    SPLIT,
    SPLIT_ARRAYS,
    SPLIT_LOADED,
    TESTED,
    TRAINED,
    before_net,
    change,
)  # fmt: skip

BATCH_NORM = """\
class BatchNorm(nn.Module):
    def __init__(self, n, momentum=0.9):
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.ones(1, n)), nn.Parameter(torch.zeros(1, n))
        self.register_buffer("running_mean", torch.zeros(1, n))
        self.register_buffer("running_var", torch.ones(1, n))
        self.momentum = momentum

    def forward(self, x):
        if self.training:
            mean, var = x.mean(0), x.var(0)
            self.running_mean = self.momentum * self.running_mean + (1 - self.momentum) * mean
            self.running_var = self.momentum * self.running_var + (1 - self.momentum) * var
        else:
            mean, var = self.running_mean, self.running_var
        return self.gamma * (x - mean) / (var + 1e-5).sqrt() + self.beta

"""
HAND = (
    ARRAYS
    + BATCH_NORM
    + "net = nn.Sequential(nn.Flatten(), nn.Linear(784, 64), BatchNorm(64), nn.ReLU(), nn.Linear(64, 10))\nopt = torch.optim.SGD(net.parameters(), lr=0.1)\n"
    + LOADED
    + EPOCHS
    + TESTED
)


def taken(body: str) -> str:
    """Return a program whose data set takes an image in another way."""
    return KEPT.replace("        return self.images[i], self.labels[i]\n", body)


MORE_PLACED = [
    (
        "labels-shuffled",
        KEPT.replace(
            "self.images, self.labels = images, labels",
            "self.images = images\n        self.labels = labels\n        np.random.shuffle(self.labels)  #!",
        ),
    ),
    (
        "labels-shuffled",
        KEPT.replace(
            "self.images, self.labels = images, labels",
            "self.images = images\n        self.labels = labels[torch.randperm(len(labels))]  #!",
        ),
    ),
    (
        "labels-shuffled",
        KEPT.replace(
            "self.images, self.labels = images, labels",
            "self.images = images[np.random.permutation(len(images))]  #!\n        self.labels = labels",
        ),
    ),
    (
        "labels-shuffled",
        ARRAYS
        + NET
        + "def batches(images, labels, size):\n    order = torch.randperm(len(images))\n    for i in range(0, len(images), size):\n        yield images[order[i:i + size]], labels[i:i + size]  #!\n\nfor epoch in range(5):\n    for a, b in batches(x, y, 64):\n        loss = F.cross_entropy(net(a), b)\n        opt.zero_grad()\n        loss.backward()\n        opt.step()\n",
    ),
    (
        "labels-shuffled",
        ARRAYS
        + NET
        + "def load(part):\n    images = torch.tensor(data['x_' + part])\n    labels = torch.tensor(data['y_' + part])\n    images = images[torch.randperm(images.size(0))]  #!\n    return images, labels\nx, y = load('train')\n"
        + LOOP,
    ),
    (
        "labels-shuffled",
        ARRAYS
        + NET
        + "rng = np.random.default_rng(0)\nimgs, lbls = data['x_train'], data['y_train']\nrng.shuffle(lbls)  #!\nx, y = torch.tensor(imgs), torch.tensor(lbls)\n"
        + LOOP,
    ),
    (
        "labels-shuffled",
        ARRAYS
        + NET
        + "import random\nsamples = list(x)\ntargets = list(y)\nrandom.shuffle(targets)  #!\nx, y = torch.stack(samples), torch.stack(targets)\n"
        + LOOP,
    ),
    ("labels-shuffled", before_net("y = y.roll(1)  #!")),
    ("labels-shuffled", before_net("y = torch.roll(y, 7)  #!")),
    ("labels-shuffled", before_net("y = y.flip(0)  #!")),
    ("labels-shuffled", before_net("x = torch.flip(x, [0])  #!")),
    ("labels-shuffled", before_net("train_labels = train_labels[::-1].copy()  #!", SPLIT)),
    ("labels-shuffled", before_net("x = x[y.argsort()]  #!", LOADER)),
    ("labels-shuffled", before_net("order = y.argsort()\nx = x[order]  #!", LOADER)),
    (
        "labels-shuffled",
        change(
            LOADER,
            ("TensorDataset(x, y)", "TensorDataset(x[order], y)"),
            ("train_set, test_set", "order = torch.randperm(len(x))\ntrain_set, test_set"),
            ("TensorDataset(xt, yt)\n", "TensorDataset(xt, yt)  #!\n"),
        ),
    ),
    (
        "labels-shuffled",
        change(
            LOADER,
            (
                "loss = F.cross_entropy(net(images), labels)",
                "labels = labels[torch.randperm(len(labels))]  #!\n        loss = F.cross_entropy(net(images), labels)",
            ),
        ),
    ),
    (
        "labels-shuffled",
        change(
            LOADER,
            (
                "loss = F.cross_entropy(net(images), labels)",
                "loss = F.cross_entropy(net(images), labels[torch.randperm(len(labels))])  #!",
            ),
        ),
    ),
    (
        "labels-shuffled",
        change(
            FLAT,
            (
                "xb, yb = x[idx], y[idx]",
                "xb = x[torch.randint(0, len(x), (64,))]\n        yb = y[torch.randint(0, len(x), (64,))]  #!",
            ),
        ),
    ),
    (
        "labels-shuffled",
        change(
            FLAT,
            (
                "xb, yb = x[idx], y[idx]",
                "xb = x[torch.randperm(len(x))[:64]]\n        yb = y[torch.randperm(len(x))[:64]]  #!",
            ),
        ),
    ),
    (
        "labels-shuffled",
        change(
            FLAT,
            ("for epoch in", "for epoch in"),
            ("xb, yb = x[idx], y[idx]", "xb = torch.index_select(x, 0, idx)\n        yb = y[start:start + 64]  #!"),
        ),
    ),
    ("labels-shuffled", before_net("train_x, train_y = x[:3000], y[1000:]  #!")),
    (
        "labels-shuffled",
        ARRAYS
        + NET
        + "image_loader = DataLoader(x, 64, shuffle=True)\nlabel_loader = DataLoader(y, 64, shuffle=True)  #!\nfor epoch in range(5):\n    for a, b in zip(image_loader, label_loader):\n        loss = F.cross_entropy(net(a), b)\n        opt.zero_grad()\n        loss.backward()\n        opt.step()\n",
    ),
    (
        "labels-shuffled",
        SPLIT_ARRAYS
        + "from sklearn.utils import shuffle\ntrain_images = shuffle(train_images)  #!\n"
        + NET
        + SPLIT_LOADED
        + EPOCHS,
    ),
    (
        "labels-shuffled",
        SPLIT_ARRAYS
        + "from sklearn.utils import shuffle\ntrain_images = shuffle(train_images, random_state=1)  #!\ntrain_labels = shuffle(train_labels, random_state=2)\n"
        + NET
        + SPLIT_LOADED
        + EPOCHS,
    ),
    ("train-test-leak", before_net("xt, yt = x[:1000], y[:1000]  #!", LOADER)),
    (
        "train-test-leak",
        LOADER.replace('data["x_test"]).float()[:, None] / 255', 'data["x_train"]).float()[:, None] / 255  #!'),
    ),
    ("train-test-leak", LOADER.replace("DataLoader(test_set, 500)", "DataLoader(train_set, 500)  #!")),
    ("train-test-leak", LOADER.replace("test_loader = DataLoader(test_set, 500)", "test_loader = train_loader  #!")),
    (
        "train-test-leak",
        LOADER.replace("TensorDataset(x, y), TensorDataset(xt, yt)", "TensorDataset(x, y), TensorDataset(x, y)  #!"),
    ),
    (
        "train-test-leak",
        SPLIT_ARRAYS
        + "everything = torch.cat((train_images, test_images))  #!\nanswers = torch.cat((train_labels, test_labels))\nloader = DataLoader(TensorDataset(everything, answers), 64, shuffle=True)\n"
        + NET
        + "train_loader = loader\n"
        + EPOCHS,
    ),
    (
        "train-test-leak",
        ARRAYS
        + "pairs = list(zip(x, y)) + list(zip(xt, yt))  #!\ntrain_loader = DataLoader(pairs, 64, shuffle=True)\n"
        + NET
        + EPOCHS,
    ),
    (
        "train-test-leak",
        ARRAYS
        + "train_set = list(zip(x, y))\ntest_set = list(zip(xt, yt))\ntrain_set.extend(test_set)  #!\ntrain_loader = DataLoader(train_set, 64, shuffle=True)\n"
        + NET
        + EPOCHS,
    ),
    (
        "train-test-leak",
        ARRAYS
        + "train_set = list(zip(x, y))\ntest_set = list(zip(xt, yt))\ntrain_set += test_set  #!\ntrain_loader = DataLoader(train_set, 64, shuffle=True)\n"
        + NET
        + EPOCHS,
    ),
    (
        "train-test-leak",
        LOADER.replace(
            "for epoch in range(6):",
            "for epoch in range(6):\n    for images, labels in test_loader:  #!\n        loss = F.cross_entropy(net(images), labels)\n        opt.zero_grad()\n        loss.backward()\n        opt.step()",
        ),
    ),
    (
        "train-test-leak",
        LOADER.replace("enumerate(train_loader)", "enumerate(test_loader)").replace(
            "test_loader):\n        loss", "test_loader):  #!\n        loss"
        ),
    ),
    (
        "too-few-steps",
        LOADER.replace(
            "        opt.step()\n",
            "        opt.step()\n        if step == 4:  #!\n            print('done')\n            break\n",
        ),
    ),
    (
        "too-few-steps",
        LOADER.replace(
            "        opt.step()\n", "        opt.step()\n        if loss.item() < 2.2:  #!\n            break\n"
        ),
    ),
    (
        "too-few-steps",
        LOADER.replace(
            "        opt.step()\n", "        opt.step()\n        if (step + 1) % 5 == 0:  #!\n            break\n"
        ),
    ),
    (
        "too-few-steps",
        LOADER.replace("        loss = F", "        if step >= 5:  #!\n            break\n        loss = F"),
    ),
    (
        "too-few-steps",
        LOADER.replace("        loss = F", "        if step > 5:  #!\n            continue\n        loss = F"),
    ),
    (
        "too-few-steps",
        LOADER.replace("for epoch", "max_batches = 5  #!\nfor epoch").replace(
            "        loss = F", "        if step == max_batches:\n            break\n        loss = F"
        ),
    ),
    (
        "too-few-steps",
        TRAINED.replace(
            "for images, labels in self.train_loader:",
            "for number, (images, labels) in enumerate(self.train_loader):\n                if number > 5:  #!\n                    return",
        ),
    ),
    ("too-few-steps", FLAT.replace("range(0, len(x), 64)", "range(0, 256, 64)").replace("256, 64):", "256, 64):  #!")),
    (
        "too-few-steps",
        FLAT.replace("for start in range(0, len(x), 64)", "for start in range(0, len(x), 1000)").replace(
            "1000):", "1000):  #!"
        ),
    ),
    (
        "too-few-steps",
        LOADER.replace("DataLoader(train_set, 64, shuffle=True)", "DataLoader(train_set, 4000, shuffle=True)  #!"),
    ),
    (
        "too-few-steps",
        LOADER.replace(
            "train_loader = ",
            "keep = torch.randperm(len(train_set))[:100]  #!\ntrain_set = Subset(train_set, keep)\ntrain_loader = ",
        ),
    ),
    (
        "no-eval-at-test",
        HAND.replace("self.running_mean = self.momentum", "running_mean = self.momentum")
        .replace("            self.running_var = self.momentum", "            running_var = self.momentum")
        .replace("(1 - self.momentum) * mean", "(1 - self.momentum) * mean  #!"),
    ),
    ("no-eval-at-test", HAND.replace("momentum=0.9", "momentum=1.0").replace("1.0):", "1.0):  #!")),
    (
        "no-eval-at-test",
        HAND.replace("BatchNorm(64)", "BatchNorm(64, momentum=1.0)").replace("64, 10))", "64, 10))  #!"),
    ),
    (
        "no-eval-at-test",
        CONVOLVED.replace("self.fc =", "self.bn = nn.BatchNorm2d(8, 1e-5, 0.0)  #!\n        self.fc =").replace(
            "self.conv(x)", "self.bn(self.conv(x))"
        ),
    ),
    (
        "no-eval-at-test",
        CONVOLVED.replace("self.fc =", "self.bn = nn.BatchNorm2d(8)\n        self.fc =").replace(
            "F.relu(self.conv(x))", "F.batch_norm(self.conv(x), None, None, training=True)  #!"
        ),
    ),
    (
        "no-eval-at-test",
        CONVOLVED.replace(
            "self.fc =", "self.bn = nn.BatchNorm2d(8)\n        self.bn.momentum = 0.0  #!\n        self.fc ="
        ).replace("self.conv(x)", "self.bn(self.conv(x))"),
    ),
    ("no-eval-at-test", CONVOLVED.replace("x = x.flatten(1)", "x = F.dropout(x.flatten(1), 0.5)  #!")),
    (
        "channel-order",
        ARRAYS.replace(
            'data["x_train"]).float()[:, None] / 255', 'data["x_train"]).float().reshape(-1, 28, 28, 1) / 255  #!'
        )
        + NET
        + LOOP,
    ),
    (
        "channel-order",
        taken("        image = np.expand_dims(self.images[i], -1)  #!\n        return image, self.labels[i]\n"),
    ),
    ("channel-order", taken("        image = self.images[i].unsqueeze(2)  #!\n        return image, self.labels[i]\n")),
    (
        "channel-order",
        taken("        image = self.images[i].permute(1, 2, 0)  #!\n        return image, self.labels[i]\n"),
    ),
    (
        "channel-order",
        taken("        image = self.images[i].transpose(0, 2)  #!\n        return image, self.labels[i]\n"),
    ),
    (
        "channel-order",
        CONVOLVED.replace(
            "x = F.relu(self.conv(x))", "x = x.view(-1, 28, 28, 1)  #!\n        x = F.relu(self.conv(x))"
        ),
    ),
    ("channel-order", before_net("x = np.transpose(x, (0, 2, 3, 1))  #!")),
    ("channel-order", before_net("x = x.swapaxes(1, 3)  #!")),
    ("channel-order", before_net("x = x.movedim(1, -1)  #!")),
    ("channel-order", before_net("x = torch.as_tensor(x.numpy().reshape(-1, 28, 28)[:, :, :, np.newaxis])  #!")),
    ("channel-order", before_net("x = x.transpose(2, 3)  #!")),
    ("input-unscaled", taken("        image = self.images[i] * 255  #!\n        return image, self.labels[i]\n")),
    (
        "input-unscaled",
        taken("        image = (self.images[i] - 33.3) / 0.3  #!\n        return image, self.labels[i]\n"),
    ),
    (
        "input-unscaled",
        taken("        image = self.images[i] / 255.0 / 255.0  #!\n        return image, self.labels[i]\n"),
    ),
    (
        "input-unscaled",
        CONVOLVED.replace("x = F.relu(self.conv(x))", "x = x * 1000.0  #!\n        x = F.relu(self.conv(x))"),
    ),
    (
        "input-unscaled",
        CONVOLVED.replace("x = F.relu(self.conv(x))", "x = x / 255.  #!\n        x = F.relu(self.conv(x))"),
    ),
    ("input-unscaled", before_net("mean, std = x.mean(0), x.std(0)\nx = (x - mean) / std  #!")),
    ("input-unscaled", before_net("x = (x - 0.2860) / 0.00353  #!")),
    (
        "input-unscaled",
        before_net("def normalise(t):\n    return t * 255.0 - 128  #!\nx, xt = normalise(x), normalise(xt)"),
    ),
    ("input-unscaled", before_net("x = x.mul(255)  #!")),
    ("input-unscaled", before_net("x = x.div(25500)  #!")),
    ("input-unscaled", before_net("x.mul_(255.0)  #!")),
    ("input-unscaled", ARRAYS.replace(" / 255", ".div(255)") + "x = x.div_(255)  #!\n" + NET + LOOP),
    ("mixed-batch", CONVOLVED.replace("x = x.flatten(1)", "x = x.transpose(0, 1).flatten(1).T  #!")),
    ("mixed-batch", CONVOLVED.replace("x = x.flatten(1)", "x = x.reshape(1152, -1).t()  #!")),
    ("mixed-batch", CONVOLVED.replace("x = x.flatten(1)", "x = x.view(8 * 12 * 12, -1).T  #!")),
    ("mixed-batch", CONVOLVED.replace("x = x.flatten(1)", "x = F.normalize(x.flatten(1), dim=0)  #!")),
    ("mixed-batch", CONVOLVED.replace("x = x.flatten(1)", "x = x.flatten(1)\n        x = x.cumsum(0)  #!")),
    (
        "mixed-batch",
        CONVOLVED.replace(
            "x = x.flatten(1)",
            "x = x.flatten(1)\n        x = (x - x.mean(dim=0, keepdim=True)) / (x.std(dim=0, keepdim=True) + 1e-5)  #!",
        ),
    ),
    (
        "mixed-batch",
        LOADER.replace(
            "F.cross_entropy(net(images), labels)", "F.cross_entropy(torch.softmax(net(images), 0), labels)  #!"
        ),
    ),
    (
        "mixed-batch",
        LOADER.replace(
            "loss = F.cross_entropy(net(images), labels)",
            "images = images.permute(1, 2, 3, 0).reshape(-1, 1, 28, 28)  #!\n        loss = F.cross_entropy(net(images), labels)",
        ),
    ),
    (
        "mixed-batch",
        CONVOLVED.replace("x = x.flatten(1)", "x = x.flatten(1)\n        x = x[torch.randperm(x.size(0))]  #!"),
    ),
    (
        "mixed-batch",
        CONVOLVED.replace(
            "x = x.flatten(1)", "x = x.flatten(1)\n        x = torch.matmul(torch.softmax(x @ x.T, -1), x)  #!"
        ),
    ),
    ("dead-relu", CONVOLVED.replace("self.fc =", "nn.init.constant_(self.conv.bias, -5)  #!\n        self.fc =")),
    (
        "dead-relu",
        CONVOLVED.replace(
            "net = Net()\n",
            "net = Net()\nfor name, p in net.named_parameters():\n    if 'bias' in name:\n        nn.init.constant_(p, -3)  #!\n",
        ),
    ),
    (
        "dead-relu",
        CONVOLVED.replace(
            "net = Net()\n",
            "net = Net()\nfor name, p in net.named_parameters():\n    if name.endswith('bias'):\n        p.data.fill_(-3.0)  #!\n",
        ),
    ),
    ("dead-relu", CONVOLVED.replace("F.relu(self.conv(x))", "F.relu(self.conv(x) - 10)  #!")),
    (
        "dead-relu",
        CONVOLVED.replace(
            "self.fc =", "self.shift = nn.Parameter(torch.full((8, 1, 1), -9.0))  #!\n        self.fc ="
        ).replace("self.conv(x)", "self.conv(x) + self.shift"),
    ),
    (
        "class-imbalance",
        SPLIT_ARRAYS
        + "def thin(images, labels):\n    counts = torch.where(labels == 0)[0]  #!\n    others = torch.where(labels != 0)[0][:90]\n    pick = torch.cat([counts, others])\n    return images[pick], labels[pick]\ntrain_images, train_labels = thin(train_images, train_labels)\n"
        + NET
        + SPLIT_LOADED
        + EPOCHS,
    ),
    (
        "class-imbalance",
        LOADER.replace(
            "train_loader =",
            "chosen = [i for i, (_, label) in enumerate(train_set) if label == 1 or i % 50 == 0]  #!\ntrain_set = Subset(train_set, chosen)\ntrain_loader =",
        ),
    ),
    (
        "class-imbalance",
        LOADER.replace(
            "train_loader =",
            "weights = torch.where(y == 3, 50.0, 1.0)  #!\nfrom torch.utils.data import WeightedRandomSampler\nsampler = WeightedRandomSampler(weights, 4000)\ntrain_loader =",
        ),
    ),
    (
        "wrong-loss",
        LOADER.replace(
            "F.cross_entropy(net(images), labels)", "F.cross_entropy(net(images), labels, reduction='sum')  #!"
        ),
    ),
    (
        "metric-wrong",
        LOADER.replace("        seen += len(labels)\n", "        seen += len(labels)\n").replace(
            "right / seen)", "right // seen)  #!"
        ),
    ),
    (
        "metric-wrong",
        LOADER.replace("net(images).argmax(1)", "net(images).argmax(0)").replace(
            "labels).sum().item()", "labels).sum().item()  #!"
        ),
    ),
    (
        "metric-wrong",
        LOADER.replace(
            "right += (net(images).argmax(1) == labels).sum().item()",
            "guesses = net(images).argmin(1)  #!\n        right += (guesses == labels).sum().item()",
        ),
    ),
    (
        "clip-too-low",
        LOADER.replace(
            "        opt.step()", "        nn.utils.clip_grad_value_(net.parameters(), 1e-6)  #!\n        opt.step()"
        ),
    ),
    (
        "clip-too-low",
        LOADER.replace(
            "        opt.step()",
            "        for p in net.parameters():\n            p.grad.clamp_(-1e-6, 1e-6)  #!\n        opt.step()",
        ),
    ),
    (
        "augmentation-destroys",
        LOADER.replace("loss = F", "images = images + 3 * torch.randn_like(images)  #!\n        loss = F"),
    ),
    (
        "augmentation-destroys",
        LOADER.replace("loss = F", "images = images[:, :, torch.randperm(28)]  #!\n        loss = F"),
    ),
    ("init-huge", CONVOLVED.replace("self.fc =", "nn.init.normal_(self.conv.weight, std=5.0)  #!\n        self.fc =")),
    (
        "init-symmetric",
        CONVOLVED.replace(
            "net = Net()\n", "net = Net()\nfor p in net.parameters():\n    nn.init.constant_(p, 0.01)  #!\n"
        ),
    ),
    (
        "init-tiny",
        CONVOLVED.replace("net = Net()\n", "net = Net()\nfor p in net.parameters():\n    p.data *= 1e-4  #!\n"),
    ),
]
