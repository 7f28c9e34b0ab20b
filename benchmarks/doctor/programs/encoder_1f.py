# Small encoder + classifier, trained jointly. The averaged copy is what we ship.
import copy
import os
import random

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

hp = {
    "code_dim": 48,
    "widths": [16, 32, 32, 48],
    "strides": [1, 2, 1, 2],
    "activation": "relu",
    "lr": 0.03,
    "momentum": 0.9,
    "l2": 1e-4,
    "ema": 0.97,
    "bs": 50,
    "epochs": 7,
}
ACTS = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "elu": nn.ELU}


def seed_everything(s):
    random.seed(s)
    np.random.seed(s)
    torch.manual_seed(s)


def get_data():
    raw = np.load(os.environ["DOCTOR_DATA"])
    to_x = lambda a: torch.from_numpy(a).float().unsqueeze(1).div(255)
    to_y = lambda a: torch.from_numpy(a).long()
    return (to_x(raw["x_train"]), to_y(raw["y_train"])), (to_x(raw["x_test"]), to_y(raw["y_test"]))


class EdgeStrength(nn.Module):
    """Length of the vector of two learnt directional derivatives."""

    def __init__(self, channels):
        super().__init__()
        self.dx = nn.Conv2d(1, channels, 3, padding=1, bias=False)
        self.dy = nn.Conv2d(1, channels, 3, padding=1, bias=False)

    def forward(self, x):
        return torch.sqrt(self.dx(x) ** 2 + self.dy(x) ** 2)


def make_encoder(hp):
    act = ACTS[hp["activation"]]
    layers, c = [EdgeStrength(8), nn.MaxPool2d(2)], 8
    for w, s in zip(hp["widths"], hp["strides"]):
        layers += [nn.Conv2d(c, w, 3, stride=s, padding=1), act()]
        c = w
    layers += [nn.Flatten(), nn.Linear(c * 16, hp["code_dim"]), act()]
    return nn.Sequential(*layers)


def make_head(hp):
    return nn.Linear(hp["code_dim"], 10)


def init(m):
    if isinstance(m, (nn.Conv2d, nn.Linear)):
        nn.init.kaiming_normal_(m.weight, nonlinearity="relu")
        if m.bias is not None:
            nn.init.zeros_(m.bias)


def build(hp):
    nets = nn.ModuleDict({"encoder": make_encoder(hp), "head": make_head(hp)})
    nets.apply(init)
    return nets


def logits_of(nets, x):
    return nets["head"](nets["encoder"](x))


def batches(x, y, bs):
    for idx in torch.randperm(len(x)).split(bs):
        yield x[idx], y[idx]


def blend(average, current, rho):
    with torch.no_grad():
        for a, b in zip(average.parameters(), current.parameters()):
            a.lerp_(b, 1 - rho)


def score(nets, x, y):
    nets.eval()
    with torch.no_grad():
        out = torch.cat([logits_of(nets, part) for part in x.split(250)])
    nets.train()
    return (out.argmax(-1) == y).float().mean().item()


seed_everything(5)
(xtr, ytr), (xte, yte) = get_data()
nets = build(hp)
smooth = copy.deepcopy(nets)
opt = torch.optim.SGD(nets.parameters(), lr=hp["lr"], momentum=hp["momentum"])
total_steps = hp["epochs"] * (len(xtr) // hp["bs"])
sched = torch.optim.lr_scheduler.LambdaLR(opt, lambda t: max(0.05, 1 - t / total_steps))
print("parameters:", sum(p.numel() for p in nets.parameters()))

for ep in range(1, hp["epochs"] + 1):
    log = []
    for xb, yb in batches(xtr, ytr, hp["bs"]):
        pred = logits_of(nets, xb)
        penalty = sum(p.pow(2).sum() for p in nets.parameters())
        loss = F.cross_entropy(pred, yb) + hp["l2"] * penalty
        opt.zero_grad(set_to_none=True)
        loss.backward()
        opt.step()
        sched.step()
        blend(smooth, nets, hp["ema"])
        log.append(loss.item())
    print(f"[{ep:02d}] loss {np.mean(log):.4f}  train (first 1000) {score(nets, xtr[:1000], ytr[:1000]):.3f}")

print(f"shipped model, test set: {score(smooth, xte, yte):.4f}")
