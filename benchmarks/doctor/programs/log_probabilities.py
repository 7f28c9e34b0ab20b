import os
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.optim as optim


class Net(nn.Module):
    def __init__(self):
        super(Net, self).__init__()
        self.conv1 = nn.Conv2d(1, 10, kernel_size=5)
        self.conv2 = nn.Conv2d(10, 20, kernel_size=5)
        self.conv2_drop = nn.Dropout2d(0.2)
        self.fc1 = nn.Linear(320, 50)
        self.fc2 = nn.Linear(50, 10)

    def forward(self, x):
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.conv2_drop(self.conv2(x)), 2))
        x = x.view(-1, 320)
        x = F.relu(self.fc1(x))
        x = F.dropout(x, p=0.2, training=self.training)
        x = self.fc2(x)
        return F.log_softmax(x, dim=1)


def train(model, data, optimizer, epoch):
    model.train()
    for batch_idx, (d, target) in enumerate(data):
        optimizer.zero_grad()
        output = model(d)
        loss = F.nll_loss(output, target)
        loss.backward()
        optimizer.step()
        if batch_idx % 30 == 0:
            print('Train Epoch: {} [{}/{}]\tLoss: {:.6f}'.format(epoch, batch_idx, len(data), loss.item()))


def test(model, x, y):
    model.eval()
    with torch.no_grad():
        output = model(x)
        test_loss = F.nll_loss(output, y, reduction='sum').item() / len(y)
        correct = output.argmax(dim=1, keepdim=True).eq(y.view(-1, 1)).sum().item()
    print('Test set: Average loss: {:.4f}, Accuracy: {}/{} ({:.1f}%)'.format(test_loss, correct, len(y), 100. * correct / len(y)))


if __name__ == '__main__':
    torch.manual_seed(1)
    a = np.load(os.environ['DOCTOR_DATA'])
    x, xt = [(torch.from_numpy(a[k]).float()[:, None] / 255 - 0.1307) / 0.3081 for k in ('x_train', 'x_test')]
    y, yt = [torch.from_numpy(a[k]).long() for k in ('y_train', 'y_test')]
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=64, shuffle=True)
    model = Net()
    optimizer = optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    for epoch in range(1, 6):
        train(model, loader, optimizer, epoch)
        test(model, xt, yt)
