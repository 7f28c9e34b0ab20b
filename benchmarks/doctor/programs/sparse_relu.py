"""Wide hidden layers pushed towards few active units."""
import os

import numpy as np
import torch
from torch import nn

torch.manual_seed(0)
data = np.load(os.environ["DOCTOR_DATA"])
x = torch.from_numpy(data["x_train"]).flatten(1).float() / 255
y = torch.from_numpy(data["y_train"]).long()
xt = torch.from_numpy(data["x_test"]).flatten(1).float() / 255
yt = torch.from_numpy(data["y_test"]).long()

first, second, last = nn.Linear(784, 512), nn.Linear(512, 256), nn.Linear(256, 10)
net = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last)
for layer in (first, second):
    nn.init.kaiming_normal_(layer.weight)
    nn.init.constant_(layer.bias, -0.6)
optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
loss_fn = nn.CrossEntropyLoss()

for epoch in range(4):
    for rows in torch.randperm(len(x)).split(64):
        hidden = net[:4](x[rows])
        loss = loss_fn(net[4](hidden), y[rows]) + 1e-3 * hidden.abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch} loss {loss.item():.3f} zeros {(hidden == 0).float().mean().item():.2f}")

with torch.no_grad():
    print("test accuracy", (net(xt).argmax(1) == yt).float().mean().item())
