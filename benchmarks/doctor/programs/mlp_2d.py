# Implementation from scratch, after the textbook.
import os

import numpy as np
import torch

torch.manual_seed(3)
batch_size, num_inputs, num_outputs, num_hiddens = 100, 784, 10, 128
W1 = torch.randn(num_inputs, num_hiddens) * 0.03
b1 = torch.zeros(num_hiddens)
W2 = torch.randn(num_hiddens, num_outputs) * 0.05
b2 = torch.zeros(num_outputs)
params = [W1, b1, W2, b2]
for p in params:
    p.requires_grad_(True)


def relu(X):
    return torch.max(X, torch.zeros_like(X))


def net(X):
    X = X.reshape((-1, num_inputs))
    H = relu(X @ W1 + b1)
    return H @ W2 + b2


def loss_fn(y_hat, y):
    log_probs = y_hat - y_hat.logsumexp(dim=1, keepdim=True)
    return -log_probs[torch.arange(len(y)), y]


def sgd(params, lr, batch_size):
    with torch.no_grad():
        for param in params:
            param -= lr * param.grad / batch_size


def data_iter(batch_size, features, labels):
    indices = np.random.RandomState(0).permutation(len(features))
    for i in range(0, len(indices), batch_size):
        j = indices[i:i + batch_size]
        yield features[j], labels[j]


def accuracy(y_hat, y):
    return float((y_hat.argmax(axis=1) == y).sum())


with np.load(os.environ["DOCTOR_DATA"]) as f:
    features = torch.tensor(f["x_train"]).float() / 255
    labels = torch.tensor(f["y_train"]).long()
    test_features = torch.tensor(f["x_test"]).float() / 255
    test_labels = torch.tensor(f["y_test"]).long()

lr, num_epochs = 0.3, 8
for epoch in range(num_epochs):
    total = 0.0
    for X, y in data_iter(batch_size, features, labels):
        l = loss_fn(net(X), y)
        l.sum().backward()
        sgd(params, lr, len(y))
        total += float(l.sum().detach())
    with torch.no_grad():
        test_acc = accuracy(net(test_features), test_labels) / len(test_labels)
    print(f"epoch {epoch + 1}, loss {total / len(labels):.3f}, test accuracy {test_acc:.3f}")
