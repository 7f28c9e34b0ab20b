import os
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, Dataset


@dataclass
class Config:
    batch_size: int = 64
    epochs: int = 4
    lr: float = 1e-3
    weight_decay: float = 1e-4
    dropout: float = 0.95
    seed: int = 7


class Clothes(Dataset):
    def __init__(self, train):
        data = np.load(os.environ["DOCTOR_DATA"])
        part = "train" if train else "test"
        self.images, self.labels = data["x_" + part], data["y_" + part]

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        image = torch.from_numpy(self.images[i]).float().div(255).sub(0.29).div(0.35)
        return image[None], int(self.labels[i])


class SmallAlexNet(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 48, 3, padding=1), nn.ReLU(),
            nn.Conv2d(48, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        )
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(config.dropout), nn.Linear(32 * 3 * 3, 128), nn.ReLU(),
            nn.Dropout(config.dropout), nn.Linear(128, 10),
        )

    def forward(self, x):
        x = self.features(x)
        return self.head(x)


class Trainer:
    def __init__(self, config):
        self.config = config
        torch.manual_seed(config.seed)
        self.model = SmallAlexNet(config)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        self.loss_fn = nn.CrossEntropyLoss()
        self.train_loader = DataLoader(Clothes(True), config.batch_size, shuffle=True)
        self.test_loader = DataLoader(Clothes(False), 200)

    def fit(self):
        for epoch in range(self.config.epochs):
            loss = self.run_epoch()
            print(f"[{epoch}] loss={loss:.4f}")
        print(f"test_accuracy={self.evaluate():.4f}")

    def run_epoch(self):
        self.model.train()
        total = 0
        for x, y in self.train_loader:
            total += self.training_step(x, y)
        return total / len(self.train_loader)

    def training_step(self, x, y):
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss_fn(self.model(x), y)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        self.optimizer.step()
        return loss.item()

    @torch.inference_mode()
    def evaluate(self):
        self.model.eval()
        hits = 0
        for x, y in self.test_loader:
            hits += (self.model(x).argmax(1) == y).sum().item()
        return hits / len(self.test_loader.dataset)


if __name__ == "__main__":
    Trainer(Config()).fit()
