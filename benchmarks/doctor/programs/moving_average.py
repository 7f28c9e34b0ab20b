import copy
import os

import numpy as np
import torch
import torch.nn as nn


class EMA:
    def __init__(self, model, decay=0.98):
        self.copy = copy.deepcopy(model).eval()
        self.decay = decay
        for p in self.copy.parameters():
            p.requires_grad_(False)

    @torch.no_grad()
    def update(self, model):
        for mine, theirs in zip(self.copy.state_dict().values(), model.state_dict().values()):
            if mine.dtype.is_floating_point:
                mine.mul_(self.decay).add_(theirs, alpha=1 - self.decay)
            else:
                mine.copy_(theirs)


torch.manual_seed(0)
arrays = np.load(os.environ["DOCTOR_DATA"])
x = torch.from_numpy(arrays["x_train"]).float()[:, None] / 255
y = torch.from_numpy(arrays["y_train"]).long()
model = nn.Sequential(nn.Conv2d(1, 12, 3, 2), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 24, 3, 2),
                      nn.BatchNorm2d(24), nn.ReLU(), nn.Flatten(), nn.Linear(24 * 36, 10))
ema = EMA(model)
opt = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
for epoch in range(4):
    model.train()
    for pick in torch.randperm(len(x)).split(64):
        loss = nn.functional.cross_entropy(model(x[pick]), y[pick])
        opt.zero_grad()
        loss.backward()
        opt.step()
        ema.update(model)
    print(epoch, f"{loss.item():.3f}")
xt, yt = torch.from_numpy(arrays["x_test"]).float()[:, None] / 255, torch.from_numpy(arrays["y_test"]).long()
with torch.no_grad():
    print("EMA accuracy:", (ema.copy(xt).argmax(1) == yt).float().mean().item())
