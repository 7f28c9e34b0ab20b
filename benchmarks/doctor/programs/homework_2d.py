# CS-482 computer vision, homework 3: a CNN from scratch with data augmentation
# usage: python hw3.py
import copy
import os
import time

import numpy as np
import torch
from torch import nn, optim
from torch.utils.data import DataLoader, Dataset

SEED = 482
np.random.seed(SEED)
torch.manual_seed(SEED)
torch.set_num_threads(1)
rng = np.random.default_rng(SEED)


# ---------- transforms ----------
class Compose:
    def __init__(self, ts):
        self.ts = ts

    def __call__(self, img):
        for t in self.ts:
            img = t(img)
        return img


class ToFloat:
    def __call__(self, img):
        return img.astype(np.float32) / 255.0


class RandomFlip:
    def __call__(self, img):
        return img[:, ::-1] if rng.random() < 0.5 else img


class PadCrop:
    def __init__(self, pad):
        self.pad = pad

    def __call__(self, img):
        h, w = img.shape
        big = np.pad(img, self.pad)
        i, j = rng.integers(0, 2 * self.pad + 1, 2)
        return big[i:i + h, j:j + w]


class GaussianNoise:
    def __init__(self, sigma):
        self.sigma = sigma

    def __call__(self, img):
        return img + rng.normal(0.0, self.sigma, img.shape).astype(np.float32)


# ---------- data ----------
class Images(Dataset):
    def __init__(self, x, y, transform):
        self.x, self.y, self.transform = x, y, transform

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        img = np.ascontiguousarray(self.transform(self.x[i]))
        return torch.from_numpy(img)[None], int(self.y[i])


def by_class(x, y, per_class_val=40):
    """Take the same number of validation pictures from every class."""
    tr, va = [], []
    for c in range(10):
        idx = np.where(y == c)[0]
        va.append(idx[:per_class_val])
        tr.append(idx[per_class_val:])
    tr, va = np.concatenate(tr), np.concatenate(va)
    return (x[tr], y[tr]), (x[va], y[va])


data = np.load(os.environ["DOCTOR_DATA"])
train_part, val_part = by_class(data["x_train"], data["y_train"])
augment = Compose([ToFloat(), RandomFlip(), PadCrop(1), GaussianNoise(0.02)])
plain = Compose([ToFloat()])
datasets = {"train": Images(*train_part, augment), "val": Images(*val_part, plain),
            "test": Images(data["x_test"], data["y_test"], plain)}
loaders = {k: DataLoader(v, batch_size=50, shuffle=(k == "Train")) for k, v in datasets.items()}


# ---------- model ----------
class HwNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.conv3 = nn.Conv2d(32, 64, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(64 * 3 * 3, 96)
        self.drop = nn.Dropout(0.2)
        self.fc2 = nn.Linear(96, 10)

    def forward(self, x):
        for conv in (self.conv1, self.conv2, self.conv3):
            x = self.pool(torch.relu(conv(x)))
        x = torch.relu(self.fc1(x.flatten(1)))
        return self.fc2(self.drop(x))


def train_model(model, criterion, optimizer, num_epochs):
    since = time.time()
    best_wts, best_acc = copy.deepcopy(model.state_dict()), 0.0
    history = {"train": [], "val": []}
    for epoch in range(num_epochs):
        for phase in ("train", "val"):
            model.train() if phase == "train" else model.eval()
            running_loss, running_corrects = 0.0, 0
            for inputs, labels in loaders[phase]:
                optimizer.zero_grad()
                with torch.set_grad_enabled(phase == "train"):
                    outputs = model(inputs)
                    loss = criterion(outputs, labels)
                    if phase == "train":
                        loss.backward()
                        optimizer.step()
                running_loss += loss.item() * inputs.size(0)
                running_corrects += (outputs.argmax(1) == labels).sum().item()
            epoch_loss = running_loss / len(datasets[phase])
            epoch_acc = running_corrects / len(datasets[phase])
            history[phase].append(epoch_loss)
            print(f"{epoch + 1}/{num_epochs} {phase:5s} loss: {epoch_loss:.4f} acc: {epoch_acc:.4f}")
            if phase == "val" and epoch_acc > best_acc:
                best_acc, best_wts = epoch_acc, copy.deepcopy(model.state_dict())
    print(f"done in {time.time() - since:.0f}s, best val acc {best_acc:.4f}")
    model.load_state_dict(best_wts)
    return model, history


net = HwNet()
net, history = train_model(net, nn.CrossEntropyLoss(), optim.Adam(net.parameters(), lr=2e-3), num_epochs=12)
net.eval()
with torch.no_grad():
    right = sum((net(x).argmax(1) == y).sum().item() for x, y in loaders["test"])
print(f"Test accuracy (hw3): {right / len(datasets['test']):.4f}")
