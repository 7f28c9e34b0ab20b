import os
import sys

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

"""Monte-Carlo dropout. Dropout stays on at test time by design: 10 noisy answers are averaged, their spread tells
how sure the net is. There is no batch norm in it, so train mode changes nothing else."""


def log(*words):
    print(*words, file=sys.stdout, flush=True)


class Doubtful(nn.Module):
    def __init__(self, p=0.2):
        super().__init__()
        self.p = p
        self.w1 = nn.Conv2d(1, 16, 5, padding=2)
        self.w2 = nn.Conv2d(16, 32, 5, padding=2)
        self.w3 = nn.Linear(32 * 16, 100)
        self.w4 = nn.Linear(100, 10)

    def forward(self, x):
        noise = lambda t: F.dropout(t, self.p, training=True)
        x = F.max_pool2d(F.relu(self.w1(x)), 2)
        x = F.adaptive_max_pool2d(F.relu(self.w2(F.dropout2d(x, self.p / 2, training=True))), 4)
        x = F.relu(self.w3(noise(x.flatten(1))))
        return self.w4(noise(x))

    def vote(self, x, times):
        with torch.no_grad():
            p = torch.stack([self(x).softmax(-1) for _ in range(times)])
        return p.mean(0), p.std(0).mean(-1)


def loaded():
    d = np.load(os.environ["DOCTOR_DATA"])
    as_float = lambda a: torch.from_numpy(a).float().view(-1, 1, 28, 28) / 255
    return as_float(d["x_train"]), torch.from_numpy(d["y_train"]).long(), as_float(d["x_test"]), torch.from_numpy(d["y_test"]).long()


def train(model, x, y, epochs, batch, lr):
    opt = torch.optim.Adam(model.parameters(), lr=lr, weight_decay=1e-5)
    for e in range(1, epochs + 1):
        if e > epochs - 3:
            for g in opt.param_groups:
                g["lr"] = lr / 5
        perm, total = np.random.permutation(len(x)), 0
        for start in range(0, len(x), batch):
            idx = torch.from_numpy(perm[start:start + batch])
            opt.zero_grad()
            loss = F.nll_loss(F.log_softmax(model(x[idx]), dim=1), y[idx])
            loss.backward()
            opt.step()
            total += loss.item() * len(idx)
        log("epoch", e, "loss %.4f" % (total / len(x)))


torch.manual_seed(4)
np.random.seed(4)
x_train, y_train, x_test, y_test = loaded()
model = Doubtful()
train(model, x_train, y_train, epochs=11, batch=64, lr=1e-3)

mean, spread = model.vote(x_test, 10)
right = (mean.argmax(-1) == y_test)
log("spread where right %.4f, where wrong %.4f" % (spread[right].mean(), spread[~right].mean()))
log("votes agree with the label: %.4f" % right.float().mean())
