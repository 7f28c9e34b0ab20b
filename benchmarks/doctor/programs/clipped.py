import os
import numpy as np
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

# rows of the image are a sequence
torch.manual_seed(0)
a = np.load(os.environ["DOCTOR_DATA"])


class RowReader(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(28, 48, batch_first=True)
        self.out = nn.Linear(48, 10)

    def forward(self, x):
        _, h = self.rnn(x)
        return self.out(h[-1])


net = RowReader()
opt = torch.optim.Adam(net.parameters(), lr=5e-3)
X, y = torch.tensor(a["x_train"]).float() / 255, torch.tensor(a["y_train"]).long()
for epoch in range(4):
    for i in torch.randperm(len(X)).split(100):
        opt.zero_grad()
        loss = nn.functional.cross_entropy(net(X[i]), y[i])
        loss.backward()
        clip_grad_norm_(net.parameters(), 0.5)
        opt.step()
    print(epoch, loss.item())
with torch.no_grad():
    acc = (net(torch.tensor(a["x_test"]).float() / 255).argmax(1).numpy() == a["y_test"]).mean()
print("acc:", acc)
