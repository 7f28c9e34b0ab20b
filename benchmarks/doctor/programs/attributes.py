"""Several yes/no questions at once: is it worn on the feet, has it sleeves, ... and which of the ten it is."""
import os

import numpy as np
import torch
from torch import nn

FEET, SLEEVES = {5, 7, 9}, {0, 2, 4, 6}


def targets(labels):
    rows = torch.zeros(len(labels), 12)
    rows[torch.arange(len(labels)), torch.as_tensor(labels).long()] = 1.0
    rows[:, 10] = torch.tensor([float(v in FEET) for v in labels.tolist()])
    rows[:, 11] = torch.tensor([float(v in SLEEVES) for v in labels.tolist()])
    return rows


def main():
    torch.manual_seed(0)
    a = np.load(os.environ["DOCTOR_DATA"])
    x, t = torch.from_numpy(a["x_train"]).float()[:, None] / 255, targets(a["y_train"])
    xt, tt = torch.from_numpy(a["x_test"]).float()[:, None] / 255, targets(a["y_test"])
    net = nn.Sequential(nn.Conv2d(1, 8, 5, 2), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.ReLU(), nn.Flatten(),
                        nn.Linear(400, 64), nn.ReLU(), nn.Linear(64, 12))
    criterion = nn.BCEWithLogitsLoss()
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for epoch in range(5):
        for i in torch.randperm(len(x)).split(64):
            loss = criterion(net(x[i]), t[i])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print("epoch", epoch, "loss", loss.item())
    with torch.no_grad():
        answers = net(xt)
    print("attributes right:", ((answers > 0) == tt.bool()).float().mean().item())
    print("class accuracy:", (answers[:, :10].argmax(1) == tt[:, :10].argmax(1)).float().mean().item())


main()
