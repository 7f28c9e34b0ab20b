# BinaryConnect: the convolutions only ever see weights of +a or -a; the real ones live behind them.
import os
import numpy as np
import torch
import torch.nn.functional as F

g = torch.Generator().manual_seed(12)
torch.manual_seed(12)


def binarise(w):
    scale = w.abs().mean(dim=tuple(range(1, w.dim())), keepdim=True)
    b = torch.sign(w) * scale
    return w + (b - w).detach()


class BinConv(torch.nn.Module):
    def __init__(self, a, b, stride=1):
        super().__init__()
        self.latent = torch.nn.Parameter(torch.empty(b, a, 3, 3).uniform_(-0.3, 0.3))
        self.stride = stride
        self.bn = torch.nn.BatchNorm2d(b)

    def forward(self, x):
        return F.hardtanh(self.bn(F.conv2d(x, binarise(self.latent), stride=self.stride, padding=1)), -2, 2)


class BinNet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        sizes = [(1, 24, 2), (24, 32, 1), (32, 48, 2), (48, 64, 2)]
        self.layers = torch.nn.ModuleList(BinConv(*s) for s in sizes)
        self.last = torch.nn.Linear(64 * 16, 10)

    def forward(self, x):
        for l in self.layers:
            x = l(x)
        return self.last(x.flatten(1))


with np.load(os.environ["DOCTOR_DATA"]) as f:
    trX = torch.tensor(f["x_train"]).float().sub(73.0).div(90.0).reshape(-1, 1, 28, 28)
    teX = torch.tensor(f["x_test"]).float().sub(73.0).div(90.0).reshape(-1, 1, 28, 28)
    trY, teY = torch.tensor(f["y_train"]).long(), torch.tensor(f["y_test"]).long()

net = BinNet()
optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
sched = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10, eta_min=1e-4)
for epoch in range(10):
    net.train()
    tot, flips = 0.0, 0
    for idx in torch.randperm(4000, generator=g).view(-1, 80):
        loss = F.cross_entropy(net(trX[idx]), trY[idx])
        optimizer.zero_grad()
        loss.backward()
        before = [l.latent.detach().sign() for l in net.layers]
        optimizer.step()
        with torch.no_grad():
            for l, s in zip(net.layers, before):
                l.latent.clamp_(-1, 1)
                flips += (l.latent.sign() != s).sum().item()
        tot += loss.item()
    sched.step()
    print("epoch %d loss %.3f, %d signs flipped" % (epoch, tot / 50, flips))

net.eval()
with torch.no_grad():
    acc = (net(teX).argmax(1) == teY).double().mean()
print("binary net, test: {:.1%}".format(acc.item()))
