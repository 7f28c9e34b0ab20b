import os
import time

import numpy as np
import torch
from torch import nn


def load_array(data_arrays, batch_size, is_train=True):
    dataset = torch.utils.data.TensorDataset(*data_arrays)
    return torch.utils.data.DataLoader(dataset, batch_size, shuffle=is_train)


def load_data(batch_size):
    z = np.load(os.environ["DOCTOR_DATA"])
    as_images = lambda a: torch.from_numpy(a).to(torch.float32).unsqueeze(1) / 255
    train = (as_images(z["x_train"]), torch.from_numpy(z["y_train"]).long())
    test = (as_images(z["x_test"]), torch.from_numpy(z["y_test"]).long())
    return load_array(train, batch_size), load_array(test, batch_size, False)


class Accumulator:
    def __init__(self, n):
        self.data = [0.0] * n

    def add(self, *args):
        self.data = [a + float(b) for a, b in zip(self.data, args)]

    def __getitem__(self, idx):
        return self.data[idx]


def nin_block(in_channels, out_channels, kernel_size, strides, padding):
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, strides, padding),
        nn.ReLU(),
        nn.Conv2d(out_channels, out_channels, kernel_size=1), nn.ReLU(),
        nn.Conv2d(out_channels, out_channels, kernel_size=1), nn.ReLU())


def get_net():
    return nn.Sequential(
        nin_block(1, 16, kernel_size=7, strides=2, padding=3),
        nin_block(16, 32, kernel_size=3, strides=1, padding=1),
        nn.MaxPool2d(3, stride=2),
        nin_block(32, 32, kernel_size=3, strides=1, padding=1),
        nin_block(32, 48, kernel_size=3, strides=1, padding=1),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(48, 10, kernel_size=1),
        nn.AdaptiveAvgPool2d((1, 1)),
        nn.Flatten())


def evaluate_accuracy(net, data_iter):
    net.eval()
    metric = Accumulator(2)
    with torch.no_grad():
        for X, y in data_iter:
            metric.add((net(X).argmax(axis=1) == y).sum(), y.numel())
    return metric[0] / metric[1]


def train(model, train_iter, test_iter, num_epochs, lr):
    def init_weights(m):
        if type(m) == nn.Conv2d:
            nn.init.kaiming_uniform_(m.weight, nonlinearity="relu")
            nn.init.zeros_(m.bias)
    model.apply(init_weights)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    loss = nn.CrossEntropyLoss()
    start = time.time()
    for epoch in range(num_epochs):
        metric = Accumulator(3)
        model.train()
        for i, (X, y) in enumerate(train_iter):
            optimizer.zero_grad()
            y_hat = net(X)
            l = loss(y_hat, y)
            l.backward()
            optimizer.step()
            metric.add(l * X.shape[0], (y_hat.argmax(1) == y).sum(), X.shape[0])
        test_acc = evaluate_accuracy(model, test_iter)
        print(f"epoch {epoch}: loss {metric[0] / metric[2]:.3f}, train acc {metric[1] / metric[2]:.3f}, "
              f"test acc {test_acc:.3f}, {time.time() - start:.1f} s")


torch.manual_seed(11)
lr, num_epochs, batch_size = 0.05, 5, 64
train_iter, test_iter = load_data(batch_size)
net = get_net()
narrow = get_net()
train(narrow, train_iter, test_iter, num_epochs, lr)
