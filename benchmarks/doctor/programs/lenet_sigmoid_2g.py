import os
import torch
import numpy as np
import torch.nn as nn
import torch.optim as optim


class LeNet5(nn.Module):
    """LeCun et al., 1998, with today's head."""

    def __init__(self):
        super(LeNet5, self).__init__()
        self.c1 = nn.Conv2d(1, 6, 5, padding=2)
        self.s2 = nn.AvgPool2d(2)
        self.c3 = nn.Conv2d(6, 16, 5)
        self.s4 = nn.AvgPool2d(2)
        self.f5 = nn.Linear(400, 120)
        self.f6 = nn.Linear(120, 84)
        self.out = nn.Linear(84, 10)
        self.act = nn.Tanh()
        self.reset()

    def reset(self):
        for layer in (self.c1, self.c3, self.f5, self.f6, self.out):
            nn.init.normal_(layer.weight, 0.0, 2.0)
            nn.init.zeros_(layer.bias)

    def forward(self, x):
        x = self.s2(self.act(self.c1(x)))
        x = self.s4(self.act(self.c3(x)))
        x = torch.flatten(x, 1)
        x = self.act(self.f5(x))
        x = self.act(self.f6(x))
        return self.out(x)


def get_split(name):
    raw = np.load(os.environ["DOCTOR_DATA"])
    x = torch.FloatTensor(raw["x_" + name].astype("float32") / 255.0)
    return x[:, None, :, :], torch.LongTensor(raw["y_" + name].astype("int64"))


torch.manual_seed(1998)
train_x, train_y = get_split("train")
test_x, test_y = get_split("test")
model = LeNet5()
optimizer = optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
criterion = nn.CrossEntropyLoss()

batch = 80
for epoch in range(6):
    shuffled = torch.randperm(train_x.size(0))
    epoch_loss = 0
    for k in range(0, train_x.size(0), batch):
        pick = shuffled[k:k + batch]
        inputs = train_x[pick]
        targets = train_y[pick]
        optimizer.zero_grad()
        outputs = model(inputs)
        loss = criterion(outputs, targets)
        loss.backward()
        optimizer.step()
        epoch_loss += loss.item() * inputs.size(0)
    print("Epoch: {} \tTraining Loss: {:.6f}".format(epoch + 1, epoch_loss / train_x.size(0)))

model.eval()
with torch.no_grad():
    answer = model(test_x).argmax(dim=1)
print("Test Accuracy: {:.2f}%".format(100.0 * (answer == test_y).sum().item() / test_y.size(0)))
