# VGG in small, straight from the configuration string, no batch norm (as in the paper).
import os
import random

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

CONFIGS = {
    "vgg8": "8 M 16 16 M 32 32 M",
    "vgg12": "8 8 M 16 16 16 M 32 32 32 32 M",
}
ARCH = "vgg12"
EPOCHS = 10
BS = 50
LR = 0.02


def seed_everything(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def parse(text, channels=1):
    for token in text.split():
        if token == "M":
            yield nn.MaxPool2d(2)
        else:
            yield nn.Conv2d(channels, int(token), kernel_size=3, padding=1)
            yield nn.ReLU(inplace=True)
            channels = int(token)


class VGG(nn.Module):
    def __init__(self, arch, num_classes=10, init_weights=True):
        super(VGG, self).__init__()
        self.features = nn.Sequential(*parse(CONFIGS[arch]))
        self.fc1 = nn.Linear(32, 64)
        self.drop = nn.Dropout(0.1)
        self.fc2 = nn.Linear(64, num_classes)
        if init_weights:
            self._initialize_weights()

    def _initialize_weights(self):
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_in", nonlinearity="relu")
                nn.init.zeros_(m.bias)
            elif isinstance(m, nn.Linear):
                nn.init.kaiming_normal_(m.weight, nonlinearity="relu")
                nn.init.zeros_(m.bias)

    def pool(self, maps):
        # energy of every map
        return torch.sqrt(maps.pow(2).mean(dim=(2, 3)) + 1e-6)

    def forward(self, x):
        x = self.pool(self.features(x))
        x = self.drop(F.relu(self.fc1(x)))
        x = torch.sqrt(x)  # power normalisation, as for Fisher vectors
        return self.fc2(x)


class AverageMeter:
    def __init__(self):
        self.sum = self.n = 0

    def update(self, value, n=1):
        self.sum += value * n
        self.n += n

    @property
    def avg(self):
        return self.sum / max(self.n, 1)


def get_data():
    raw = np.load(os.environ["DOCTOR_DATA"])
    out = {}
    for part in ("train", "test"):
        x = raw[f"x_{part}"].astype(np.float32)[:, None] / 255.0
        out[part] = (torch.tensor((x - 0.286) / 0.353), torch.tensor(raw[f"y_{part}"], dtype=torch.int64))
    return out


def batches(pair, shuffle):
    x, y = pair
    order = torch.randperm(len(x)) if shuffle else torch.arange(len(x))
    for picks in order.split(BS):
        yield x[picks], y[picks]


def run_epoch(net, pair, criterion, optimizer=None):
    losses, top1 = AverageMeter(), AverageMeter()
    net.train(optimizer is not None)
    with torch.set_grad_enabled(optimizer is not None):
        for x, y in batches(pair, shuffle=optimizer is not None):
            out = net(x)
            loss = criterion(out, y)
            if optimizer is not None:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            losses.update(loss.item(), len(y))
            top1.update((out.argmax(1) == y).float().mean().item(), len(y))
    return losses.avg, top1.avg


if __name__ == "__main__":
    seed_everything(1234)
    data = get_data()
    net = VGG(ARCH)
    print(ARCH, "with", sum(p.numel() for p in net.parameters()), "weights")
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(net.parameters(), lr=LR, momentum=0.9, weight_decay=5e-4)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[EPOCHS * 2 // 3, EPOCHS * 5 // 6], gamma=0.2)
    for epoch in range(1, EPOCHS + 1):
        loss, acc = run_epoch(net, data["train"], criterion, optimizer)
        scheduler.step()
        print(f"epoch {epoch:02d} | loss {loss:.3f} | train acc {acc:.3f}")
    loss, acc = run_epoch(net, data["test"], criterion)
    print(f"test loss {loss:.3f}, test top1 = {acc:.4f}")
