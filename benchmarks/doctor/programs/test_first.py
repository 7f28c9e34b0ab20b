import os
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def make_loader(part, batch_size, shuffle):
    with np.load(os.environ["DOCTOR_DATA"]) as z:
        x = torch.tensor(z["x_" + part], dtype=torch.float).unsqueeze(1) / 255
        y = torch.tensor(z["y_" + part], dtype=torch.long)
    return DataLoader(TensorDataset(x, y), batch_size, shuffle=shuffle)


def evaluate(net, loader, loss_fn):
    net.eval()
    loss = hits = 0
    with torch.no_grad():
        for x, y in loader:
            out = net(x)
            loss += loss_fn(out, y).item()
            hits += (out.argmax(1) == y).sum().item()
    return loss / len(loader), hits / len(loader.dataset)


def run():
    torch.manual_seed(31)
    train, test = make_loader("train", 64, True), make_loader("test", 200, False)
    net = nn.Sequential(nn.Conv2d(1, 8, 5), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten(),
                        nn.Dropout(0.1), nn.Linear(288, 10))
    loss_fn, opt = nn.CrossEntropyLoss(), torch.optim.Adam(net.parameters(), 4e-3)
    print("before training: loss %.3f, accuracy %.3f" % evaluate(net, test, loss_fn))
    for epoch in range(4):
        net.train()
        for x, y in train:
            opt.zero_grad()
            loss_fn(net(x), y).backward()
            opt.step()
        print("epoch %d: loss %.3f, accuracy %.3f" % ((epoch,) + evaluate(net, test, loss_fn)))


if __name__ == "__main__":
    run()
