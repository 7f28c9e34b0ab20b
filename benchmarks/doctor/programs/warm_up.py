import os
import numpy as np
import torch
from torch import nn
from torch.utils.data import TensorDataset, DataLoader

torch.manual_seed(2)
z = np.load(os.environ["DOCTOR_DATA"])
to = lambda a: torch.tensor(a).float().unsqueeze(1).div(127.5).sub(1)
train = DataLoader(TensorDataset(to(z["x_train"]), torch.tensor(z["y_train"]).long()), 50, shuffle=True)
test = DataLoader(TensorDataset(to(z["x_test"]), torch.tensor(z["y_test"]).long()), 500)

model = nn.Sequential(
    nn.Conv2d(1, 16, 4, stride=4), nn.BatchNorm2d(16), nn.GELU(),
    nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.BatchNorm2d(16), nn.GELU(),
    nn.Conv2d(16, 48, 1), nn.BatchNorm2d(48), nn.GELU(),
    nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(432, 10))

EPOCHS, PEAK, WARM = 5, 0.005, 120
total = EPOCHS * len(train)
optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK, weight_decay=0.05)
schedule = torch.optim.lr_scheduler.LambdaLR(
    optimizer, lambda s: (s + 1) / WARM if s < WARM else max(0.0, (total - s) / (total - WARM)))

for epoch in range(EPOCHS):
    model.train()
    for x, y in train:
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    print(f"epoch {epoch} loss {loss.item():.3f} lr {schedule.get_last_lr()[0]:.5f}")
model.eval()
with torch.no_grad():
    print("accuracy:", sum((model(x).argmax(1) == y).sum().item() for x, y in test) / len(test.dataset))
