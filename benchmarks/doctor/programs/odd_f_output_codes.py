# Error-correcting output codes: 24 yes/no questions instead of ten classes, decoded by the nearest code word.
import os

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

torch.manual_seed(3)
bits = 24


def draw_codebook(n_classes, n_bits, tries=300):
    best, best_gap = None, -1
    for _ in range(tries):
        book = torch.randint(0, 2, (n_classes, n_bits)).float()
        gap = torch.cdist(book, book, p=1)[~torch.eye(n_classes, dtype=torch.bool)].min().item()
        balanced = ((book.sum(0) > 2) & (book.sum(0) < n_classes - 2)).all()
        if gap > best_gap and balanced:
            best, best_gap = book, gap
    print("smallest distance between two code words:", best_gap)
    return best


class Questions(nn.Module):
    def __init__(self, n_bits):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.LeakyReLU(0.1),
            nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.LeakyReLU(0.1),
            nn.Conv2d(32, 48, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(48), nn.LeakyReLU(0.1),
        )
        self.answers = nn.Linear(48 * 16, n_bits)

    def forward(self, x):
        return self.answers(self.body(x).flatten(1))


d = np.load(os.environ["DOCTOR_DATA"])
mu, sd = d["x_train"].mean(), d["x_train"].std()
Xa = torch.tensor((d["x_train"] - mu) / sd, dtype=torch.float32)[:, None]
Xb = torch.tensor((d["x_test"] - mu) / sd, dtype=torch.float32)[:, None]
ya, yb = torch.tensor(d["y_train"]).long(), torch.tensor(d["y_test"]).long()

codebook = draw_codebook(10, bits)
model = Questions(bits)
opt = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
n_epochs, bs = 12, 100
sched = torch.optim.lr_scheduler.OneCycleLR(opt, max_lr=4e-3, total_steps=n_epochs * len(Xa) // bs)


def decode(logits):
    p = torch.sigmoid(logits)
    return torch.cdist(p, codebook, p=1).argmin(dim=1)


for epoch in range(n_epochs):
    model.train()
    lossum = bit_errors = 0.0
    for i in torch.randperm(len(Xa)).split(bs):
        out, want = model(Xa[i]), codebook[ya[i]]
        loss = F.binary_cross_entropy_with_logits(out, want)
        opt.zero_grad()
        loss.backward()
        opt.step()
        sched.step()
        lossum += loss.item() * len(i)
        bit_errors += ((out > 0).float() != want).float().mean().item() * len(i)
    print(f"epoch {epoch:2d}: bce {lossum / len(Xa):.4f}  wrong bits {bit_errors / len(Xa):.3f}")

model.eval()
with torch.no_grad():
    guess = torch.cat([decode(model(x)) for x in Xb.split(200)])
print("decoded accuracy: %.3f" % (guess == yb).float().mean().item())
