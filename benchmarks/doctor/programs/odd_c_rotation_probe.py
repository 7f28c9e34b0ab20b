"""Self-supervision: learn to tell by how many quarter turns a picture was rotated, then fit a linear probe."""
import os

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

torch.manual_seed(21)
torch.set_num_threads(1)


class Trunk(nn.Module):
    def __init__(self, dims=(24, 48, 96)):
        super().__init__()
        seq, c = [], 1
        for d in dims:
            seq += [nn.Conv2d(c, d, 3, padding=1, bias=False), nn.BatchNorm2d(d), nn.ReLU(), nn.MaxPool2d(2)]
            c = d
        self.seq = nn.Sequential(*seq)
        self.dim = c * 9

    def forward(self, x):
        return self.seq(x).flatten(1)


def loader(x, y, bs):
    for i in torch.randperm(len(x)).split(bs):
        yield x[i], y[i]


def rotate(batch):
    turns = torch.randint(0, 4, (len(batch),))
    return torch.stack([torch.rot90(img, int(k), (1, 2)) for img, k in zip(batch, turns)]), turns


def pretrain(trunk, x, epochs=6):
    head = nn.Linear(trunk.dim, 4)
    opt = torch.optim.AdamW([*trunk.parameters(), *head.parameters()], lr=2e-3, weight_decay=1e-2)
    for ep in range(epochs):
        trunk.train()
        right, n = 0, 0
        for xb, _ in loader(x, x, 80):
            xr, t = rotate(xb)
            logits = head(trunk(xr))
            loss = F.cross_entropy(logits, t)
            opt.zero_grad()
            loss.backward()
            opt.step()
            right += (logits.argmax(1) == t).sum().item()
            n += len(t)
        print(f"[pretext] epoch {ep + 1}: rotation accuracy {right / n:.3f}")


def probe(trunk, x, y, epochs=12):
    trunk.requires_grad_(False)
    trunk.eval()
    with torch.no_grad():
        feats = torch.cat([trunk(c) for c in x.split(200)])
    norm = feats.mean(0), feats.std(0) + 1e-2
    feats = (feats - norm[0]) / norm[1]
    lin = nn.Linear(trunk.dim, 10)
    opt = torch.optim.Adam(lin.parameters(), lr=1e-3, weight_decay=1e-3)
    for ep in range(epochs):
        tot = 0.0
        for fb, yb in loader(feats, y, 100):
            loss = F.cross_entropy(lin(fb), yb)
            opt.zero_grad()
            loss.backward()
            opt.step()
            tot += loss.item() * len(yb)
        print(f"[probe] epoch {ep + 1}: loss {tot / len(y):.4f}")
    return lambda z: lin((trunk(z) - norm[0]) / norm[1])


def main():
    with np.load(os.environ["DOCTOR_DATA"]) as d:
        x, y, xt, yt = (torch.from_numpy(d[k]) for k in ("x_train", "y_train", "x_test", "y_test"))
    x, xt = x[:, None].float() / 255, xt[:, None].float() / 255
    trunk = Trunk()
    pretrain(trunk, x)
    clf = probe(trunk, x, y.long())
    with torch.no_grad():
        good = sum((clf(a).argmax(1) == b).sum().item() for a, b in zip(xt.split(200), yt.long().split(200)))
    print(f"linear probe accuracy: {good / len(yt):.3f}")


main()
