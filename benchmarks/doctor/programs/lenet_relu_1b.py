import os

import numpy as np
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)

arrays = np.load(os.environ["DOCTOR_DATA"])
x_train = torch.tensor(arrays["x_train"], dtype=torch.float32).unsqueeze(1) / 255.0
y_train = torch.tensor(arrays["y_train"], dtype=torch.long)
x_test = torch.tensor(arrays["x_test"], dtype=torch.float32).unsqueeze(1) / 255.0
y_test = torch.tensor(arrays["y_test"], dtype=torch.long)

train_loader = DataLoader(TensorDataset(x_train, y_train), batch_size=64, shuffle=True)
test_loader = DataLoader(TensorDataset(x_test, y_test), batch_size=250)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 5, padding=2)
        self.conv2 = nn.Conv2d(8, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 84)
        self.norm1, self.norm2 = nn.BatchNorm2d(8), nn.BatchNorm2d(16)
        self.fc2 = nn.Linear(84, 10)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x):
        x = self.pool(torch.relu(self.norm1(self.conv1(x))))
        x = self.pool(torch.relu(self.norm2(self.conv2(x))))
        x = x.flatten(1)
        x = torch.relu(self.fc1(x))
        return self.fc2(x)


model = Net()
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
model.eval()
print("before:", (model(x_test).argmax(1) == y_test).float().mean().item())

for epoch in range(4):
    running = 0.0
    model.train()
    for images, labels in train_loader:
        optimizer.zero_grad()
        outputs = model(images)
        loss = criterion(outputs, labels)
        loss.backward()
        optimizer.step()
        running += loss.item()
    print(f"epoch {epoch + 1}: loss {running / len(train_loader):.4f}")

correct = 0
model.eval()
with torch.no_grad():
    for images, labels in test_loader:
        predicted = model(images).argmax(1)
        correct += (predicted == labels).sum().item()
print("accuracy on the test images:", correct / len(y_test))
