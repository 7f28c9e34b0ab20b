"""A study of robust losses: 30 % of the training labels are replaced on purpose; the test labels stay clean."""
import os
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset


class Corrupted(Dataset):
    """Replaces a share of the labels by labels drawn at random, always the same ones."""

    def __init__(self, images, labels, share, seed=0):
        rng = np.random.RandomState(seed)
        self.images = images
        self.clean = labels.astype(np.int64)
        self.labels = self.clean.copy()
        hit = rng.rand(len(labels)) < share
        self.labels[hit] = rng.randint(0, 10, hit.sum())
        print("labels that differ from the truth: %.1f%%" % (100 * np.mean(self.labels != self.clean)))

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, k):
        return torch.from_numpy(self.images[k])[None].float() / 255.0, int(self.labels[k])


class GeneralisedCE(nn.Module):
    """(1 - p_y ** q) / q, between cross-entropy (q -> 0) and mean absolute error (q = 1)."""

    def __init__(self, q=0.5):
        super().__init__()
        self.q = q

    def forward(self, logits, target):
        p = F.softmax(logits, dim=1).gather(1, target[:, None]).clamp_min(1e-6)
        return ((1 - p ** self.q) / self.q).mean()


class SmallNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(1, 24, 5, padding=2, stride=2)
        self.na = nn.BatchNorm2d(24)
        self.b = nn.Conv2d(24, 48, 3, padding=1)
        self.nb = nn.BatchNorm2d(48)
        self.out = nn.Linear(48 * 49, 10)

    def forward(self, x):
        x = F.elu(self.na(self.a(x)))
        x = F.max_pool2d(F.elu(self.nb(self.b(x))), 2)
        return self.out(F.dropout(x.flatten(1), 0.3, self.training))


def main(seed=13, epochs=9, q=0.5):
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    f = np.load(os.environ["DOCTOR_DATA"])
    noisy = Corrupted(f["x_train"], f["y_train"], share=0.3)
    clean = Corrupted(f["x_test"], f["y_test"], share=0.0)
    train_loader = DataLoader(noisy, batch_size=64, shuffle=True)
    test_loader = DataLoader(clean, batch_size=250)
    net, gce = SmallNet(), GeneralisedCE(q)
    opt = torch.optim.Adam(net.parameters(), lr=1e-3)
    plan = torch.optim.lr_scheduler.ExponentialLR(opt, 0.8)
    for epoch in range(1, epochs + 1):
        net.train()
        total = 0.0
        for x, t in train_loader:
            loss = gce(net(x), t)
            opt.zero_grad()
            loss.backward()
            opt.step()
            total += loss.item() * len(t)
        plan.step()
        print(f"epoch {epoch}: robust loss {total / len(noisy):.4f}")
    net.eval()
    with torch.no_grad():
        good = sum((net(x).argmax(1) == t).sum().item() for x, t in test_loader)
    print(f"accuracy on clean test labels: {good / len(clean):.4f}")


main()
