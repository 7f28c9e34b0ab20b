import os
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

torch.manual_seed(0)
z = np.load(os.environ["DOCTOR_DATA"])
X, Y = torch.tensor(z["x_train"]).float()[:, None] / 255, torch.tensor(z["y_train"]).long()
Xt, Yt = torch.tensor(z["x_test"]).float()[:, None] / 255, torch.tensor(z["y_test"]).long()


class Embedding(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 8, 5, 2), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.ReLU(), nn.Flatten(),
                                 nn.Linear(400, 32))

    def forward(self, x):
        return F.normalize(self.net(x), dim=1)


def pairs(y, n):
    left = torch.randint(len(y), (n,))
    right = torch.randint(len(y), (n,))
    same = torch.rand(n) < 0.5
    for k in torch.nonzero(same).flatten().tolist():
        friends = torch.nonzero(y == y[left[k]]).flatten()
        right[k] = friends[torch.randint(len(friends), (1,))]
    return left, right, (y[left] == y[right]).float()


embed = Embedding()
opt = torch.optim.Adam(embed.parameters(), lr=2e-3)
for step in range(300):
    a, b, same = pairs(Y, 48)
    distance = (embed(X[a]) - embed(X[b])).pow(2).sum(1)
    loss = (same * distance + (1 - same) * F.relu(1.0 - distance)).mean()
    opt.zero_grad()
    loss.backward()
    opt.step()
    if step % 50 == 0:
        print(step, loss.item())
with torch.no_grad():
    a, b, same = pairs(Yt, 1000)
    close = (embed(Xt[a]) - embed(Xt[b])).pow(2).sum(1) < 0.5
print("pair accuracy:", (close == same.bool()).float().mean().item())
