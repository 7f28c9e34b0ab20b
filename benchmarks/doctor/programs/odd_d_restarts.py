import os
import numpy as np
import torch
import torch.nn as nn
from torch.nn.utils.parametrizations import weight_norm

# SGDR: the rate falls and jumps back, cycles of 2, 4 and 6 epochs. Weight normalisation instead of batch norm,
# and the bottom of the net learns twenty times slower than the top.


class WNBlock(nn.Sequential):
    def __init__(self, i, o):
        super().__init__(weight_norm(nn.Conv2d(i, o, 3, padding=1)), nn.ELU(), nn.MaxPool2d(2))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.bottom = WNBlock(1, 16)
        self.middle = WNBlock(16, 32)
        self.top = nn.Sequential(nn.Flatten(), nn.Dropout(0.25), weight_norm(nn.Linear(32 * 49, 64)), nn.ELU(), nn.Linear(64, 10))

    def forward(self, x):
        return self.top(self.middle(self.bottom(x)))


def arrays():
    with np.load(os.environ["DOCTOR_DATA"]) as z:
        for s in ("train", "test"):
            yield torch.from_numpy(z["x_" + s]).float()[:, None] / 128 - 0.6
            yield torch.from_numpy(z["y_" + s]).long()


torch.manual_seed(64)
xa, ya, xb, yb = arrays()
model = Model()
optimizer = torch.optim.SGD(
    [
        {"params": model.bottom.parameters(), "lr": 0.002},
        {"params": model.middle.parameters(), "lr": 0.01},
        {"params": model.top.parameters(), "lr": 0.04},
    ],
    momentum=0.9,
)
size = 50
steps = len(xa) // size
cycle = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=steps * 2, T_mult=2, eta_min=1e-4)
loss_fn = nn.CrossEntropyLoss(label_smoothing=0.02)
for epoch in range(14):
    model.train()
    s = 0.0
    shuffled = torch.randperm(len(xa))
    for k in range(steps):
        j = shuffled[k * size:(k + 1) * size]
        loss = loss_fn(model(xa[j]), ya[j])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        cycle.step()
        s += loss.item()
    print("epoch", epoch, "loss %.4f" % (s / steps), "rates", ["%.4f" % g for g in cycle.get_last_lr()])

model.eval()
with torch.no_grad():
    print("top1: %.4f" % (model(xb).argmax(1) == yb).float().mean())
