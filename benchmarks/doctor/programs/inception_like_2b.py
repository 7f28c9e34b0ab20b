import os
import torch
from torch import nn
import torch.nn.functional as F
import numpy as np

torch.manual_seed(2)
np.random.seed(2)

# one line per stage. a | b | c are parallel branches, k is the kernel, p is 3x3 max pool in front, d halves the map
ARCH = """
conv 5 10 d
incep 1:8 | 1:6,3:12 | 1:4,5:6 | p,1:6 d
incep 1:12 | 1:8,3:20 | 1:4,5:8 | p,1:8
incep 1:16 | 1:10,3:24 | 1:4,5:8 | p,1:8
"""


class Branches(nn.Module):
    def __init__(self, cin, spec):
        super().__init__()
        self.paths = nn.ModuleList()
        self.width = 0
        for branch in spec.split("|"):
            mods, c = [], cin
            for tok in branch.strip().split(","):
                if tok == "p":
                    mods.append(nn.MaxPool2d(3, 1, 1))
                    continue
                k, out = (int(t) for t in tok.split(":"))
                mods += [nn.Conv2d(c, out, k, padding=k // 2), nn.ReLU()]
                c = out
            self.paths.append(nn.Sequential(*mods))
            self.width += c

    def forward(self, x):
        return torch.cat([p(x) for p in self.paths], 1)


def build(arch, n_out):
    layers, c = [], 1
    for line in arch.strip().splitlines():
        half = line.endswith(" d")
        kind, rest = line.removesuffix(" d").split(" ", 1)
        if kind == "conv":
            k, out = (int(t) for t in rest.split())
            layers += [nn.Conv2d(c, out, k, padding=k // 2), nn.ReLU()]
            c = out
        else:
            block = Branches(c, rest)
            layers.append(block)
            c = block.width
        if half:
            layers.append(nn.MaxPool2d(2))
    layers += [nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(c * 9, n_out)]
    return nn.Sequential(*layers)


def he(m):
    if isinstance(m, (nn.Conv2d, nn.Linear)):
        nn.init.kaiming_normal_(m.weight, nonlinearity="relu")
        nn.init.zeros_(m.bias)


D = np.load(os.environ["DOCTOR_DATA"])
X = torch.tensor(D["x_train"], dtype=torch.float32)[:, None] / 255
Y = torch.tensor(D["y_train"], dtype=torch.long)
XT = torch.tensor(D["x_test"], dtype=torch.float32)[:, None] / 255
YT = torch.tensor(D["y_test"], dtype=torch.long)
mu, sd = X.mean(), X.std()
X, XT = (X - mu) / sd, (XT - mu) / sd

net = build(ARCH, 10).apply(he)
print(sum(p.numel() for p in net.parameters()), "weights")

BS = 50
ROUNDS = 10
LR = 0.03
opt = torch.optim.SGD(net.parameters(), lr=LR, momentum=0.9, nesterov=True)
sched = torch.optim.lr_scheduler.MultiStepLR(opt, milestones=[6, 9], gamma=0.2)


def score(model, a, b):
    model.eval()
    with torch.no_grad():
        hits = sum((model(a[i:i + 250]).argmax(1) == b[i:i + 250]).sum().item() for i in range(0, len(a), 250))
    model.train()
    return hits / len(a)


for r in range(ROUNDS):
    order = torch.randperm(len(X))
    running = 0.0
    for j in range(0, len(X), BS):
        pick = order[j:j + BS]
        z = net(X[pick])
        loss = F.cross_entropy(z, Y[pick])
        opt.zero_grad()
        loss.backward()
        opt.step()
        running += loss.item()
    sched.step()
    print("round %d  loss %.4f  lr %g" % (r + 1, running * BS / len(X), opt.param_groups[0]["lr"]))

print("final test acc = %.4f" % score(net, XT, YT))
