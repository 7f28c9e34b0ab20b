import copy
import os
from typing import List

import numpy as np
import torch
from torch import nn, optim
from torch.utils.data import DataLoader, Dataset, Subset, random_split

params = {
    "features": [12, 12, "pool", 24, 24, "pool", 32, "pool"],
    "classifier": [32 * 3 * 3, 96, 10],
    "dropout": 0.25,
    "batch_size": 64,
    "lr": 1e-3,
    "max_epochs": 12,
    "patience": 4,
    "valid": 500,
}


class Clothes(Dataset):
    """The arrays of one split, one image a time."""

    def __init__(self, split):
        archive = np.load(os.environ["DOCTOR_DATA"])
        self.images = archive["x_" + split]
        self.targets = archive["y_" + split]

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        image = torch.from_numpy(self.images[i]).to(torch.float32) / 255
        return (image[None] - 0.5) / 0.5, int(self.targets[i])


def conv_layers(plan) -> List[nn.Module]:
    layers, last = [], 1
    for item in plan:
        if item == "pool":
            layers.append(nn.MaxPool2d(2, 2))
            continue
        layers += [nn.Conv2d(last, item, 3, padding=1, bias=False), nn.BatchNorm2d(item), nn.ReLU()]
        last = item
    return layers


def dense_layers(widths, dropout) -> List[nn.Module]:
    layers = []
    for i, (a, b) in enumerate(zip(widths[:-1], widths[1:])):
        layers.append(nn.Linear(a, b))
        if i < len(widths) - 2:
            layers += [nn.BatchNorm1d(b), nn.ReLU(), nn.Dropout(dropout)]
    return layers


class SmallVGG(nn.Module):
    def __init__(self, p):
        super().__init__()
        self.features = nn.Sequential(*conv_layers(p["features"]))
        self.classifier = nn.Sequential(*dense_layers(p["classifier"], p["dropout"]))
        self.apply(self.init)

    @staticmethod
    def init(m):
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out")
        elif isinstance(m, (nn.BatchNorm2d, nn.BatchNorm1d)):
            nn.init.constant_(m.weight, 1)
            nn.init.constant_(m.bias, 0)
        elif isinstance(m, nn.Linear):
            nn.init.constant_(m.weight, 0)
            nn.init.constant_(m.bias, 0)

    def forward(self, x):
        return self.classifier(torch.flatten(self.features(x), start_dim=1))


class Trainer:
    def __init__(self, net, p):
        self.net, self.p = net, p
        self.loss_fn = nn.CrossEntropyLoss()
        self.opt = optim.Adam([w for w in net.parameters() if w.requires_grad], lr=p["lr"])
        self.plateau = optim.lr_scheduler.ReduceLROnPlateau(self.opt, factor=0.3, patience=1)

    def _pass(self, loader, training):
        self.net.train(training)
        loss_sum = correct = count = 0
        for images, targets in loader:
            with torch.set_grad_enabled(training):
                logits = self.net(images)
                loss = self.loss_fn(logits, targets)
            if training:
                self.opt.zero_grad()
                loss.backward()
                self.opt.step()
            loss_sum += loss.item() * len(targets)
            correct += int((logits.argmax(dim=1) == targets).sum())
            count += len(targets)
        return loss_sum / count, correct / count

    def fit(self, train_loader, valid_loader):
        best, best_state, waited = float("inf"), None, 0
        for epoch in range(self.p["max_epochs"]):
            tl, ta = self._pass(train_loader, True)
            vl, va = self._pass(valid_loader, False)
            self.plateau.step(vl)
            print(f"Epoch {epoch}: train {tl:.3f} ({ta:.1%})  valid {vl:.3f} ({va:.1%})")
            if vl < best or best_state is None:
                best, best_state, waited = vl, copy.deepcopy(self.net.state_dict()), 0
            else:
                waited += 1
                if waited >= self.p["patience"]:
                    print("no progress, stopping")
                    break
        self.net.load_state_dict(best_state)

    def test(self, loader):
        return self._pass(loader, False)[1]


torch.manual_seed(2021)
everything = Clothes("train")
train_set, valid_set = random_split(everything, [len(everything) - params["valid"], params["valid"]])
train_loader = DataLoader(train_set, batch_size=params["batch_size"], shuffle=True)
valid_loader = DataLoader(valid_set, batch_size=250)
test_loader = DataLoader(Clothes("test"), batch_size=250)
net = SmallVGG(params)
trainer = Trainer(net, params)
trainer.fit(train_loader, valid_loader)
print(f"Final test accuracy -> {trainer.test(test_loader):.4f}")
