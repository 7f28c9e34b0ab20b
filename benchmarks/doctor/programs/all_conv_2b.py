"""Fully convolutional classifier by voting: every position says yes or no to each class, the image gets the mean.
Activations between the stages are kept in half precision to save memory, hence the constant loss scale."""
import os
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

SEED, EPOCHS, BATCH, LR = 5, 12, 50, 2e-3
LOSS_SCALE = 2.0 ** 16


class Half(nn.Module):
    """store what passes through in 16 bits"""

    def forward(self, x):
        return x.half().float()


def stage(cin, cout, stride):
    return nn.Sequential(
        nn.Conv2d(cin, cout, 3, stride, 1), nn.ReLU(inplace=True),
        nn.Conv2d(cout, cout, 3, 1, 1), nn.ReLU(inplace=True), Half(),
    )


class VotingNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stages = nn.Sequential(stage(1, 16, 2), stage(16, 32, 2), stage(32, 32, 1))
        self.vote = nn.Conv2d(32, 10, 5, padding=2)
        self.shrink = Half()
        for m in self.stages.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, nonlinearity="relu")

    def forward(self, x):
        votes = F.interpolate(self.vote(self.stages(x)), size=x.shape[2:], mode="bilinear")
        return self.shrink(votes)


def load(kind):
    z = np.load(os.environ["DOCTOR_DATA"])
    x = torch.from_numpy(z["x_" + kind]).unsqueeze(1).float() / 127.5 - 1
    return x, torch.from_numpy(z["y_" + kind]).long()


def batches(x, y, size, g):
    for idx in torch.randperm(len(x), generator=g).split(size):
        yield x[idx], y[idx]


def evaluate(model, x, y):
    model.eval()
    with torch.inference_mode():
        pred = torch.cat([model(c).mean((2, 3)).argmax(1) for c in x.split(250)])
    return (pred == y).double().mean().item()


if __name__ == "__main__":
    torch.manual_seed(SEED)
    g = torch.Generator().manual_seed(SEED)
    xtr, ytr = load("train")
    xte, yte = load("test")
    model = VotingNet()
    params = [p for p in model.parameters()]
    optimizer = torch.optim.Adam(params, lr=LR)
    lr_at = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda e: 1 - 0.9 * e / EPOCHS)
    for epoch in range(EPOCHS):
        model.train()
        seen = 0.0
        for xb, yb in batches(xtr, ytr, BATCH, g):
            votes = model(xb)
            target = F.one_hot(yb, 10).float()[:, :, None, None].expand_as(votes)
            # a share of the epoch's mean, so that the shares can be added up
            loss = F.binary_cross_entropy_with_logits(votes, target, reduction="sum") / (len(xtr) * target[0].numel())
            optimizer.zero_grad()
            (loss * LOSS_SCALE).backward()
            for p in params:
                p.grad.div_(LOSS_SCALE)
            optimizer.step()
            seen += loss.item()
        lr_at.step()
        print("epoch", epoch, "loss", round(seen, 4))
    print("voting accuracy", round(evaluate(model, xte, yte), 4))
