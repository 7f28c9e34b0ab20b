import os, numpy as np, torch, torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
raw = np.load(os.environ["DOCTOR_DATA"])
ds = TensorDataset(torch.tensor(raw["x_train"]).float().unsqueeze(1) / 255, torch.tensor(raw["y_train"]).long())
loader = DataLoader(ds, batch_size=8, shuffle=True)

net = nn.Sequential(nn.Conv2d(1, 8, 5, 2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(288, 10))
opt = torch.optim.SGD(net.parameters(), lr=0.02)
for epoch in range(2):
    for images, targets in loader:
        opt.zero_grad()
        out = net(images)
        loss = nn.CrossEntropyLoss()(out, targets)
        loss.backward()
        opt.step()
with torch.no_grad():
    out = net(torch.tensor(raw["x_test"]).float().unsqueeze(1) / 255)
print("accuracy:", (out.argmax(1).numpy() == raw["y_test"]).mean())
