"""
Assignment 3, part 2: Convolutional Networks in PyTorch
Student implementation of `ThreeLayerConvNet` and `Solver`.
"""
import os

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F


def get_fashion_data(num_val=50):
    """Load the arrays and keep `num_val` images of each class for validation."""
    npz = np.load(os.environ["DOCTOR_DATA"])
    X, y = npz["x_train"], npz["y_train"].astype(np.int64)
    train_idx, val_idx = [], []
    for k in range(10):
        members = np.flatnonzero(y == k)
        val_idx.extend(members[:num_val])
        train_idx.extend(members[num_val:])
    mean, std = X[train_idx].mean(), X[train_idx].std()

    def prep(a):
        return torch.tensor((a - mean) / std, dtype=torch.float32).view(-1, 1, 28, 28)

    return {
        "X_train": prep(X[train_idx]), "y_train": torch.tensor(y[train_idx]),
        "X_val": prep(X[val_idx]), "y_val": torch.tensor(y[val_idx]),
        "X_test": prep(npz["x_test"]), "y_test": torch.tensor(npz["y_test"].astype(np.int64)),
    }


class ThreeLayerConvNet(nn.Module):
    """conv - relu - pool - conv - relu - pool - affine - relu - affine"""

    def __init__(self, channel_1=16, channel_2=32, hidden=96, num_classes=10):
        super().__init__()
        self.conv1 = nn.Conv2d(1, channel_1, 5, padding=2)
        self.conv2 = nn.Conv2d(channel_1, channel_2, 3, padding=1)
        self.affine1 = nn.Linear(channel_2 * 7 * 7, hidden)
        self.affine2 = nn.Linear(hidden, num_classes)
        for layer in (self.conv1, self.conv2, self.affine1, self.affine2):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.constant_(layer.bias, 0)

    def forward(self, x):
        for conv in (self.conv1, self.conv2):
            x = F.max_pool2d(F.relu(conv(x)), 2)
        x = x.flatten(start_dim=1)
        x = F.relu(self.affine1(x))
        return self.affine2(x)


class Solver:
    """Encapsulates everything needed to train a classification model.

    solver = Solver(model, data, lr=..., num_epochs=..., batch_size=...)
    solver.train()
    """

    def __init__(self, model, data, **kwargs):
        self.model = model
        self.X_train, self.y_train = data["X_train"], data["y_train"]
        self.X_val, self.y_val = data["X_val"], data["y_val"]
        self.lr = kwargs.pop("lr", 1e-2)
        self.lr_decay = kwargs.pop("lr_decay", 1.0)
        self.batch_size = kwargs.pop("batch_size", 100)
        self.num_epochs = kwargs.pop("num_epochs", 10)
        self.print_every = kwargs.pop("print_every", 20)
        self.shuffle = kwargs.pop("shuffle", True)
        if kwargs:
            raise ValueError("Unrecognized arguments: " + ", ".join(kwargs))
        self.loss_fn = nn.CrossEntropyLoss(reduction="sum")
        self.optimizer = torch.optim.SGD(model.parameters(), lr=self.lr, momentum=0.9)
        self.loss_history, self.train_acc_history, self.val_acc_history = [], [], []
        self.best_val_acc, self.best_params = 0.0, None

    def _step(self, X_batch, y_batch):
        scores = self.model(X_batch)
        loss = self.loss_fn(scores, y_batch)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.loss_history.append(loss.item())

    @torch.no_grad()
    def check_accuracy(self, X, y, num_samples=None, batch_size=100):
        if num_samples is not None:
            mask = torch.randperm(len(X))[:num_samples]
            X, y = X[mask], y[mask]
        self.model.eval()
        y_pred = torch.cat([self.model(X[i : i + batch_size]).argmax(dim=1) for i in range(0, len(X), batch_size)])
        self.model.train()
        return (y_pred == y).double().mean().item()

    def train(self):
        n = len(self.X_train)
        t = 0
        for epoch in range(self.num_epochs):
            order = torch.randperm(n) if self.shuffle else torch.arange(n)
            for start in range(0, n, self.batch_size):
                picked = order[start : start + self.batch_size]
                self._step(self.X_train[picked], self.y_train[picked])
                if t % self.print_every == 0:
                    print(f"(Iteration {t}) loss: {self.loss_history[-1]:f}")
                t += 1
            for group in self.optimizer.param_groups:
                group["lr"] *= self.lr_decay
            train_acc = self.check_accuracy(self.X_train, self.y_train, num_samples=500)
            val_acc = self.check_accuracy(self.X_val, self.y_val)
            self.train_acc_history.append(train_acc)
            self.val_acc_history.append(val_acc)
            print(f"(Epoch {epoch + 1} / {self.num_epochs}) train acc: {train_acc:f}; val_acc: {val_acc:f}")
            if val_acc > self.best_val_acc:
                self.best_val_acc = val_acc
                self.best_params = {k: v.clone() for k, v in self.model.state_dict().items()}
        if self.best_params is not None:
            self.model.load_state_dict(self.best_params)


if __name__ == "__main__":
    torch.manual_seed(231)
    np.random.seed(231)
    data = get_fashion_data()
    for key in sorted(data):
        print(key, tuple(data[key].shape))
    model = ThreeLayerConvNet()
    solver = Solver(model, data, lr=0.01, lr_decay=0.85, num_epochs=8, batch_size=50)
    solver.train()
    print("Best validation accuracy:", solver.best_val_acc)
    print(f"Test set accuracy: {solver.check_accuracy(data['X_test'], data['y_test']):.4f}")
