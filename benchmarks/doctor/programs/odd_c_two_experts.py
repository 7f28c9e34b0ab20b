"""Two different networks trained side by side, each by an optimizer of its own; the answer is their mean. Test-time flips."""
import os
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

torch.manual_seed(31)
np.random.seed(31)
torch.set_num_threads(1)


class Wide(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 32, 5, 2, 2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3, 1, 1), nn.ReLU())
        self.head = nn.Linear(64 * 49, 10)

    def forward(self, x):
        return self.head(self.body(x).flatten(1))


class Deep(nn.Module):
    def __init__(self, c=20, depth=5):
        super().__init__()
        self.stem = nn.Conv2d(1, c, 3, 2, 1)
        self.convs = nn.ModuleList(nn.Conv2d(c, c, 3, 1, 1, bias=False) for _ in range(depth))
        self.norms = nn.ModuleList(nn.GroupNorm(4, c) for _ in range(depth))
        self.head = nn.Linear(c * 9, 10)

    def forward(self, x):
        x = F.gelu(self.stem(x))
        for conv, norm in zip(self.convs, self.norms):
            x = x + F.gelu(norm(conv(x)))
        return self.head(F.adaptive_avg_pool2d(x, 3).flatten(1))


def cutmix(x, y, alpha=1.0):
    lam = np.random.beta(alpha, alpha)
    other = torch.randperm(len(x))
    side = int(28 * np.sqrt(1 - lam))
    r, c = np.random.randint(0, 28 - side + 1, 2)
    x = x.clone()
    x[:, :, r:r + side, c:c + side] = x[other, :, r:r + side, c:c + side]
    kept = 1 - side * side / 784
    return x, y, y[other], kept


d = np.load(os.environ["DOCTOR_DATA"])
X, T = torch.tensor(d["x_train"])[:, None] / 255.0, torch.tensor(d["y_train"]).long()
Xt, Tt = torch.tensor(d["x_test"])[:, None] / 255.0, torch.tensor(d["y_test"]).long()

team = {"wide": (Wide(), lambda p: torch.optim.SGD(p, lr=0.03, momentum=0.9)),
        "deep": (Deep(), lambda p: torch.optim.AdamW(p, lr=2e-3, weight_decay=0.05))}
team = {k: (m, make(m.parameters())) for k, (m, make) in team.items()}

for epoch in range(12):
    sums = dict.fromkeys(team, 0.0)
    for idx in torch.randperm(len(T)).split(64):
        xb, ya, yb, kept = X[idx], T[idx], T[idx], 1.0
        if np.random.rand() < 0.3:
            xb, ya, yb, kept = cutmix(xb, ya)
        for name, (m, opt) in team.items():
            m.train()
            out = m(xb)
            loss = kept * F.cross_entropy(out, ya) + (1 - kept) * F.cross_entropy(out, yb)
            opt.zero_grad()
            loss.backward()
            opt.step()
            sums[name] += loss.item() * len(idx) / len(T)
    print(epoch, "  ".join(f"{k} {v:.3f}" for k, v in sums.items()))

with torch.no_grad():
    votes = 0
    for name, (m, _) in team.items():
        m.eval()
        p = (m(Xt).softmax(1) + m(Xt.flip(3)).softmax(1)) / 2
        print(name, "alone:", (p.argmax(1) == Tt).float().mean().item())
        votes = votes + p
print("team accuracy:", (votes.argmax(1) == Tt).float().mean().item())
