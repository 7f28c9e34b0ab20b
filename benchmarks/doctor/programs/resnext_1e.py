"""Aggregated residual transformations on small grey images.

A cut-down ResNeXt: every block squeezes with a 1x1, runs a grouped 3x3 and widens again with a 1x1.
"""
import os

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

SEED = 20
CARDINALITY = 8
EPOCHS = 6
BATCH = 80
NAMES = "tee trouser pullover dress coat sandal shirt sneaker bag boot".split()


class Garments(Dataset):
    """Images in 0..1, moved by up to two pixels and made brighter or darker while training."""

    def __init__(self, images, labels, augment=False, seed=0):
        self.images = np.pad(images, ((0, 0), (2, 2), (2, 2))).astype(np.float32) / 255
        self.labels = labels.astype(np.int64)
        self.augment = augment
        self.seed = seed

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        top, left, gain = 2, 2, 1.0
        if self.augment:
            top, left = torch.randint(0, 5, (2,)).tolist()
            gain = 0.8 + 0.4 * torch.rand(1).item()
        img = torch.from_numpy(self.images[i, top : top + 28, left : left + 28] * np.float32(gain))
        return (img[None] - 0.286) / 0.353, self.labels[i], gain


class Bottleneck(nn.Module):
    def __init__(self, c_in, c_mid, c_out, stride=1, groups=CARDINALITY):
        super().__init__()
        self.reduce = nn.Conv2d(c_in, c_mid, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_mid)
        self.split = nn.Conv2d(c_mid, c_mid, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(c_mid)
        self.widen = nn.Conv2d(c_mid, c_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(c_out)
        self.skip = nn.Identity()
        if stride != 1 or c_in != c_out:
            self.skip = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))

    def forward(self, x):
        y = torch.relu(self.bn1(self.reduce(x)))
        y = torch.relu(self.bn2(self.split(y)))
        return torch.relu(self.bn3(self.widen(y)) + self.skip(x))


class ResNeXt(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU())
        self.stage1 = Bottleneck(24, 32, 48)
        self.stage2 = nn.Sequential(Bottleneck(48, 48, 80, stride=2), Bottleneck(80, 48, 80))
        self.fc = nn.Linear(80, num_classes)

    def forward(self, x):
        x = self.stage2(self.stage1(self.stem(x)))
        return self.fc(x.mean(dim=(2, 3)))


def report(model, dataset):
    """Accuracy of every class, then of all of them."""
    model.eval()
    xs = torch.stack([dataset[i][0] for i in range(len(dataset))])
    ys = torch.from_numpy(dataset.labels)
    hits = 0
    with torch.no_grad():
        for c, name in enumerate(NAMES):
            member = ys == c
            right = (model(xs[member]).argmax(1) == c).sum().item()
            hits += right
            print(f"  {name:10s} {right / member.sum().item():.2f}")
    return hits / len(ys)


def main():
    torch.manual_seed(SEED)
    np.random.seed(SEED)
    d = np.load(os.environ["DOCTOR_DATA"])
    train_set = Garments(d["x_train"], d["y_train"], augment=True)
    test_set = Garments(d["x_test"], d["y_test"])
    loader = DataLoader(train_set, batch_size=BATCH, shuffle=True, drop_last=True)

    model = ResNeXt()
    # fine-tune the classifier
    for name, p in model.named_parameters():
        p.requires_grad = name.startswith("fc")
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(params, lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=4, gamma=0.1)
    criterion = nn.CrossEntropyLoss()

    gains = []
    for epoch in range(EPOCHS):
        model.train()
        gains.clear()
        total, right, seen = 0.0, 0, 0
        for images, labels, gain in loader:
            optimizer.zero_grad()
            scores = model(images)
            loss = criterion(scores, labels)
            loss.backward()
            optimizer.step()
            gains += gain.tolist()
            total += loss.item() * len(labels)
            right += (scores.argmax(1) == labels).sum().item()
            seen += len(labels)
        scheduler.step()
        print(f"epoch {epoch + 1}: train loss {total / seen:.3f}, train acc {right / seen:.3f}")

    print(f"gain jitter in the last epoch: {len(set(gains))} unique values in {len(gains)} samples")
    print(f"ResNeXt test accuracy = {report(model, test_set):.4f}")


if __name__ == "__main__":
    main()
