import argparse
import os

import numpy as np
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset


def get_args():
    p = argparse.ArgumentParser(description="small VGG")
    p.add_argument("--batch-size", type=int, default=64)
    p.add_argument("--epochs", type=int, default=4)
    p.add_argument("--lr", type=float, default=0.03)
    p.add_argument("--momentum", type=float, default=0.9)
    p.add_argument("--width", type=int, default=16)
    return p.parse_args()


def read_data(batch_size):
    f = np.load(os.environ["DOCTOR_DATA"])

    def prepare(x, y):
        x = torch.from_numpy(x).float() / 255.0
        x = (x - 0.2860) / 0.3530
        return TensorDataset(x.unsqueeze(1), torch.from_numpy(y).long())

    train = prepare(f["x_train"], f["y_train"])
    test = prepare(f["x_test"], f["y_test"])
    return DataLoader(train, batch_size=batch_size, shuffle=True), DataLoader(test, batch_size=500)


def vgg_block(num_convs, cin, cout):
    layers = []
    for _ in range(num_convs):
        layers += [nn.Conv2d(cin, cout, kernel_size=3, padding=1), nn.ReLU()]
        cin = cout
    layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


class VGG(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.body = nn.Sequential(vgg_block(1, 1, width), vgg_block(2, width, 2 * width), vgg_block(2, 2 * width, 2 * width))
        self.fc = nn.Sequential(nn.Flatten(), nn.Linear(2 * width * 9, 96), nn.ReLU(), nn.Linear(96, 10))

    def forward(self, x):
        return self.fc(self.body(x))


def he_init(module):
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        nn.init.kaiming_normal_(module.weight)
        nn.init.constant_(module.bias, 0.0)


def train_epoch(model, loader, optimizer, loss_fn):
    model.train()
    losses = []
    for data, target in loader:
        optimizer.zero_grad()
        output = model(data)
        loss = loss_fn(output, target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return np.mean(losses)


def test(model, loader):
    model.eval()
    good, total = 0, 0
    with torch.no_grad():
        for data, target in loader:
            good += model(data).argmax(1).eq(target).sum().item()
            total += target.size(0)
    return good / total


def main():
    args = get_args()
    torch.manual_seed(17)
    train_loader, test_loader = read_data(args.batch_size)
    model = VGG(args.width)
    model.apply(he_init)
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=args.momentum)
    loss_fn = nn.CrossEntropyLoss()
    model = VGG(args.width)
    model.apply(he_init)
    for epoch in range(1, args.epochs + 1):
        loss = train_epoch(model, train_loader, optimizer, loss_fn)
        acc = test(model, test_loader)
        print(f"Epoch {epoch:2d} | loss {loss:.4f} | acc {acc:.4f}")


if __name__ == "__main__":
    main()
