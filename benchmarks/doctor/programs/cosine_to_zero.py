import os
import numpy as np
import torch
from torch import nn

torch.manual_seed(0)
d = np.load(os.environ["DOCTOR_DATA"])
x, y = torch.tensor(d["x_train"]).float()[:, None] / 255, torch.tensor(d["y_train"]).long()
net = nn.Sequential(nn.Conv2d(1, 16, 3, 2, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, bias=False),
                    nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(128, 10))
batches_per_epoch, epochs = 63, 4
opt = torch.optim.SGD(net.parameters(), lr=0.03, momentum=0.9, nesterov=True)
sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, batches_per_epoch * epochs, eta_min=0.0)
for epoch in range(epochs):
    net.train()
    for idx in torch.randperm(len(x)).split(64):
        opt.zero_grad()
        loss = nn.functional.cross_entropy(net(x[idx]), y[idx])
        loss.backward()
        opt.step()
        sched.step()
    print(f"{epoch} loss={loss.item():.3f} lr={opt.param_groups[0]['lr']:.6f}")
net.eval()
with torch.no_grad():
    p = net(torch.tensor(d["x_test"]).float()[:, None] / 255).argmax(1).numpy()
print("accuracy", (p == d["y_test"]).mean())
