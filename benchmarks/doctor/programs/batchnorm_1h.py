# Batch normalization from scratch (Ioffe & Szegedy), in a LeNet
import os
import numpy as np
import torch
from torch import nn


def batch_norm(X, gamma, beta, moving_mean, moving_var, eps, momentum):
    if not torch.is_grad_enabled():
        X_hat = (X - moving_mean) / torch.sqrt(moving_var + eps)
    else:
        assert len(X.shape) in (2, 4)
        if len(X.shape) == 2:
            mean = X.mean(dim=0)
            var = ((X - mean) ** 2).mean(dim=0)
        else:
            mean = X.mean(dim=(0, 2, 3), keepdim=True)
            var = ((X - mean) ** 2).mean(dim=(0, 2, 3), keepdim=True)
        X_hat = (X - mean) / torch.sqrt(var + eps)
        moving_mean = momentum * moving_mean + (1.0 - momentum) * mean
        moving_var = momentum * moving_var + (1.0 - momentum) * var
    Y = gamma * X_hat + beta
    return Y, moving_mean.data, moving_var.data


class BatchNorm(nn.Module):
    def __init__(self, num_features, num_dims):
        super().__init__()
        shape = (1, num_features) if num_dims == 2 else (1, num_features, 1, 1)
        self.gamma = nn.Parameter(torch.ones(shape))
        self.beta = nn.Parameter(torch.zeros(shape))
        self.moving_mean = torch.zeros(shape)
        self.moving_var = torch.ones(shape)

    def forward(self, X):
        Y, self.moving_mean, self.moving_var = batch_norm(
            X, self.gamma, self.beta, self.moving_mean, self.moving_var, eps=1e-5, momentum=0.9)
        return Y


net = nn.Sequential(
    nn.Conv2d(1, 6, kernel_size=5), BatchNorm(6, 4), nn.Sigmoid(),
    nn.AvgPool2d(2),
    nn.Conv2d(6, 16, kernel_size=5), BatchNorm(16, 4), nn.Sigmoid(),
    nn.AvgPool2d(2), nn.Flatten(),
    nn.Linear(256, 120), BatchNorm(120, 2), nn.Sigmoid(),
    nn.Linear(120, 84), BatchNorm(84, 2), nn.Sigmoid(),
    nn.Linear(84, 10))


def evaluate(net, X, y):
    with torch.no_grad():
        return (net(X).argmax(1) == y).float().mean().item()


def train(net, X, y, X_test, y_test, num_epochs, batch_size, lr):
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    loss = nn.CrossEntropyLoss()
    for epoch in range(num_epochs):
        permutation = torch.randperm(len(X))
        right = 0
        for i in range(0, len(X), batch_size):
            j = permutation[i:i + batch_size]
            y_hat = net(X[j])
            l = loss(y_hat, y[j])
            l.backward()
            optimizer.step()
            right += (y_hat.argmax(1) == y[j]).sum().item()
        print(f"epoch {epoch + 1}: train acc {right / len(X):.3f}, test acc {evaluate(net, X_test, y_test):.3f}")


def main():
    torch.manual_seed(0)
    arrays = np.load(os.environ["DOCTOR_DATA"])
    X, X_test = (torch.from_numpy(arrays[k]).float()[:, None] / 255 for k in ("x_train", "x_test"))
    y, y_test = (torch.from_numpy(arrays[k]).long() for k in ("y_train", "y_test"))
    train(net, X, y, X_test, y_test, num_epochs=5, batch_size=80, lr=0.5)


main()
