"""Baseline kernel: ResNet, simple augmentation, cosine schedule."""
import os
import random

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

CFG = dict(seed=2024, batch_size=64, epochs=5, lr=2e-3, wd=1e-4, workers=0, mean=0.286, std=0.353)


def seed_everything(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


class FashionDataset(Dataset):
    def __init__(self, images, labels, augment=False):
        self.images = images
        self.labels = labels
        self.augment = augment

    def __len__(self):
        return len(self.images)

    def __getitem__(self, idx):
        img = self.images[idx].astype(np.float32) / 255.0
        if self.augment:
            img = self.transform(img)
        img = (img - CFG["mean"]) / CFG["std"]
        return torch.from_numpy(img.copy()).unsqueeze(0), torch.tensor(self.labels[idx], dtype=torch.long)

    def transform(self, img):
        if random.random() < 0.5:
            img = img[:, ::-1]
        dx, dy = random.randint(-2, 2), random.randint(-2, 2)
        return np.roll(img, (dx, dy), axis=(0, 1))


class Block(nn.Module):
    def __init__(self, cin, cout, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(cout)
        self.conv2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(cout)
        self.shortcut = nn.Identity()
        if stride != 1 or cin != cout:
            self.shortcut = nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout))

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x))


class ResNet(nn.Module):
    def __init__(self, n_classes=10):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU())
        self.layer1 = Block(12, 12)
        self.layer2 = Block(12, 24, 2)
        self.layer3 = Block(24, 48, 2)
        self.fc = nn.Linear(48, n_classes)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(self.stem(x))))
        return self.fc(x.mean((2, 3)))


def train_one_epoch(model, loader, criterion, optimizer, scheduler):
    model.train()
    running_loss = 0.0
    for images, targets in loader:
        optimizer.zero_grad()
        preds = model(images)
        loss = criterion(preds, targets)
        loss.backward()
        optimizer.step()
        scheduler.step()
        running_loss += loss.item()
    return running_loss / len(loader.dataset)


def validate(model, loader):
    model.eval()
    preds, targets = [], []
    with torch.no_grad():
        for images, labels in loader:
            preds.append(model(images).argmax(1))
            targets.append(labels)
    return (torch.cat(preds) == torch.cat(targets)).float().mean().item()


def main():
    seed_everything(CFG["seed"])
    arrays = np.load(os.environ["DOCTOR_DATA"])
    train_ds = FashionDataset(arrays["x_train"], arrays["y_train"], augment=True)
    valid_ds = FashionDataset(arrays["x_test"], arrays["y_test"])
    train_dl = DataLoader(train_ds, CFG["batch_size"], shuffle=True, num_workers=CFG["workers"], drop_last=True)
    valid_dl = DataLoader(valid_ds, 250)
    model = ResNet()
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=CFG["lr"], weight_decay=CFG["wd"])
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=CFG["epochs"] * len(train_dl))
    for epoch in range(CFG["epochs"]):
        train_loss = train_one_epoch(model, train_dl, criterion, optimizer, scheduler)
        score = validate(model, valid_dl)
        print(f"Epoch {epoch + 1}/{CFG['epochs']} - train_loss: {train_loss:.4f} - val_acc: {score:.4f}")
    print("CV score:", round(score, 4))


if __name__ == "__main__":
    main()
