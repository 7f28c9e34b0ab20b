"""Sharpness-aware minimisation: two gradients per update."""
import os
import numpy as np
import torch
from torch import nn


class SAM:
    def __init__(self, params, base, rho=0.05):
        self.params, self.base, self.rho = list(params), base, rho

    @torch.no_grad()
    def climb(self):
        norm = torch.stack([p.grad.norm() for p in self.params]).norm() + 1e-12
        self.moved = [p.grad * (self.rho / norm) for p in self.params]
        for p, e in zip(self.params, self.moved):
            p.add_(e)
        self.zero()

    @torch.no_grad()
    def descend(self):
        for p, e in zip(self.params, self.moved):
            p.sub_(e)
        self.base.step()
        self.zero()

    def zero(self):
        for p in self.params:
            p.grad = None


def data(part):
    z = np.load(os.environ["DOCTOR_DATA"])
    return torch.from_numpy(z["x_" + part]).float().reshape(-1, 1, 28, 28) / 255, torch.from_numpy(z["y_" + part]).long()


def model():
    m = nn.Sequential(
        nn.Conv2d(1, 12, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(12, 24, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(24, 24, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(24 * 49, 10),
    )
    for p in m.parameters():
        if p.dim() > 1:
            nn.init.kaiming_uniform_(p, nonlinearity="relu")
    return m


def main(epochs=7, bs=64, lr=0.03):
    torch.manual_seed(70)
    x, y = data("train")
    net, crit = model(), nn.CrossEntropyLoss()
    sgd = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    sam = SAM(net.parameters(), sgd)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, epochs)
    for ep in range(epochs):
        first = second = 0.0
        for idx in torch.randperm(len(y)).split(bs):
            xb, yb = x[idx], y[idx]
            loss = crit(net(xb), yb)
            loss.backward()
            sam.climb()
            worse = crit(net(xb), yb)
            worse.backward()
            sam.descend()
            first += loss.item() * len(idx) / len(y)
            second += worse.item() * len(idx) / len(y)
        decay.step()
        print(f"epoch {ep} loss here {first:.3f} loss uphill {second:.3f}")
    net.eval()
    xt, yt = data("test")
    with torch.no_grad():
        right = (net(xt).argmax(1) == yt).float().mean().item()
    print("sam accuracy", round(right, 4))


main()
