import os
import numpy as np
import torch
import torch.nn as nn

# keep only the brightest pixels: line drawings of sorts
torch.manual_seed(9)
f = np.load(os.environ["DOCTOR_DATA"])


def drawings(images):
    t = torch.tensor(images, dtype=torch.float32) / 255
    return torch.where(t > 0.8, torch.ones_like(t), torch.zeros_like(t)).unsqueeze(1)


train_x, test_x = drawings(f["x_train"]), drawings(f["x_test"])
train_y, test_y = torch.tensor(f["y_train"]).long(), torch.tensor(f["y_test"]).long()
print("share of ones:", round(train_x.mean().item(), 3))

cnn = nn.Sequential(nn.Conv2d(1, 12, 5, stride=2), nn.ReLU(), nn.Conv2d(12, 24, 3, stride=2), nn.ReLU(),
                    nn.Flatten(), nn.Linear(24 * 5 * 5, 64), nn.ReLU(), nn.Linear(64, 10))
opt = torch.optim.Adam(cnn.parameters(), lr=2e-3)
for epoch in range(5):
    for i in torch.randperm(len(train_x)).split(80):
        opt.zero_grad()
        loss = nn.functional.cross_entropy(cnn(train_x[i]), train_y[i])
        loss.backward()
        opt.step()
    print(epoch, loss.item())
cnn.eval()
with torch.no_grad():
    print("Accuracy =", (cnn(test_x).argmax(1) == test_y).float().mean().item())
