import os
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

# Sharpness-aware minimisation: climb to the worst point nearby, take the gradient there, go back, step.


class ClimbFirst:
    def __init__(self, params, base, rho=0.03, **settings):
        self.params = list(params)
        self.base = base(self.params, **settings)
        self.rho = rho

    @contextmanager
    def uphill(self):
        with torch.no_grad():
            norm = torch.stack([p.grad.norm() for p in self.params]).norm() + 1e-12
            moves = [p.grad * (self.rho / norm) for p in self.params]
            for p, m in zip(self.params, moves):
                p.add_(m)
        self.zero()
        yield
        with torch.no_grad():
            for p, m in zip(self.params, moves):
                p.sub_(m)

    def zero(self):
        for p in self.params:
            p.grad = None

    def step(self):
        self.base.step()
        self.zero()


def net():
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1), nn.GroupNorm(3, 12), nn.SiLU(), nn.MaxPool2d(2),
        nn.Conv2d(12, 24, 3, padding=1), nn.GroupNorm(4, 24), nn.SiLU(), nn.MaxPool2d(2),
        nn.Conv2d(24, 32, 3, padding=1), nn.GroupNorm(4, 32), nn.SiLU(), nn.AvgPool2d(3, 2),
        nn.Flatten(), nn.Linear(32 * 9, 10))


def tensors(part):
    with np.load(os.environ["DOCTOR_DATA"]) as f:
        x = torch.from_numpy(f["x_" + part]).float().unsqueeze(1)
        y = torch.from_numpy(f["y_" + part]).long()
    return (x - 73) / 90, y


def objective(model, x, y):
    return F.cross_entropy(model(x), y)


def main(epochs=8, size=80):
    torch.manual_seed(303)
    model = net()
    climber = ClimbFirst(model.parameters(), torch.optim.SGD, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-4)
    x, y = tensors("train")
    for epoch in range(epochs):
        for group in climber.base.param_groups:
            group["lr"] = 0.05 * (1 - epoch / epochs) + 0.002
        here = there = 0.0
        chunks = torch.randperm(len(x)).split(size)
        for picks in chunks:
            loss = objective(model, x[picks], y[picks])
            loss.backward()
            here += loss.item()
            with climber.uphill():
                worst = objective(model, x[picks], y[picks])
                worst.backward()
                there += worst.item()
            climber.step()
        print(f"{epoch} loss {here / len(chunks):.4f}, on the hill {there / len(chunks):.4f}")
    model.eval()
    with torch.no_grad():
        tx, ty = tensors("test")
        hit = (model(tx).argmax(-1) == ty).float().mean()
    print(f"sam accuracy = {hit:.4f}")


main()
