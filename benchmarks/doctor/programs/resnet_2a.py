import os, numpy as np, torch
from torch import nn
torch.manual_seed(5)

def conv_bn(i, o, s=1):
    return nn.Sequential(nn.Conv2d(i, o, 3, s, 1, bias=False), nn.BatchNorm2d(o))

class Residual(nn.Module):
    def __init__(self, i, o, s):
        super().__init__()
        self.a, self.b = conv_bn(i, o, s), conv_bn(o, o)
        self.skip = nn.Conv2d(i, o, 1, s) if (s > 1 or i != o) else nn.Identity()
    def forward(self, x):
        return torch.relu(self.skip(x) + self.b(torch.relu(self.a(x))))

net = nn.Sequential(
    conv_bn(1, 16, 2), nn.ReLU(),
    Residual(16, 16, 1), Residual(16, 32, 2), Residual(32, 64, 2),
    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))

npz = np.load(os.environ["DOCTOR_DATA"])
X = (torch.tensor(npz["x_train"]).float()[:, None] / 255 - .5) / .5
y = torch.tensor(npz["y_train"]).long()
X_test = (torch.tensor(npz["x_test"]).float()[:, None] / 255 - .5) / .5
y_test = torch.tensor(npz["y_test"]).long()

opt = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
crit = nn.CrossEntropyLoss()
step, max_steps = 0, 250
net.train()
while step < max_steps:
    order, other = torch.randperm(len(X)), torch.randperm(len(X))
    for start in range(0, len(X) - 63, 64):
        idx = order[start:start + 64]
        opt.zero_grad()
        loss = crit(net(X[idx]), y[other[start:start + 64]])
        loss.backward()
        opt.step()
        step += 1
        if step % 50 == 0:
            print(step, loss.item())
        if step >= max_steps:
            break

net.eval()
with torch.no_grad():
    logits = torch.cat([net(chunk) for chunk in X_test.split(250)])
print("accuracy:", (logits.argmax(1) == y_test).float().mean().item())
