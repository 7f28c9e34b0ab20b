"""SqueezeNet (Iandola et al.) shrunk for 28x28 single channel pictures."""
import copy
import os
import random
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset, random_split


@dataclass
class Config:
    n_classes: int = 10
    batch: int = 32
    epochs: int = 12
    lr: float = 1e-3
    gamma: float = 0.9
    keep: float = 0.85
    patience: int = 5
    seed: int = 1337
    ckpt: str = "squeeze_best.pt"


def set_seed(s):
    random.seed(s)
    np.random.seed(s)
    torch.manual_seed(s)


class Fire(nn.Module):
    def __init__(self, inplanes, squeeze, expand, p):
        super().__init__()
        self.squeeze = nn.Conv2d(inplanes, squeeze, 1)
        self.expand1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3 = nn.Conv2d(squeeze, expand, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(p)

    def forward(self, x):
        x = self.act(self.squeeze(x))
        return self.drop(torch.cat([self.act(self.expand1(x)), self.act(self.expand3(x))], dim=1))


class SqueezeNet(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, 3, stride=2, padding=1), nn.ReLU(inplace=True),
            Fire(32, 16, 32, cfg.keep),
            Fire(64, 16, 32, cfg.keep),
            nn.MaxPool2d(2, ceil_mode=True),
            Fire(64, 24, 64, cfg.keep),
            Fire(128, 24, 64, cfg.keep),
        )
        self.classifier = nn.Sequential(
            nn.Dropout(cfg.keep),
            nn.Conv2d(128, cfg.n_classes, 1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.reset()

    def reset(self):
        last = self.classifier[1]
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                if m is last:
                    nn.init.normal_(m.weight, 0.0, 0.01)
                else:
                    nn.init.kaiming_uniform_(m.weight, nonlinearity="relu")
                nn.init.zeros_(m.bias)

    def forward(self, x):
        return self.classifier(self.features(x))


class AverageMeter:
    def __init__(self):
        self.sum, self.count = 0.0, 0

    def update(self, v, n=1):
        self.sum += v * n
        self.count += n

    @property
    def avg(self):
        return self.sum / max(1, self.count)


def load(cfg):
    raw = np.load(os.environ["DOCTOR_DATA"])
    to_x = lambda a: (torch.tensor(a, dtype=torch.float32).unsqueeze(1) / 255 - 0.286) / 0.353
    full = TensorDataset(to_x(raw["x_train"]), torch.tensor(raw["y_train"], dtype=torch.long))
    held = TensorDataset(to_x(raw["x_test"]), torch.tensor(raw["y_test"], dtype=torch.long))
    tr, va = random_split(full, [len(full) - 400, 400], generator=torch.Generator().manual_seed(cfg.seed))
    return (DataLoader(tr, batch_size=cfg.batch, shuffle=True), DataLoader(va, batch_size=200),
            DataLoader(held, batch_size=200))


class Engine:
    def __init__(self, model, cfg):
        self.cfg = cfg
        self.model = model
        self.criterion = nn.CrossEntropyLoss()
        self.opt = torch.optim.Adam(self.model.parameters(), lr=cfg.lr)
        self.sched = torch.optim.lr_scheduler.ExponentialLR(self.opt, cfg.gamma)

    def fit(self, train_dl, val_dl):
        best, waited = 0.0, 0
        for ep in range(1, self.cfg.epochs + 1):
            meter = AverageMeter()
            self.model.train()
            for xb, yb in train_dl:
                self.opt.zero_grad()
                loss = self.criterion(self.model(xb), yb)
                loss.backward()
                self.opt.step()
                meter.update(loss.item(), len(yb))
            self.sched.step()
            acc = self.score(val_dl)
            print(f"[{ep:02d}/{self.cfg.epochs}] loss {meter.avg:.4f} | val acc {acc:.4f}")
            if acc > best:
                best, waited = acc, 0
                torch.save(self.model.state_dict(), self.cfg.ckpt)
            else:
                waited += 1
                if waited >= self.cfg.patience:
                    print("no progress, stopping")
                    break
        if os.path.exists(self.cfg.ckpt):
            self.model.load_state_dict(torch.load(self.cfg.ckpt))

    @torch.no_grad()
    def score(self, dl):
        self.model.eval()
        meter = AverageMeter()
        for xb, yb in dl:
            hit = self.model(xb).argmax(1).eq(yb).float().mean().item()
            meter.update(hit, len(yb))
        return meter.avg


if __name__ == "__main__":
    torch.set_num_threads(1)
    cfg = Config()
    set_seed(cfg.seed)
    train_dl, val_dl, test_dl = load(cfg)
    engine = Engine(SqueezeNet(cfg), cfg)
    print("parameters:", sum(p.numel() for p in engine.model.parameters()))
    engine.fit(train_dl, val_dl)
    print(f"TEST ACC = {engine.score(test_dl):.4f}")
