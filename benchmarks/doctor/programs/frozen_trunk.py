"""Transfer: a trunk learns classes 0-4, is saved, and serves frozen under a new head for all ten."""
import os
import tempfile

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(6)
d = np.load(os.environ["DOCTOR_DATA"])
x, y = torch.tensor(d["x_train"]).float().unsqueeze(1) / 255, torch.tensor(d["y_train"]).long()
xt, yt = torch.tensor(d["x_test"]).float().unsqueeze(1) / 255, torch.tensor(d["y_test"]).long()


def trunk():
    return nn.Sequential(nn.Conv2d(1, 16, 5, 2), nn.ReLU(), nn.Conv2d(16, 32, 3, 2), nn.ReLU(), nn.Flatten(),
                         nn.Linear(800, 96), nn.ReLU())


def run(model, loader, epochs, params, lr):
    opt = torch.optim.Adam(params, lr=lr)
    for epoch in range(epochs):
        for a, b in loader:
            opt.zero_grad()
            loss = nn.functional.cross_entropy(model(a), b)
            loss.backward()
            opt.step()
        print("  loss", round(loss.item(), 3))


few = y < 5
path = os.path.join(tempfile.mkdtemp(), "trunk.pt")
source = nn.Sequential(trunk(), nn.Linear(96, 5))
print("pretraining")
run(source, DataLoader(TensorDataset(x[few], y[few]), 50, shuffle=True), 3, source.parameters(), 2e-3)
torch.save(source[0].state_dict(), path)

body = trunk()
body.load_state_dict(torch.load(path))
for p in body.parameters():
    p.requires_grad = False
head = nn.Linear(96, 10)
model = nn.Sequential(body, head)
print("new head")
run(model, DataLoader(TensorDataset(x, y), 50, shuffle=True), 4, head.parameters(), 5e-3)
model.eval()
with torch.no_grad():
    print("accuracy", (model(xt).argmax(1) == yt).float().mean().item())
