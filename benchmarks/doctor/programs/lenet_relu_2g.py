"""Usage: python lenet_relu_2g.py --epochs 5 --lr 0.05"""
import argparse
import os

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


def load(split):
    blob = np.load(os.environ["DOCTOR_DATA"])
    images = torch.from_numpy(blob[f"x_{split}"]).float()
    images = images / 255
    labels = torch.from_numpy(blob[f"y_{split}"]).long()
    return images.view(-1, 1, 28, 28), labels


class LeNet(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 6, kernel_size=5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(6, 16, kernel_size=5), nn.ReLU(), nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, num_classes),
            nn.Softmax(dim=1),
        )

    def forward(self, x):
        return self.classifier(self.features(x))


def batches(x, y, batch_size):
    order = torch.randperm(len(x))
    for start in range(0, len(x), batch_size):
        index = order[start:start + batch_size]
        yield x[index], y[index]


def make_optimizer(net, lr):
    return torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)


def train(net, train_set, test_set, lr, num_epochs):
    opt = make_optimizer(net, lr)
    for epoch in range(num_epochs):
        net.train()
        total, seen = 0.0, 0
        for x, y in batches(*train_set, 64):
            logits = net(x)
            loss = F.cross_entropy(logits, y)
            opt.zero_grad()
            loss.backward()
            opt.step()
            total += loss.item() * len(y)
            seen += len(y)
        print("epoch %d  train loss %.3f  test acc %.3f" % (epoch, total / seen, evaluate(net, test_set)))


@torch.no_grad()
def evaluate(net, data):
    net.eval()
    x, y = data
    return (net(x).argmax(dim=1) == y).float().mean().item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    train_set, test_set = load("train"), load("test")
    net = LeNet()
    train(net, train_set, test_set, args.lr, args.epochs)
    print("Final accuracy = %.4f" % evaluate(net, test_set))


if __name__ == "__main__":
    main()
