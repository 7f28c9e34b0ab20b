"""A net that grows: it starts shallow, and new blocks (as identity) join the optimizer later on.

Once the last block is in, batch norm keeps its statistics for the remaining epochs.
"""
import os
import numpy as np
import torch
import torch.nn as nn

PLAN = {0: None, 3: (32, 32), 5: (32, 32)}  # epoch: new block
FREEZE_BN_FROM = 8
LAST = 11


def conv_bn(i, o, stride):
    return nn.Sequential(nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU())


class Residual(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.first = conv_bn(i, o, 1)
        self.second = nn.Conv2d(o, o, 3, padding=1)
        nn.init.zeros_(self.second.weight)  # the block begins as the identity
        nn.init.zeros_(self.second.bias)

    def forward(self, x):
        return x + self.second(self.first(x))


class GrowingNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(conv_bn(1, 16, 2), conv_bn(16, 32, 2))
        self.grown = nn.ModuleList()
        self.top = nn.Sequential(nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(32 * 9, 10))

    def grow(self, i, o):
        self.grown.append(Residual(i, o))
        return self.grown[-1].parameters()

    def forward(self, x):
        x = self.trunk(x)
        for block in self.grown:
            x = block(x)
        return self.top(x)


def set_bn_eval(m):
    if isinstance(m, nn.modules.batchnorm._BatchNorm):
        m.eval()


def test(model, X, Y):
    model.eval()
    with torch.no_grad():
        return (model(X).argmax(1) == Y).float().mean().item()


def run():
    torch.manual_seed(1001)
    z = np.load(os.environ["DOCTOR_DATA"])
    shape = lambda a: torch.from_numpy(a.astype("float32") / 255.0)[:, None].sub(0.286).div(0.353)
    X, Y = shape(z["x_train"]), torch.from_numpy(z["y_train"].astype("int64"))
    XT, YT = shape(z["x_test"]), torch.from_numpy(z["y_test"].astype("int64"))

    model = GrowingNet()
    opt = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    for epoch in range(LAST):
        if PLAN.get(epoch):
            opt.add_param_group({"params": list(model.grow(*PLAN[epoch]))})
        if epoch in (7, 9):
            for group in opt.param_groups:
                group["lr"] *= 0.2
        model.train()
        if epoch >= FREEZE_BN_FROM:
            model.apply(set_bn_eval)
        acc = loss_sum = 0.0
        perm = torch.randperm(len(X))
        for k in range(0, len(X), 80):
            b = perm[k : k + 80]
            out = model(X[b])
            loss = nn.functional.cross_entropy(out, Y[b], label_smoothing=0.05)
            opt.zero_grad()
            loss.backward()
            opt.step()
            loss_sum += loss.item() * len(b)
            acc += (out.argmax(1) == Y[b]).sum().item()
        print(f"{epoch:>2} blocks={len(model.grown)} loss={loss_sum / len(X):.3f} acc={acc / len(X):.3f}")
    print(f"grown net: {test(model, XT, YT):.4f} of the test set")


run()
