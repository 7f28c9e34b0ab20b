'''Train a small Pre-activation ResNet with PyTorch.'''
import copy
import os

import numpy as np
import torch
import torch.nn as nn
import torch.optim as optim
import torch.nn.functional as F

device = 'cpu'
best_acc = 0      # best validation accuracy
num_epochs = 7
torch.manual_seed(11)
np.random.seed(11)
torch.set_num_threads(1)


class PreActBlock(nn.Module):
    '''Pre-activation version of the BasicBlock.'''

    def __init__(self, in_planes, planes, stride=1):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_planes)
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride=1, padding=1, bias=False)
        if stride != 1 or in_planes != planes:
            self.shortcut = nn.Conv2d(in_planes, planes, 1, stride=stride, bias=False)

    def forward(self, x):
        out = F.relu(self.bn1(x))
        shortcut = self.shortcut(out) if hasattr(self, 'shortcut') else x
        out = self.conv1(out)
        out = self.conv2(F.relu(self.bn2(out)))
        out += shortcut
        return out


class PreActResNet(nn.Module):
    def __init__(self, num_blocks, num_classes=10):
        super().__init__()
        self.in_planes = 16
        self.conv1 = nn.Conv2d(1, 16, 3, stride=2, padding=1, bias=False)
        self.layer1 = self._make_layer(16, num_blocks[0], 1)
        self.layer2 = self._make_layer(32, num_blocks[1], 2)
        self.layer3 = self._make_layer(64, num_blocks[2], 2)
        self.bn = nn.BatchNorm2d(64)
        self.linear = nn.Linear(64, num_classes)

    def _make_layer(self, planes, n, stride):
        layers = []
        for s in [stride] + [1] * (n - 1):
            layers.append(PreActBlock(self.in_planes, planes, s))
            self.in_planes = planes
        return nn.Sequential(*layers)

    def forward(self, x):
        out = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        out = F.relu(self.bn(out))
        return self.linear(out.mean(dim=(2, 3)))


print('==> Preparing data..')
d = np.load(os.environ['DOCTOR_DATA'])
mean, std = d['x_train'].mean() / 255., d['x_train'].std() / 255.


def as_tensors(x, y):
    x = (torch.from_numpy(x).float() / 255. - mean) / std
    return torch.utils.data.TensorDataset(x.unsqueeze(1), torch.from_numpy(y).long())


trainset = as_tensors(d['x_train'][400:], d['y_train'][400:])
valset = as_tensors(d['x_train'][:400], d['y_train'][:400])
testset = as_tensors(d['x_test'], d['y_test'])
trainloader = torch.utils.data.DataLoader(trainset, batch_size=64, shuffle=True, drop_last=True)
valloader = torch.utils.data.DataLoader(valset, batch_size=100, shuffle=False)
testloader = torch.utils.data.DataLoader(testset, batch_size=100, shuffle=False)

print('==> Building model..')
net = PreActResNet([1, 1, 1]).to(device)
shadow = copy.deepcopy(net)      # running average of the weights
criterion = nn.CrossEntropyLoss()
optimizer = optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
scheduler = optim.lr_scheduler.MultiStepLR(optimizer, milestones=[4, 6], gamma=0.1)


@torch.no_grad()
def update_shadow(decay=0.98):
    for a, b in zip(shadow.parameters(), net.parameters()):
        a.mul_(decay).add_(b, alpha=1 - decay)
    for a, b in zip(shadow.buffers(), net.buffers()):
        a.copy_(b)


def train(epoch):
    net.train()
    train_loss, correct, total = 0, 0, 0
    for batch_idx, (inputs, targets) in enumerate(trainloader):
        inputs, targets = inputs.to(device), targets.to(device)
        optimizer.zero_grad()
        outputs = net(inputs)
        loss = criterion(outputs, targets)
        loss.backward()
        optimizer.step()
        update_shadow()

        train_loss += loss.item()
        correct += outputs.argmax(1).eq(targets).sum().item()
        total += targets.size(0)
    print('Epoch %d | Loss: %.3f | Acc: %.2f%%' % (epoch, train_loss / (batch_idx + 1), 100. * correct / total))


def evaluate(m, loader):
    m.eval()
    correct = total = 0
    with torch.no_grad():
        for inputs, targets in loader:
            correct += m(inputs.to(device)).argmax(1).eq(targets).sum().item()
            total += targets.size(0)
    return 100. * correct / total


for epoch in range(num_epochs):
    train(epoch)
    acc = evaluate(net, valloader)
    print('   val %.2f%%, averaged weights %.2f%%' % (acc, evaluate(shadow, valloader)))
    if acc > best_acc:
        print('   Saving..')
        torch.save({'net': net.state_dict(), 'acc': acc, 'epoch': epoch}, 'ckpt.pth')
        best_acc = acc
    scheduler.step()

print('==> Testing the best checkpoint..')
checkpoint = torch.load('ckpt.pth')
final = PreActResNet([1, 1, 1]).to(device)
final.load_state_dict(checkpoint['net'])
print('Test Acc: %.2f%%' % evaluate(final, testloader))
