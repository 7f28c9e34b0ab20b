#!/usr/bin/env python
# MobileNet v1 (depthwise separable convolutions), trains on CPU in under a minute
import argparse
import math
import os
import time
from functools import partial

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

parser = argparse.ArgumentParser(description="MobileNet training")
parser.add_argument("--epochs", default=8, type=int)
parser.add_argument("-b", "--batch-size", default=64, type=int)
parser.add_argument("--base-lr", default=0.2, type=float, help="learning rate for a batch of 256")
parser.add_argument("--momentum", default=0.9, type=float)
parser.add_argument("--wd", default=4e-5, type=float)
parser.add_argument("--width", default=0.5, type=float, help="width multiplier")
parser.add_argument("--clip", default=5.0, type=float, help="max gradient norm")
parser.add_argument("--print-freq", default=30, type=int)
parser.add_argument("--seed", default=7, type=int)

norm_layer = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.1)


def conv_bn(inp, oup, stride):
    return nn.Sequential(nn.Conv2d(inp, oup, 3, stride, 1, bias=False), norm_layer(oup), nn.ReLU6(inplace=True))


def conv_dw(inp, oup, stride):
    return nn.Sequential(
        nn.Conv2d(inp, inp, 3, stride, 1, groups=inp, bias=False), norm_layer(inp), nn.ReLU6(inplace=True),
        nn.Conv2d(inp, oup, 1, 1, 0, bias=False), norm_layer(oup), nn.ReLU6(inplace=True))


class MobileNet(nn.Module):
    # (channels, stride)
    cfg = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1)]

    def __init__(self, width=1.0, num_classes=10):
        super().__init__()
        c = int(32 * width)
        layers = [conv_bn(1, c, 2)]
        for out, stride in self.cfg:
            out = int(out * width)
            layers.append(conv_dw(c, out, stride))
            c = out
        self.model = nn.Sequential(*layers)
        self.fc = nn.Linear(c, num_classes)

    def forward(self, x):
        x = self.model(x)
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        return self.fc(x)


def batches(x, y, size, shuffle):
    order = torch.randperm(len(y)) if shuffle else torch.arange(len(y))
    for i in range(0, len(y), size):
        j = order[i:i + size]
        yield x[j], y[j]


def train(model, data, optimizer, scheduler, epoch, args):
    model.train()
    t0 = time.time()
    for step, (images, target) in enumerate(batches(*data, args.batch_size, True)):
        loss = F.cross_entropy(model(images), target)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), args.clip)
        optimizer.step()
        scheduler.step()
        if step % args.print_freq == 0:
            print(f"Epoch: [{epoch}][{step}]\tLoss {loss.item():.4e}\tTime {time.time() - t0:.1f}")


def validate(model, data):
    model.eval()
    top1, loss_sum = 0, 0.0
    with torch.no_grad():
        for images, target in batches(*data, 250, False):
            output = model(images)
            loss_sum += F.cross_entropy(output, target, reduction="sum").item()
            top1 += (output.argmax(dim=1) == target).sum().item()
    print(f" * loss {loss_sum / len(data[1]):.4f}")
    return 100.0 * top1 / len(data[1])


def main():
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)

    npz = np.load(os.environ["DOCTOR_DATA"])
    prep = lambda a: torch.from_numpy(a.astype(np.float32) / 127.5 - 1.0)[:, None]
    x, y = prep(npz["x_train"]), torch.from_numpy(npz["y_train"]).long()
    test = prep(npz["x_test"]), torch.from_numpy(npz["y_test"]).long()
    train_data, val_data = (x[:3600], y[:3600]), (x[3600:], y[3600:])

    model = MobileNet(args.width)
    steps = args.epochs * math.ceil(len(train_data[1]) / args.batch_size)
    # linear scaling rule
    lr = args.base_lr * args.batch_size / 256
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=args.momentum, weight_decay=args.wd)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

    print(f"before training: Acc@1 {validate(model, val_data):.2f}")
    for epoch in range(args.epochs):
        train(model, train_data, optimizer, scheduler, epoch, args)
        print(f"epoch {epoch}: val Acc@1 {validate(model, val_data):.2f}")
    print(f"final test Acc@1 {validate(model, test):.2f}%")


if __name__ == "__main__":
    main()
