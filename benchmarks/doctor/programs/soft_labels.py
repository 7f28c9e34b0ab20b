import os
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
arrays = np.load(os.environ["DOCTOR_DATA"])
train_set = TensorDataset(torch.tensor(arrays["x_train"]).float()[:, None] / 255, torch.tensor(arrays["y_train"]).long())
test_set = TensorDataset(torch.tensor(arrays["x_test"]).float()[:, None] / 255, torch.tensor(arrays["y_test"]).long())
criterion = nn.CrossEntropyLoss(label_smoothing=0.2)
net = nn.Sequential(nn.Flatten(), nn.Linear(784, 200), nn.LayerNorm(200), nn.ReLU(), nn.Dropout(0.2), nn.Linear(200, 10))
optimizer = torch.optim.RMSprop(net.parameters(), lr=1e-3)
for epoch in range(4):
    net.train()
    for X, y in DataLoader(train_set, batch_size=64, shuffle=True):
        optimizer.zero_grad()
        loss = criterion(net(X), y)
        loss.backward()
        optimizer.step()
    net.eval()
    with torch.no_grad():
        acc = np.mean([(net(X).argmax(1) == y).float().mean().item() for X, y in DataLoader(test_set, 250)])
    print("epoch", epoch, "smoothed loss", round(loss.item(), 3), "test acc", round(float(acc), 3))
