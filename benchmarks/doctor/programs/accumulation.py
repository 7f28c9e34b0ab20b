"""Large batches on a small machine: gradients of four micro-batches are added up before each update."""
import os

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

ACCUMULATE = 4


def loaders():
    arrays = np.load(os.environ["DOCTOR_DATA"])
    make = lambda x, y: TensorDataset(torch.from_numpy(x).float()[:, None] / 255, torch.from_numpy(y).long())
    train, test = make(arrays["x_train"], arrays["y_train"]), make(arrays["x_test"], arrays["y_test"])
    return DataLoader(train, 16, shuffle=True), DataLoader(test, 250)


def main():
    torch.manual_seed(0)
    train, test = loaders()
    net = nn.Sequential(nn.Conv2d(1, 8, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3), nn.ReLU(),
                        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(576, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    criterion = nn.CrossEntropyLoss()
    for epoch in range(4):
        for step, (images, labels) in enumerate(train):
            loss = criterion(net(images), labels) / ACCUMULATE
            loss.backward()
            if (step + 1) % ACCUMULATE == 0:
                optimizer.step()
                optimizer.zero_grad()
        print("epoch", epoch, "loss", loss.item() * ACCUMULATE)
    net.eval()
    with torch.no_grad():
        right = sum((net(images).argmax(1) == labels).sum().item() for images, labels in test)
    print("test accuracy:", right / 1000)


if __name__ == "__main__":
    main()
