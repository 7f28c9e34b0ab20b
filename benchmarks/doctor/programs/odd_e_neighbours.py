"""No classifier at all: supervised contrastive embedding, classes are told by the nearest mean of the training images."""
import math
import os

import numpy as np
import torch
from torch import nn
import torch.nn.functional as F

SETTINGS = dict(width=20, dim=32, temperature=0.15, rate=1.5e-3, epochs=10, batch=128, seed=99)


def read(name):
    z = np.load(os.environ["DOCTOR_DATA"])
    images = torch.from_numpy(z["x_" + name].astype("float32") / 127.5 - 1.0)
    return images.unsqueeze(1), torch.from_numpy(z["y_" + name].astype("int64"))


class Embed(nn.Module):
    def __init__(self, width, dim):
        super().__init__()
        stages, i = [], 1
        for o in (width, width * 2, width * 2):
            stages += [nn.Conv2d(i, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU(), nn.MaxPool2d(2)]
            i = o
        self.trunk = nn.Sequential(*stages, nn.Flatten())
        self.project = nn.Linear(width * 2 * 9, dim)

    def forward(self, x):
        return F.normalize(self.project(self.trunk(x)), dim=1)


def jitter(x):
    """A mirrored half and a shift by up to two pixels."""
    mirrored = torch.rand(len(x)) < 0.5
    x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
    dy, dx = torch.randint(-2, 3, (2,)).tolist()
    padded = F.pad(x, (2, 2, 2, 2), value=-1.0)
    return padded[:, :, 2 + dy:30 + dy, 2 + dx:30 + dx]


def contrast(e, labels, temperature):
    logits = e @ e.T / temperature
    itself = torch.eye(len(e), dtype=torch.bool)
    logits = logits.masked_fill(itself, -1e9)
    same = (labels[:, None] == labels[None]) & ~itself
    logp = logits - logits.logsumexp(1, keepdim=True)
    return -(logp * same).sum(1).div(same.sum(1).clamp(min=1)).mean()


@torch.no_grad()
def embed(net, x):
    net.eval()
    return torch.cat([net(part) for part in x.split(500)])


s = SETTINGS
torch.manual_seed(s["seed"])
x, y = read("train")
net = Embed(s["width"], s["dim"])
optimizer = torch.optim.AdamW(net.parameters(), lr=s["rate"], weight_decay=1e-3)
floor = math.log(s["batch"] / 10)
for epoch in range(s["epochs"]):
    net.train()
    order, running = torch.randperm(len(x)), []
    for k in range(0, len(x) - s["batch"] + 1, s["batch"]):
        i = order[k:k + s["batch"]]
        loss = contrast(net(jitter(x[i])), y[i], s["temperature"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        running.append(loss.item())
    if epoch == s["epochs"] * 2 // 3:
        optimizer.param_groups[0]["lr"] *= 0.2
    print(f"epoch {epoch}: contrastive loss {np.mean(running):.3f} (about {floor:.2f} is the least there can be)")

known = embed(net, x)
means = F.normalize(torch.stack([known[y == c].mean(0) for c in range(10)]), dim=1)
tx, ty = read("test")
guess = (embed(net, tx) @ means.T).argmax(1)
print(f"nearest mean is right for {(guess == ty).double().mean():.4f}")
