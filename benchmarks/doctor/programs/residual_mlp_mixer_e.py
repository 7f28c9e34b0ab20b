"""Residual MLP-mixer for 28x28 grey images.

A small conv stem cuts the image into 7x7 tokens, then token mixing and channel mixing alternate.
"""
import argparse
import math
import os
import time
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


@dataclass
class Config:
    dim: int = 48
    depth: int = 3
    token_hidden: int = 48
    channel_hidden: int = 96
    drop: float = 0.05
    lr: float = 2e-3
    weight_decay: float = 0.01
    batch: int = 64
    epochs: int = 10
    warmup: int = 50
    holdout: float = 0.1
    seed: int = 11
    checkpoint: str = "mixer_best.pt"


class Mlp(nn.Sequential):
    def __init__(self, width, hidden, drop):
        super().__init__(nn.Linear(width, hidden), nn.GELU(), nn.Dropout(drop), nn.Linear(hidden, width))


class MixerLayer(nn.Module):
    def __init__(self, tokens, cfg):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(cfg.dim), nn.LayerNorm(cfg.dim)
        self.across = Mlp(tokens, cfg.token_hidden, cfg.drop)
        self.within = Mlp(cfg.dim, cfg.channel_hidden, cfg.drop)

    def forward(self, t):
        t = t + self.across(self.norm1(t).transpose(1, 2)).transpose(1, 2)
        return t + self.within(self.norm2(t))


class MlpMixer(nn.Module):
    def __init__(self, cfg, classes=10):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, cfg.dim // 4, 3, stride=2, padding=1), nn.GELU(),
            nn.Conv2d(cfg.dim // 4, cfg.dim, 3, stride=2, padding=1),
        )
        self.layers = nn.Sequential(*(MixerLayer(49, cfg) for _ in range(cfg.depth)))
        self.norm = nn.LayerNorm(cfg.dim)
        self.head = nn.Linear(cfg.dim, classes)

    def forward(self, x):
        t = self.stem(x).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.layers(t)).mean(1))


def stratified(labels, fraction):
    """Indices of the training part and of the held-out part, class by class."""
    kept, held = [], []
    for c in np.unique(labels):
        where = np.flatnonzero(labels == c)
        cut = int(len(where) * fraction)
        held.append(where[:cut])
        kept.append(where[cut:])
    return np.concatenate(kept), np.concatenate(held)


def load(cfg):
    d = np.load(os.environ["DOCTOR_DATA"])
    mean, std = d["x_train"].mean() / 255, d["x_train"].std() / 255

    def dataset(x, y):
        x = (torch.from_numpy(x).float().div(255) - float(mean)) / float(std)
        return TensorDataset(x.unsqueeze(1), torch.from_numpy(y).long())

    kept, held = stratified(d["y_train"], cfg.holdout)
    train = dataset(d["x_train"][kept], d["y_train"][kept])
    valid = dataset(d["x_train"][held], d["y_train"][held])
    test = dataset(d["x_test"], d["y_test"])
    loaders = []
    for part, size in ((train, cfg.batch), (valid, 200), (test, 200)):
        loaders.append(DataLoader(part, batch_size=size, num_workers=0))
    return loaders


def lr_lambda(total, warmup):
    def factor(step):
        if step < warmup:
            return (step + 1) / warmup
        done = min(1.0, (step - warmup) / max(1, total - warmup))
        return 0.5 * (1 + math.cos(math.pi * done))
    return factor


def make(cfg):
    model = MlpMixer(cfg)
    optimizer = torch.optim.AdamW(model.parameters(), lr=cfg.lr, weight_decay=cfg.weight_decay)
    return model, optimizer


def smoke_test(model, optimizer, batch, steps=8):
    """A few steps on one batch: does the loss go down at all?"""
    x, y = batch
    seen = []
    for _ in range(steps):
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    print(f"smoke test: {seen[0]:.3f} -> {seen[-1]:.3f}")


@torch.no_grad()
def evaluate(model, loader):
    model.eval()
    right = sum((model(x).argmax(1) == y).sum().item() for x, y in loader)
    return right / len(loader.dataset)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=Config.epochs)
    cfg = Config(epochs=parser.parse_args().epochs)
    torch.manual_seed(cfg.seed)
    train, valid, test = load(cfg)

    model, optimizer = make(cfg)
    smoke_test(model, optimizer, next(iter(train)))
    model, optimizer = make(cfg)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lr_lambda(cfg.epochs * len(train), cfg.warmup))
    best, start = -1.0, time.time()
    for epoch in range(cfg.epochs):
        model.train()
        total = 0.0
        for x, y in train:
            loss = F.cross_entropy(model(x), y, label_smoothing=0.05)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item()
        accuracy = evaluate(model, valid)
        if accuracy > best:
            best = accuracy
            torch.save({"model": model.state_dict(), "epoch": epoch, "accuracy": accuracy}, cfg.checkpoint)
        print(f"[{epoch + 1:2d}/{cfg.epochs}] loss {total / len(train):.4f} held-out {accuracy:.4f} {time.time() - start:.0f}s")

    final = MlpMixer(cfg)
    final.load_state_dict(torch.load(cfg.checkpoint)["model"])
    print(f"Top-1 on the test images: {evaluate(final, test):.4f}")


if __name__ == "__main__":
    main()
