import os
import numpy as np
import torch
from torch import nn

torch.manual_seed(0)
f = np.load(os.environ["DOCTOR_DATA"])
X = torch.tensor(f["x_train"]).float().flatten(1) / 255
y = torch.tensor(f["y_train"]).long()
model = nn.Linear(784, 10)
optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=4, history_size=8)


def closure():
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(X), y) + 1e-4 * model.weight.pow(2).sum()
    loss.backward()
    return loss


for it in range(25):
    loss = optimizer.step(closure)
    if it % 5 == 0:
        print("iteration", it, "loss", float(loss))
Xt = torch.tensor(f["x_test"]).float().flatten(1) / 255
print("accuracy", (model(Xt).argmax(1) == torch.tensor(f["y_test"])).float().mean().item())
