# ## Fashion challenge, simple CNN
import gc
import os
import numpy as np
import torch
import torch.nn as nn
import torch.optim as optim
from torch.utils.data import Dataset, DataLoader

DEBUG = False
EPOCHS = 5
BATCH_SIZE = 64
LEARNING_RATE = 1e-3
np.random.seed(0)
torch.manual_seed(0)

store = np.load(os.environ["DOCTOR_DATA"])
train_images, train_labels = store["x_train"], store["y_train"]
test_images, test_labels = store["x_test"], store["y_test"]


class PixelDataset(Dataset):
    def __init__(self, images, labels, train=False):
        self.x = images
        self.y = labels
        self.train = train

    def __len__(self):
        return self.x.shape[0]

    def __getitem__(self, item):
        image = self.x[item] / 255.
        if self.train:
            image = self.jitter(image)
        image = torch.tensor(image, dtype=torch.float32).unsqueeze(0)
        label = int(self.y[item])
        return image, label

    def jitter(self, image):
        if np.random.rand() < 0.5:
            image = np.fliplr(image)
        return image + np.random.normal(0, 0.02, image.shape)


class CNN(nn.Module):
    def __init__(self):
        super(CNN, self).__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2))
        self.layer2 = nn.Sequential(nn.Conv2d(16, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2))
        self.fc1 = nn.Linear(32 * 6 * 6, 128)
        self.drop = nn.Dropout(0.25)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x):
        out = self.layer1(x)
        out = self.layer2(out)
        out = out.reshape(out.size(0), -1)
        out = torch.relu(self.fc1(out))
        out = self.drop(out)
        out = self.fc2(out)
        return out


train_dataset = PixelDataset(train_images, train_labels, train=True)
test_dataset = PixelDataset(test_images, test_labels)
train_loader = DataLoader(train_dataset, batch_size=BATCH_SIZE, shuffle=True)
test_loader = DataLoader(test_dataset, batch_size=200, shuffle=False)

model = CNN()
error = nn.CrossEntropyLoss()
optimizer = optim.Adam(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.999), eps=1e-8)

count = 0
for epoch in range(EPOCHS):
    model.train()
    for images, labels in train_loader:
        outputs = model(images)
        loss = error(outputs, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        count += 1
        if not count % 50:
            print("Iteration: {}, Loss: {:.4f}".format(count, loss.item()))
        if DEBUG and count > 5:
            break
    gc.collect()

model.eval()
total, correct = 0, 0
with torch.no_grad():
    for images, labels in test_loader:
        predictions = torch.max(model(images), 1)[1]
        correct += (predictions == labels).sum().item()
        total += 1
accuracy = correct * 100 / total
print("Accuracy: {:.2f} %".format(accuracy))
