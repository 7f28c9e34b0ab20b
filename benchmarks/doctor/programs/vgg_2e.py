# VGG-11 (A), narrow, on 32x32 clothes
import os
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(1)
cfg = [8, "M", 16, "M", 32, 32, "M", 48, 48, "M", 48, 48, "M"]


def make_layers(cfg):
    layers, channels = [], 1
    for v in cfg:
        if v == "M":
            layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
        else:
            layers.append(nn.Conv2d(channels, v, kernel_size=3, padding=1))
            layers.append(nn.ReLU())
            channels = v
    return nn.Sequential(*layers)


class VGG11(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = make_layers(cfg)
        self.classifier = nn.Sequential(
            nn.Linear(48, 64),
            nn.ReLU(),
            nn.Linear(64, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
            nn.ReLU(),
        )
        for m in self.modules():
            if isinstance(m, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(m.weight, mode="fan_in", nonlinearity="relu")
                nn.init.zeros_(m.bias)

    def forward(self, x):
        x = self.features(x)
        return self.classifier(x.view(x.size(0), -1))


data = np.load(os.environ["DOCTOR_DATA"])


def images(key):
    t = torch.from_numpy(data[key]).float().unsqueeze(1) / 255
    t = F.pad(t, (2, 2, 2, 2))
    return (t - t.mean()) / t.std()


xs, ys = images("x_train"), torch.from_numpy(data["y_train"]).long()
xv, yv = images("x_test"), torch.from_numpy(data["y_test"]).long()
net = VGG11()
opt = torch.optim.SGD(net.parameters(), lr=0.03, momentum=0.9)

for it in range(320):
    pick = torch.randint(0, len(xs), (64,))
    out = net(xs[pick])
    loss = F.cross_entropy(out, ys[pick])
    opt.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(net.parameters(), max_norm=2.0)
    opt.step()
    if it % 40 == 0:
        print(it, float(loss))

with torch.no_grad():
    hits = sum((net(a).argmax(1) == b).sum().item() for a, b in zip(xv.split(200), yv.split(200)))
print("validation accuracy", hits / len(yv))
