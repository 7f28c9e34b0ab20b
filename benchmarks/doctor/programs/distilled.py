import os

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

torch.manual_seed(0)
arrays = np.load(os.environ["DOCTOR_DATA"])
x, y = torch.from_numpy(arrays["x_train"]).float()[:, None] / 255, torch.from_numpy(arrays["y_train"]).long()
xt, yt = torch.from_numpy(arrays["x_test"]).float()[:, None] / 255, torch.from_numpy(arrays["y_test"]).long()


def test(model):
    model.eval()
    with torch.no_grad():
        return (model(xt).argmax(1) == yt).float().mean().item()


teacher = nn.Sequential(nn.Conv2d(1, 24, 5, 2), nn.ReLU(), nn.Flatten(), nn.Linear(24 * 144, 96), nn.ReLU(), nn.Linear(96, 10))
student = nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10))

opt = torch.optim.Adam(teacher.parameters(), lr=1e-3)
for epoch in range(3):
    teacher.train()
    for i in torch.randperm(len(x)).split(64):
        loss = F.cross_entropy(teacher(x[i]), y[i])
        opt.zero_grad()
        loss.backward()
        opt.step()
print("teacher", test(teacher))

teacher.eval()
opt = torch.optim.Adam(student.parameters(), lr=2e-3)
T = 3.0
for epoch in range(4):
    student.train()
    for i in torch.randperm(len(x)).split(64):
        with torch.no_grad():
            soft = F.softmax(teacher(x[i]) / T, dim=1)
        out = student(x[i])
        loss = F.kl_div(F.log_softmax(out / T, dim=1), soft, reduction="batchmean") * T * T
        loss = 0.7 * loss + 0.3 * F.cross_entropy(out, y[i])
        opt.zero_grad()
        loss.backward()
        opt.step()
print("student accuracy", test(student))
