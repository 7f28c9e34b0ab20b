"""FixMatch-like learning from 1000 labelled images; the labels of the other 3000 are hidden (-1)."""
import os

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

HIDDEN = -1
THRESHOLD = 0.9


def weak(x):
    flip = torch.rand(len(x)) < 0.5
    return torch.where(flip[:, None, None, None], x.flip(-1), x)


def strong(x):
    x = weak(x)
    dy, dx = torch.randint(-2, 3, (2,)).tolist()
    x = torch.roll(x, (dy, dx), dims=(-2, -1))
    return x * (0.7 + 0.6 * torch.rand(len(x), 1, 1, 1)) + 0.05 * torch.randn_like(x)


class Student(nn.Module):
    def __init__(self, w=24):
        super().__init__()
        self.c1, self.n1 = nn.Conv2d(1, w, 3, padding=1, stride=2), nn.GroupNorm(4, w)
        self.c2, self.n2 = nn.Conv2d(w, 2 * w, 3, padding=1), nn.GroupNorm(4, 2 * w)
        self.c3, self.n3 = nn.Conv2d(2 * w, 2 * w, 3, padding=1), nn.GroupNorm(4, 2 * w)
        self.fc = nn.Linear(2 * w * 9, 10)

    def forward(self, x):
        x = F.gelu(self.n1(self.c1(x)))
        x = F.max_pool2d(F.gelu(self.n2(self.c2(x))), 2)
        x = F.max_pool2d(F.gelu(self.n3(self.c3(x))), 2)
        return self.fc(x.flatten(1))


def loaders(n_labelled=1000):
    z = np.load(os.environ["DOCTOR_DATA"])
    x = torch.from_numpy(z["x_train"]).float()[:, None] / 255
    y = torch.from_numpy(z["y_train"]).long().clone()
    y[torch.randperm(len(y))[n_labelled:]] = HIDDEN
    test = TensorDataset(torch.from_numpy(z["x_test"]).float()[:, None] / 255, torch.from_numpy(z["y_test"]).long())
    return DataLoader(TensorDataset(x, y), batch_size=100, shuffle=True), DataLoader(test, batch_size=500)


def train(model, loader, epochs=12):
    opt = torch.optim.Adam(model.parameters(), lr=2e-3, betas=(0.9, 0.99))
    sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, epochs * len(loader))
    for epoch in range(epochs):
        model.train()
        ramp = min(1.0, epoch / 5)
        sums, used = np.zeros(2), 0
        for x, y in loader:
            supervised = F.cross_entropy(model(weak(x)), y, ignore_index=HIDDEN)
            with torch.no_grad():
                sure, guess = model(weak(x)).softmax(1).max(1)
            guess[(sure < THRESHOLD) | (y != HIDDEN)] = HIDDEN
            agreed = F.cross_entropy(model(strong(x)), guess, ignore_index=HIDDEN, reduction="sum") / len(x)
            loss = supervised + ramp * agreed
            opt.zero_grad()
            loss.backward()
            opt.step()
            sched.step()
            sums += supervised.item(), agreed.item()
            used += (guess != HIDDEN).sum().item()
        print(f"epoch {epoch} supervised {sums[0] / len(loader):.3f} consistency {sums[1] / len(loader):.3f} pseudo-labels {used}")


def evaluate(model, loader):
    model.eval()
    with torch.no_grad():
        pairs = [(model(x).argmax(1), y) for x, y in loader]
    guess, truth = map(torch.cat, zip(*pairs))
    return (guess == truth).float().mean().item()


if __name__ == "__main__":
    torch.manual_seed(31)
    model = Student()
    labelled, held_out = loaders()
    train(model, labelled)
    print(f"semi-supervised accuracy: {evaluate(model, held_out):.4f}")
