"""One-cycle policy with a very large peak (Smith & Topin): few epochs, peak rate 1.0, momentum cycled against it."""
import os
import numpy as np
import torch
import torch.nn as nn


class Residual(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return x + self.inner(x)


def cbr(i, o, pool=False):
    mods = [nn.Conv2d(i, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU(True)]
    return nn.Sequential(*mods, nn.MaxPool2d(2)) if pool else nn.Sequential(*mods)


class Scale(nn.Module):
    def __init__(self, w):
        super().__init__()
        self.w = w

    def forward(self, x):
        return x * self.w


def resnet9ish():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(True),
        cbr(16, 32, pool=True), Residual(nn.Sequential(cbr(32, 32), cbr(32, 32))),
        cbr(32, 64, pool=True), nn.AdaptiveMaxPool2d(1), nn.Flatten(),
        nn.Linear(64, 10, bias=False), Scale(0.125))


def crop_flip(x, g):
    x = nn.functional.pad(x, (1, 1, 1, 1))
    i, j = torch.randint(0, 3, (2,), generator=g).tolist()
    x = x[:, :, i:i + 28, j:j + 28]
    mask = torch.rand(len(x), 1, 1, 1, generator=g) < 0.5
    return torch.where(mask, x.flip(3), x)


def fit(net, x, y, epochs=9, bs=100, peak=1.0):
    g = torch.Generator().manual_seed(0)
    per = len(y) // bs
    opt = torch.optim.SGD(net.parameters(), lr=peak / 25, momentum=0.9, weight_decay=5e-4, nesterov=True)
    cycle = torch.optim.lr_scheduler.OneCycleLR(opt, max_lr=peak, epochs=epochs, steps_per_epoch=per, pct_start=0.3)
    for e in range(epochs):
        net.train()
        order, tot = torch.randperm(len(y), generator=g), 0.0
        for b in order.view(per, bs):
            loss = nn.functional.cross_entropy(net(crop_flip(x[b], g)), y[b], label_smoothing=0.1)
            opt.zero_grad()
            loss.backward()
            opt.step()
            cycle.step()
            tot += loss.item()
        print("epoch %d  lr %.4f  loss %.3f" % (e, cycle.get_last_lr()[0], tot / per))


def evaluate(net, x, y):
    net.eval()
    with torch.no_grad():
        return torch.cat([net(c).argmax(1) for c in x.split(250)]).eq(y).float().mean().item()


if __name__ == "__main__":
    torch.manual_seed(9)
    torch.set_num_threads(1)
    blob = np.load(os.environ["DOCTOR_DATA"])
    prep = lambda k: (torch.from_numpy(blob[k].astype("float32")) / 255 - 0.286)[:, None] / 0.353
    lab = lambda k: torch.from_numpy(blob[k].astype("int64"))
    net = resnet9ish().to(memory_format=torch.channels_last)
    fit(net, prep("x_train"), lab("y_train"))
    print("held out accuracy: %.4f" % evaluate(net, prep("x_test"), lab("y_test")))
