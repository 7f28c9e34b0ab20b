import os
import numpy as np
import torch
from torch import nn

# SGD for the convolutions, Adam for the classifier
torch.manual_seed(0)
blob = np.load(os.environ["DOCTOR_DATA"])


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(1, 8, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 5), nn.ReLU(),
                                      nn.MaxPool2d(2), nn.Flatten())
        self.classifier = nn.Sequential(nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, x):
        return self.classifier(self.backbone(x))


net = Net()
opt_body = torch.optim.SGD(net.backbone.parameters(), lr=0.02, momentum=0.9)
opt_head = torch.optim.Adam(net.classifier.parameters(), lr=2e-3)
images = torch.tensor(blob["x_train"]).float().view(-1, 1, 28, 28) / 255
labels = torch.tensor(blob["y_train"]).long()
for epoch in range(5):
    order = torch.randperm(len(images))
    for k in range(0, len(images), 64):
        idx = order[k:k + 64]
        loss = nn.functional.cross_entropy(net(images[idx]), labels[idx])
        opt_body.zero_grad()
        opt_head.zero_grad()
        loss.backward()
        opt_body.step()
        opt_head.step()
    print("epoch", epoch, "loss", loss.item())
with torch.no_grad():
    guess = net(torch.tensor(blob["x_test"]).float().view(-1, 1, 28, 28) / 255).argmax(1)
print("accuracy", (guess == torch.tensor(blob["y_test"])).float().mean().item())
