"""Small GoogLeNet for 28x28 clothes. usage: python train.py [--epochs N] [--bs N]"""
import argparse
import os
import random
import time

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split


class AverageMeter(object):
    """Computes and stores the average and current value"""

    def __init__(self, name):
        self.name = name
        self.reset()

    def reset(self):
        self.val, self.sum, self.count = 0.0, 0.0, 0

    def update(self, val, n=1):
        self.val = val
        self.sum += val * n
        self.count += n

    @property
    def avg(self):
        return self.sum / max(self.count, 1)

    def __str__(self):
        return "{} {:.4f} ({:.4f})".format(self.name, self.val, self.avg)


def cbr(cin, cout, k, **kw):
    return nn.Sequential(nn.Conv2d(cin, cout, k, bias=False, **kw), nn.BatchNorm2d(cout), nn.ReLU(inplace=True))


class Mixed(nn.Module):
    def __init__(self, cin, c1, c3r, c3, c5r, c5, cp):
        super().__init__()
        self.b1 = cbr(cin, c1, 1)
        self.b2 = nn.Sequential(cbr(cin, c3r, 1), cbr(c3r, c3, 3, padding=1))
        self.b3 = nn.Sequential(cbr(cin, c5r, 1), cbr(c5r, c5, 5, padding=2))
        self.b4 = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), cbr(cin, cp, 1))

    def forward(self, x):
        return torch.cat([self.b1(x), self.b2(x), self.b3(x), self.b4(x)], dim=1)


class MiniInception(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.stem = nn.Sequential(cbr(1, 16, 3, padding=1), nn.MaxPool2d(2))
        self.m1 = Mixed(16, 8, 8, 16, 4, 4, 4)
        self.m2 = Mixed(32, 16, 12, 24, 4, 8, 8)
        self.fc1 = nn.Linear(56 * 9, 64)
        self.norm = nn.BatchNorm1d(64)
        self.fc2 = nn.Linear(64, num_classes)

    def forward(self, x):
        x = self.m1(self.stem(x))
        x = self.m2(F.max_pool2d(x, 2))
        x = F.max_pool2d(x, 2).flatten(1)
        x = F.relu(self.norm(self.fc1(x)))
        return self.fc2(x)


def get_loaders(args):
    raw = np.load(os.environ["DOCTOR_DATA"])
    to_x = lambda a: torch.from_numpy(a).float().unsqueeze(1).div(255).sub(0.286).div(0.353)
    full = TensorDataset(to_x(raw["x_train"]), torch.from_numpy(raw["y_train"]).long())
    test = TensorDataset(to_x(raw["x_test"]), torch.from_numpy(raw["y_test"]).long())
    n_val = args.n_val
    train, val = random_split(full, [len(full) - n_val, n_val], generator=torch.Generator().manual_seed(args.seed))
    train_loader = DataLoader(train, batch_size=args.bs, shuffle=True)
    return train_loader, DataLoader(val, batch_size=500), DataLoader(test, batch_size=500)


def criterion(output, target):
    return F.cross_entropy(output, target)


def accuracy(output, target):
    return (output.argmax(1) == target).float().mean().item()


def train_epoch(loader, model, optimizer, epoch, args):
    losses, accs = AverageMeter("Loss"), AverageMeter("Acc@1")
    model.train()
    for i, (images, target) in enumerate(loader):
        output = model(images)
        loss = criterion(output, target)
        losses.update(loss.item(), images.size(0))
        accs.update(accuracy(output, target), images.size(0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if i % args.print_freq == 0:
            print("Epoch [{}][{}/{}]  {}  {}".format(epoch, i, len(loader), losses, accs))


@torch.no_grad()
def validate(loader, model):
    model.eval()
    accs = AverageMeter("Acc@1")
    for images, target in loader:
        accs.update(accuracy(model(images), target), images.size(0))
    return accs.avg


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=7)
    parser.add_argument("--bs", type=int, default=128)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--n-val", type=int, default=415)
    parser.add_argument("--seed", type=int, default=21)
    parser.add_argument("--print-freq", type=int, default=25)
    args = parser.parse_args()
    random.seed(args.seed)
    np.random.seed(args.seed)
    torch.manual_seed(args.seed)

    train_loader, val_loader, test_loader = get_loaders(args)
    model = MiniInception()
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=args.epochs)
    best = 0.0
    start = time.time()
    for epoch in range(args.epochs):
        train_epoch(train_loader, model, optimizer, epoch, args)
        scheduler.step()
        val_acc = validate(val_loader, model)
        print(" * val Acc@1 {:.4f}  ({:.0f}s)".format(val_acc, time.time() - start))
        if val_acc > best:
            best = val_acc
            torch.save(model.state_dict(), "model_best.pth.tar")
    model.load_state_dict(torch.load("model_best.pth.tar"))
    print(" * TEST Acc@1 {:.4f}".format(validate(test_loader, model)))


if __name__ == "__main__":
    main()
