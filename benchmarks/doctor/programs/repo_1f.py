#!/usr/bin/env python
"""Train a plain (skip-free, norm-free) deep convnet.

    python train.py --epochs 12 --lr 0.02
"""
import argparse
import json
import logging
import os
import sys
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, Dataset

logger = logging.getLogger("plainnet")


@dataclass
class Config:
    arch: str = "24-24-24-M-40-40-40-40-M-64-64-64"
    lr: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 1e-4
    epochs: int = 10
    batch_size: int = 64
    clip: float = 2.0
    cutout: int = 8
    patience: int = 1
    min_delta: float = 0.5
    n_val: int = 500
    seed: int = 1234
    ckpt: str = "best.pt"


def parse_args() -> Config:
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    for key, value in asdict(Config()).items():
        parser.add_argument("--" + key.replace("_", "-"), type=type(value), default=value)
    return Config(**vars(parser.parse_args()))


class Cutout:
    """Blank a square of the image (DeVries & Taylor, 2017)."""

    def __init__(self, length):
        self.length = length

    def __call__(self, img):
        h, w = img.shape[-2:]
        cy, cx = np.random.randint(h), np.random.randint(w)
        half = self.length // 2
        img = img.clone()
        img[..., max(cy - half, 0) : cy + half, max(cx - half, 0) : cx + half] = 0.0
        return img


class Clothes(Dataset):
    def __init__(self, x, y, transforms=()):
        self.x = (torch.as_tensor(x, dtype=torch.float32)[:, None] / 255.0 - 0.2860) / 0.3530
        self.y = torch.as_tensor(y, dtype=torch.long)
        self.transforms = transforms

    def __len__(self):
        return len(self.y)

    def __getitem__(self, index):
        img = self.x[index]
        for t in self.transforms:
            img = t(img)
        return img, self.y[index]


def hflip(img):
    return img.flip(-1) if np.random.rand() < 0.5 else img


class PlainNet(nn.Module):
    def __init__(self, arch, n_classes=10):
        super().__init__()
        layers, c = [nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.ReLU(inplace=True)], 16
        for token in arch.split("-"):
            if token == "M":
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [nn.Conv2d(c, int(token), 3, padding=1), nn.ReLU(inplace=True)]
            c = int(token)
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(c * 9, n_classes)

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))


def reset_parameters(module):
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        nn.init.zeros_(module.bias)


class AverageMeter:
    def __init__(self):
        self.sum, self.count = 0.0, 0

    def update(self, val, n=1):
        self.sum += val * n
        self.count += n

    @property
    def avg(self):
        return self.sum / max(self.count, 1)


class EarlyStopping:
    def __init__(self, patience, min_delta):
        self.patience, self.min_delta = patience, min_delta
        self.best, self.bad = -float("inf"), 0

    def __call__(self, score):
        """True if this is a new best score."""
        if score > self.best + self.min_delta:
            self.best, self.bad = score, 0
            return True
        self.bad += 1
        return False

    @property
    def stop(self):
        return self.bad >= self.patience


def run_epoch(model, loader, criterion, optimizer=None, clip=0.0):
    training = optimizer is not None
    model.train(training)
    losses, top1 = AverageMeter(), AverageMeter()
    with torch.set_grad_enabled(training):
        for images, target in loader:
            output = model(images)
            loss = criterion(output, target)
            if training:
                optimizer.zero_grad()
                loss.backward()
                clip_grad_norm_(model.parameters(), clip)
                optimizer.step()
            correct = output.argmax(dim=1).eq(target)
            losses.update(loss.item(), len(target))
            top1.update(correct.float().mean().item(), len(target))
    return losses.avg, top1.avg


def main():
    cfg = parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(asctime)s %(name)s | %(message)s")
    logger.info("config %s", json.dumps(asdict(cfg)))
    torch.manual_seed(cfg.seed)
    np.random.seed(cfg.seed)

    blob = np.load(os.environ["DOCTOR_DATA"])
    order = np.random.permutation(len(blob["y_train"]))
    val_ids, train_ids = order[: cfg.n_val], order[cfg.n_val :]
    augment = (hflip, Cutout(cfg.cutout))
    train_dl = DataLoader(Clothes(blob["x_train"][train_ids], blob["y_train"][train_ids], augment),
                          batch_size=cfg.batch_size, shuffle=True)
    val_dl = DataLoader(Clothes(blob["x_train"][val_ids], blob["y_train"][val_ids]), batch_size=250)
    test_dl = DataLoader(Clothes(blob["x_test"], blob["y_test"]), batch_size=250)

    model = PlainNet(cfg.arch)
    model.apply(reset_parameters)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=cfg.lr, momentum=cfg.momentum, weight_decay=cfg.weight_decay)
    scheduler = CosineAnnealingLR(optimizer, T_max=cfg.epochs)
    stopper = EarlyStopping(cfg.patience, cfg.min_delta)

    for epoch in range(cfg.epochs):
        tr_loss, tr_acc = run_epoch(model, train_dl, criterion, optimizer, cfg.clip)
        va_loss, va_acc = run_epoch(model, val_dl, criterion)
        scheduler.step()
        logger.info("epoch %d train %.4f/%.4f val %.4f/%.4f", epoch, tr_loss, tr_acc, va_loss, va_acc)
        if stopper(va_acc):
            torch.save({"state_dict": model.state_dict(), "epoch": epoch}, cfg.ckpt)
        if stopper.stop:
            logger.info("no progress for %d epochs, stopping", cfg.patience)
            break

    model.load_state_dict(torch.load(cfg.ckpt)["state_dict"])
    _, test_acc = run_epoch(model, test_dl, criterion)
    logger.info("best checkpoint on test: top1=%.4f", test_acc)


if __name__ == "__main__":
    main()
