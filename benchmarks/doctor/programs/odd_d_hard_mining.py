import os
import numpy as np
import torch
import torch.nn.functional as F

# Online hard example mining, no nn.Module at all: parameters in a dict, momentum SGD by hand.
g = torch.Generator().manual_seed(19)


def he(*shape):
    fan_in = int(np.prod(shape[1:]))
    return (torch.randn(*shape, generator=g) * (2 / fan_in) ** 0.5).requires_grad_()


def zero(n):
    return torch.zeros(n, requires_grad=True)


P = {
    "w1": he(12, 1, 5, 5), "b1": zero(12),
    "w2": he(24, 12, 3, 3), "b2": zero(24),
    "w3": he(64, 24 * 49), "b3": zero(64),
    "w4": he(10, 64), "b4": zero(10),
}
V = {k: torch.zeros_like(p) for k, p in P.items()}


def forward(x):
    x = F.max_pool2d(F.relu(F.conv2d(x, P["w1"], P["b1"], padding=2)), 2)
    x = F.max_pool2d(F.relu(F.conv2d(x, P["w2"], P["b2"], padding=1)), 2)
    x = F.relu(F.linear(x.flatten(1), P["w3"], P["b3"]))
    return F.linear(x, P["w4"], P["b4"])


def update(lr, mu=0.9):
    with torch.no_grad():
        for k, p in P.items():
            V[k].mul_(mu).add_(p.grad)
            p.sub_(lr * V[k])
            p.grad = None


def load(s):
    z = np.load(os.environ["DOCTOR_DATA"])
    return torch.tensor(z["x_" + s] / 255.0 - 0.286, dtype=torch.float32)[:, None] / 0.353, torch.tensor(z["y_" + s]).long()


x, y = load("train")
EPOCHS, BIG, HARD = 10, 80, 40
for epoch in range(EPOCHS):
    lr = 0.02 * (0.1 ** (epoch / EPOCHS))
    everything, hardest = [], []
    for idx in torch.randperm(len(x), generator=g).split(BIG):
        each = F.cross_entropy(forward(x[idx]), y[idx], reduction="none")
        # only the worse half of a batch is learnt from, once the net knows a little
        kept = each if epoch < 2 else each.topk(HARD).values
        kept.mean().backward()
        update(lr)
        everything.append(each.mean().item())
        hardest.append(kept.mean().item())
    print("epoch %2d  mean loss %.3f  of which learnt from %.3f" % (epoch, np.mean(everything), np.mean(hardest)))

xt, yt = load("test")
with torch.no_grad():
    print("Test acc. %.4f" % (forward(xt).argmax(1) == yt).float().mean().item())
