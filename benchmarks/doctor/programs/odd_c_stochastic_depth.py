"""Deep networks with stochastic depth: whole residual branches are skipped at random while training."""
import os

import numpy as np
import torch
from torch import nn

torch.manual_seed(5)
torch.set_num_threads(1)
arr = np.load(os.environ["DOCTOR_DATA"])


def tensors(split):
    x = torch.as_tensor(arr[f"x_{split}"]).float().div_(255).sub_(0.29).div_(0.35)
    return x[:, None], torch.as_tensor(arr[f"y_{split}"]).long()


class Branch(nn.Module):
    def __init__(self, ch, survive):
        super().__init__()
        self.survive = survive
        self.f = nn.Sequential(nn.Conv2d(ch, ch, 3, padding=1, bias=False), nn.BatchNorm2d(ch), nn.ReLU(),
                               nn.Conv2d(ch, ch, 3, padding=1, bias=False), nn.BatchNorm2d(ch))

    def forward(self, x):
        if not self.training:
            return torch.relu(x + self.survive * self.f(x))
        if torch.rand(()) > self.survive:
            return x
        return torch.relu(x + self.f(x))


def stage(ch, n, first, total):
    return [Branch(ch, 1 - 0.5 * (first + i) / total) for i in range(n)]


def down(a, b):
    return [nn.Conv2d(a, b, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU()]


DEPTH = 8
net = nn.Sequential(*down(1, 16), *stage(16, 4, 1, DEPTH), *down(16, 32), *stage(32, 4, 5, DEPTH),
                    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))

x, y = tensors("train")
xt, yt = tensors("test")
opt = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, nesterov=True)
epochs, bs = 10, 64
steps = epochs * (len(y) // bs)
sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, steps)
celoss = nn.CrossEntropyLoss()

for ep in range(epochs):
    net.train()
    order = torch.randperm(len(y))
    seen = 0.0
    for k in range(len(y) // bs):
        i = order[k * bs:(k + 1) * bs]
        loss = celoss(net(x[i]), y[i])
        opt.zero_grad(set_to_none=True)
        loss.backward()     # the parameters of skipped branches have no gradient in this step
        opt.step()
        sched.step()
        seen += loss.item()
    print(f"epoch {ep} train loss {seen / (len(y) // bs):.3f}")

net.eval()
with torch.inference_mode():
    hits = [(net(a).argmax(1) == b).float() for a, b in zip(xt.split(100), yt.split(100))]
print(f"test accuracy {torch.cat(hits).mean():.4f}")
