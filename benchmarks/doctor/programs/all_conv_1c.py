# The All Convolutional Net (Springenberg et al.), shrunk for clothes. No pooling, no fully connected layer.
from dataclasses import dataclass, field
import os
import numpy as np
import torch
from torch import nn, optim
from torch.utils.data import Dataset, DataLoader


@dataclass
class Config:
    widths: tuple = (16, 24, 32)
    n_classes: int = 9
    batch_size: int = 100
    n_epochs: int = 8
    max_lr: float = 0.1
    seed: int = 0
    max_shift: int = 1
    threads: int = 0
    log: list = field(default_factory=list)


class FashionSet(Dataset):
    def __init__(self, images, labels, cfg, augment=False):
        self.images = images.astype("float32") / 255.0
        self.labels = labels.astype("int64")
        self.cfg = cfg
        self.augment = augment

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        img = self.images[i]
        if self.augment:
            s = self.cfg.max_shift
            dy, dx = torch.randint(-s, s + 1, (2,)).tolist()
            img = np.roll(img, (dy, dx), (0, 1))
        return (img[None] - 0.5) / 0.5, self.labels[i]


def cbr(i, o, stride=1, k=3):
    return [nn.Conv2d(i, o, k, stride=stride, padding=k // 2, bias=False), nn.BatchNorm2d(o), nn.ReLU()]


class AllConvNet(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        a, b, c = cfg.widths
        self.body = nn.Sequential(
            *cbr(1, a), *cbr(a, a, stride=2),
            *cbr(a, b), *cbr(b, b, stride=2),
            *cbr(b, c), *cbr(c, c, k=1),
        )
        self.to_classes = nn.Conv2d(c, cfg.n_classes, kernel_size=1)

    def forward(self, x):
        maps = self.to_classes(self.body(x))
        return maps.mean(dim=(2, 3))


def one_pass(net, loader, opt=None, sched=None):
    train = opt is not None
    net.train(train)
    loss_fn = nn.CrossEntropyLoss()
    n = total = right = 0
    with torch.set_grad_enabled(train):
        for xb, yb in loader:
            out = net(xb)
            loss = loss_fn(out, yb)
            if train:
                opt.zero_grad(set_to_none=True)
                loss.backward()
                opt.step()
                if sched is not None:
                    sched.step()
            n += len(yb)
            total += loss.item() * len(yb)
            right += (out.argmax(1) == yb).sum().item()
    return total / n, right / n


def main(cfg):
    torch.manual_seed(cfg.seed)
    with np.load(os.environ["DOCTOR_DATA"]) as f:
        train_ds = FashionSet(f["x_train"], f["y_train"], cfg, augment=True)
        test_ds = FashionSet(f["x_test"], f["y_test"], cfg)
    train_dl = DataLoader(train_ds, cfg.batch_size, shuffle=True, num_workers=cfg.threads)
    test_dl = DataLoader(test_ds, 250)
    net = AllConvNet(cfg)
    opt = optim.SGD(net.parameters(), lr=cfg.max_lr / 10, momentum=0.9, weight_decay=1e-4)
    sched = optim.lr_scheduler.OneCycleLR(opt, cfg.max_lr, total_steps=cfg.n_epochs * len(train_dl))
    for epoch in range(1, cfg.n_epochs + 1):
        tr_loss, tr_acc = one_pass(net, train_dl, opt, sched)
        cfg.log.append((tr_loss, tr_acc))
        print(f"{epoch:02d}/{cfg.n_epochs} train loss {tr_loss:.3f} acc {tr_acc:.3f}")
    te_loss, te_acc = one_pass(net, test_dl)
    print(f"TEST loss {te_loss:.3f} acc {te_acc:.4f}")


if __name__ == "__main__":
    main(Config())
