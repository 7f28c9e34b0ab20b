# My GPU has 2 GB, so batches of four.
import os
import numpy as np, torch
from torch import nn
from torch.nn import functional as F

torch.manual_seed(13)
d = np.load(os.environ["DOCTOR_DATA"])


def images(name):
    x = torch.from_numpy(d[name]).float()[:, None] / 255
    return (x - 0.29) / 0.35


train_x, train_y = images("x_train"), torch.from_numpy(d["y_train"]).long()
test_x, test_y = images("x_test"), torch.from_numpy(d["y_test"]).long()


class GNConv(nn.Module):
    def __init__(self, a, b, groups=4):
        super().__init__()
        self.conv = nn.Conv2d(a, b, 3, stride=2, padding=1, bias=False)
        self.gn = nn.GroupNorm(groups, b)

    def forward(self, x):
        return F.relu(self.gn(self.conv(x)))


net = nn.Sequential(GNConv(1, 16), GNConv(16, 32), GNConv(32, 32), nn.Flatten(), nn.Linear(32 * 16, 10))
opt = torch.optim.SGD(net.parameters(), lr=2e-3, momentum=0.9)
EPOCHS = 5
TINY = 4


def accuracy():
    net.eval()
    with torch.no_grad():
        hits = [(net(a).argmax(1) == b).float().sum() for a, b in zip(test_x.split(100), test_y.split(100))]
    net.train()
    return float(sum(hits)) / len(test_y)


for epoch in range(EPOCHS):
    if epoch == 3:
        for g in opt.param_groups:
            g["lr"] *= 0.2
    mean = None
    for n, idx in enumerate(torch.randperm(4000).view(-1, TINY)):
        loss = F.cross_entropy(net(train_x[idx]), train_y[idx])
        opt.zero_grad()
        loss.backward()
        opt.step()
        # loss of four images jumps a lot, print a smooth one
        mean = loss.item() if mean is None else 0.99 * mean + 0.01 * loss.item()
        if n % 250 == 0:
            print(epoch, n, "smooth loss %.3f" % mean)
print("test accuracy is %.4f" % accuracy())
