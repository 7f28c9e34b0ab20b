# The 1998 network, all sigmoids, with momentum. Be patient: it sits still before it moves.
import os
import numpy as np
import torch
from torch import nn

torch.manual_seed(0)
npz = np.load(os.environ["DOCTOR_DATA"])
X = torch.tensor(npz["x_train"]).float()[:, None] / 255
Y = torch.tensor(npz["y_train"]).long()
Xt = torch.tensor(npz["x_test"]).float()[:, None] / 255
Yt = torch.tensor(npz["y_test"]).long()


class LeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(1, 6, 5, padding=2), nn.Sigmoid(), nn.AvgPool2d(2),
                                  nn.Conv2d(6, 16, 5), nn.Sigmoid(), nn.AvgPool2d(2), nn.Flatten())
        self.fc = nn.Sequential(nn.Linear(400, 120), nn.Sigmoid(), nn.Linear(120, 84), nn.Sigmoid(), nn.Linear(84, 10))
        for p in self.modules():
            if isinstance(p, (nn.Linear, nn.Conv2d)):
                nn.init.xavier_uniform_(p.weight)

    def forward(self, x):
        return self.fc(self.conv(x))


net = LeNet()
sgd = torch.optim.SGD(net.parameters(), lr=0.2, momentum=0.9)
for epoch in range(26):
    for batch in torch.randperm(4000).split(80):
        sgd.zero_grad()
        loss = nn.functional.cross_entropy(net(X[batch]), Y[batch])
        loss.backward()
        sgd.step()
    with torch.no_grad():
        print(f"epoch {epoch + 1:2d} loss {loss.item():.3f} acc {(net(Xt).argmax(1) == Yt).float().mean().item():.3f}")
