"""A GoogLeNet for small images, in the manner of the paper's figure 2(b)."""
import os
import sys

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader


class Inception(nn.Module):
    def __init__(self, in_channels, c1, c2, c3, c4):
        super().__init__()
        self.p1 = nn.Conv2d(in_channels, c1, 1)
        self.p2_1 = nn.Conv2d(in_channels, c2[0], 1)
        self.p2_2 = nn.Conv2d(c2[0], c2[1], 3, padding=1)
        self.p3_1 = nn.Conv2d(in_channels, c3[0], 1)
        self.p3_2 = nn.Conv2d(c3[0], c3[1], 5, padding=2)
        self.p4 = nn.Conv2d(in_channels, c4, 1)

    def forward(self, x):
        a = F.relu(self.p1(x))
        b = F.relu(self.p2_2(F.relu(self.p2_1(x))))
        c = F.relu(self.p3_2(F.relu(self.p3_1(x))))
        d = F.relu(self.p4(F.max_pool2d(x, 3, stride=1, padding=1)))
        return torch.cat((a, b, c, d), dim=1)


class GoogLeNet(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 5, stride=2, padding=2), nn.ReLU())
        self.inception_a = Inception(16, 8, (8, 12), (4, 8), 4)
        self.inception_b = Inception(32, 12, (12, 24), (4, 12), 8)
        self.inception_c = Inception(56, 16, (16, 32), (4, 16), 8)
        self.fc = nn.Linear(72, num_classes)
        for p in self.modules():
            if isinstance(p, nn.Conv2d):
                nn.init.kaiming_normal_(p.weight, nonlinearity="relu")

    def forward(self, x):
        x = self.stem(x)
        x = F.max_pool2d(self.inception_a(x), 2)
        x = F.max_pool2d(self.inception_b(x), 2)
        x = self.inception_c(x)
        x = x.mean(dim=(2, 3))
        return self.fc(x)


class Experiment:
    def __init__(self, seed=0, batch_size=64):
        torch.manual_seed(seed)
        with np.load(os.environ["DOCTOR_DATA"]) as data:
            self.train_set = self.pairs(data["x_train"], data["y_train"])
            self.test_set = self.pairs(data["x_test"], data["y_test"])
        self.train_loader = DataLoader(self.train_set, batch_size=batch_size, shuffle=True)
        self.test_loader = DataLoader(self.test_set, batch_size=250)
        self.net = GoogLeNet()
        self.model = GoogLeNet()
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.05, momentum=0.9)
        self.criterion = nn.CrossEntropyLoss()

    @staticmethod
    def pairs(images, labels):
        images = torch.as_tensor(images, dtype=torch.float32)[:, None] / 255
        return list(zip(images, torch.as_tensor(labels, dtype=torch.long)))

    def epoch(self):
        self.net.train()
        total = 0.0
        for images, labels in self.train_loader:
            self.optimizer.zero_grad()
            prediction = self.model(images)
            loss = self.criterion(prediction, labels)
            loss.backward()
            self.optimizer.step()
            total += loss.item()
        return total / len(self.train_loader)

    def score(self):
        self.net.eval()
        right = 0
        with torch.no_grad():
            for images, labels in self.test_loader:
                right += int((self.net(images).argmax(1) == labels).sum())
        return right / len(self.test_set)

    def run(self, epochs):
        for number in range(epochs):
            print(f"epoch {number}: loss {self.epoch():.4f}, top-1 {self.score():.3f}", flush=True)


def main(argv):
    epochs = int(argv[1]) if len(argv) > 1 else 5
    Experiment().run(epochs)


if __name__ == "__main__":
    main(sys.argv)
