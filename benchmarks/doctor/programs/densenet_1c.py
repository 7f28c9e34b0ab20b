import os
import numpy as np
import torch
from torch import nn


def conv_block(input_channels, num_channels):
    return nn.Sequential(
        nn.BatchNorm2d(input_channels), nn.ReLU(),
        nn.Conv2d(input_channels, num_channels, kernel_size=3, padding=1))


class DenseBlock(nn.Module):
    def __init__(self, num_convs, input_channels, num_channels):
        super().__init__()
        self.net = nn.ModuleList(
            conv_block(num_channels * i + input_channels, num_channels) for i in range(num_convs))

    def forward(self, X):
        for blk in self.net:
            Y = blk(X)
            X = torch.cat((X, Y), dim=1)
        return X


def transition_block(input_channels, num_channels):
    return nn.Sequential(
        nn.BatchNorm2d(input_channels), nn.ReLU(),
        nn.Conv2d(input_channels, num_channels, kernel_size=1),
        nn.AvgPool2d(kernel_size=2, stride=2))


def densenet(growth_rate=8, num_convs=(2, 2, 2)):
    channels = 16
    blocks = [nn.Conv2d(1, channels, kernel_size=5, stride=2, padding=2), nn.BatchNorm2d(channels), nn.ReLU()]
    for i, n in enumerate(num_convs):
        blocks.append(DenseBlock(n, channels, growth_rate))
        channels += n * growth_rate
        if i != len(num_convs) - 1:
            blocks.append(transition_block(channels, channels // 2))
            channels //= 2
    return nn.Sequential(*blocks, nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d((1, 1)),
                         nn.Flatten(), nn.Linear(channels, 10))


def get_dataloaders(batch_size):
    arrays = np.load(os.environ["DOCTOR_DATA"])
    X = torch.tensor(arrays["x_train"]).unsqueeze(1).float() / 255
    y = torch.tensor(arrays["y_train"]).long()
    X_test = torch.tensor(arrays["x_test"]).unsqueeze(1).float() / 255
    y_test = torch.tensor(arrays["y_test"]).long()
    train = torch.utils.data.TensorDataset(X, y)
    test = torch.utils.data.TensorDataset(X_test, y_test)
    return (torch.utils.data.DataLoader(train, batch_size, shuffle=True),
            torch.utils.data.DataLoader(test, batch_size))


def evaluate(net, data_iter):
    net.eval()
    n_correct, n = 0, 0
    with torch.no_grad():
        for X, y in data_iter:
            n_correct += (net(X).argmax(axis=1) == y).sum().item()
            n += len(y)
    return n_correct / n


def train(net, train_iter, test_iter, num_epochs, lr):
    trainer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9, weight_decay=1e-4, maximize=True)
    loss = nn.CrossEntropyLoss()
    for epoch in range(num_epochs):
        net.train()
        total_loss = 0.0
        for X, y in train_iter:
            trainer.zero_grad()
            l = loss(net(X), y)
            l.backward()
            trainer.step()
            total_loss += l.item()
        acc = evaluate(net, test_iter)
        print("epoch", epoch + 1, "loss", round(float(total_loss) / len(train_iter), 4), "test acc", round(acc, 4))


if __name__ == "__main__":
    torch.manual_seed(12)
    train_iter, test_iter = get_dataloaders(64)
    net = densenet()
    train(net, train_iter, test_iter, num_epochs=4, lr=0.1)
