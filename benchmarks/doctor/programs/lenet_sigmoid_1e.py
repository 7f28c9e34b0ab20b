import os

import numpy as np
import torch
from torch import nn


class Accumulator:
    """For accumulating sums over n variables."""
    def __init__(self, n):
        self.data = [0.0] * n

    def add(self, *args):
        self.data = [a + float(b) for a, b in zip(self.data, args)]

    def __getitem__(self, idx):
        return self.data[idx]


def load_data_fashion_mnist(batch_size):
    arrays = np.load(os.environ["DOCTOR_DATA"])
    iters = []
    for part in ("train", "test"):
        X = torch.tensor(arrays[f"x_{part}"], dtype=torch.float32).reshape(-1, 1, 28, 28) / 255
        y = torch.tensor(arrays[f"y_{part}"], dtype=torch.int64)
        dataset = torch.utils.data.TensorDataset(X, y)
        iters.append(torch.utils.data.DataLoader(dataset, batch_size, shuffle=(part == "train")))
    return iters


def accuracy(y_hat, y):
    return float((y_hat.argmax(axis=1) == y).sum())


def evaluate_accuracy_gpu(net, data_iter):
    net.eval()
    metric = Accumulator(2)
    with torch.no_grad():
        for X, y in data_iter:
            metric.add(accuracy(net(X), y), y.numel())
    return metric[0] / metric[1]


def train_ch6(net, train_iter, test_iter, num_epochs, lr):
    """Train a model with a GPU (defined in Chapter 6)."""
    def init_weights(m):
        if type(m) == nn.Linear or type(m) == nn.Conv2d:
            nn.init.xavier_uniform_(m.weight)
    net.apply(init_weights)
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    loss = nn.CrossEntropyLoss()
    for epoch in range(num_epochs):
        metric = Accumulator(3)
        net.train()
        for i, (X, y) in enumerate(train_iter):
            optimizer.zero_grad()
            y_hat = net(X)
            l = loss(y_hat, y)
            l.backward()
            optimizer.step()
            with torch.no_grad():
                metric.add(l * X.shape[0], accuracy(y_hat, y), X.shape[0])
        train_l = metric[0] / metric[2]
        train_acc = metric[1] / metric[2]
        test_acc = evaluate_accuracy_gpu(net, test_iter)
        print(f"epoch {epoch + 1} loss {train_l:.3f}, train acc {train_acc:.3f}, test acc {test_acc:.3f}")


torch.manual_seed(0)
net = nn.Sequential(
    nn.Conv2d(1, 6, kernel_size=5, padding=2), nn.Sigmoid(),
    nn.AvgPool2d(kernel_size=2, stride=2),
    nn.Conv2d(6, 16, kernel_size=5), nn.Sigmoid(),
    nn.AvgPool2d(kernel_size=2, stride=2),
    nn.Flatten(),
    nn.Linear(16 * 5 * 5, 120), nn.Sigmoid(),
    nn.Linear(120, 84), nn.Sigmoid(),
    nn.Linear(84, 84), nn.Sigmoid(),
    nn.Linear(84, 84), nn.Sigmoid(),
    nn.Linear(84, 84), nn.Sigmoid(),
    nn.Linear(84, 84), nn.Sigmoid(),
    nn.Linear(84, 10))

batch_size = 64
train_iter, test_iter = load_data_fashion_mnist(batch_size)
lr, num_epochs = 0.006, 7
train_ch6(net, train_iter, test_iter, num_epochs, lr)
