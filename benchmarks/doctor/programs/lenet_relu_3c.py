import os
import numpy as np
import torch
from torch import nn, optim

torch.manual_seed(4)


def fashion(batch_size):
    arrays = np.load(os.environ["DOCTOR_DATA"])
    sets = []
    for part in ["train", "test"]:
        images = torch.tensor(arrays["x_" + part]).float()[:, None]
        labels = torch.tensor(arrays["y_" + part]).long()
        sets.append(list(zip(images.split(batch_size), labels.split(batch_size))))
    return sets


def lenet():
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(400, 120), nn.ReLU(), nn.Dropout(0.1),
        nn.Linear(120, 84), nn.ReLU(),
        nn.Linear(84, 10))


def measure(net, batches):
    net.eval()
    with torch.no_grad():
        right = [(net(x).argmax(1) == y).float().mean() for x, y in batches]
    return torch.stack(right).mean().item()


def train(net, train_batches, test_batches, lr, num_epochs):
    opt = optim.Adam(net.parameters(), lr=lr)
    loss_function = nn.CrossEntropyLoss()
    epoch = 0
    while epoch < num_epochs:
        net.train()
        for b in torch.randperm(len(train_batches)).tolist():
            x, y = train_batches[b]
            opt.zero_grad()
            loss = loss_function(net(x), y)
            loss.backward()
            opt.step()
        epoch += 1
        print("epoch", epoch, "loss", loss.item(), "test accuracy", measure(net, test_batches))


train_batches, test_batches = fashion(50)
net = lenet()
lr, num_epochs = 0.002, 10
train(net, train_batches, test_batches, num_epochs, lr)
print("done, test accuracy", measure(net, test_batches))
