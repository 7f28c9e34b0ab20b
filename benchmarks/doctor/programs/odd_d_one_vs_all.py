import os
import numpy as np
import torch
import torch.nn as nn

# Ten little support vector machines on top of a convnet: squared hinge, one class against all others.
rs = torch.Generator()
rs.manual_seed(3)
torch.manual_seed(3)

f = np.load(os.environ["DOCTOR_DATA"])
mean_image = f["x_train"].mean(0)
A = torch.tensor((f["x_train"] - mean_image) / 80.0, dtype=torch.float32).unsqueeze(1)
B = torch.tensor((f["x_test"] - mean_image) / 80.0, dtype=torch.float32).unsqueeze(1)
a, b = (torch.tensor(f[k], dtype=torch.long) for k in ("y_train", "y_test"))


class SVMNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1 = nn.Conv2d(1, 16, 5, padding=2)
        self.c2 = nn.Conv2d(16, 32, 3, padding=1)
        self.hidden = nn.Linear(32 * 49, 80)
        self.svm = nn.Linear(80, 10)

    def forward(self, x):
        x = torch.max_pool2d(torch.relu(self.c1(x)), 2)
        x = torch.max_pool2d(torch.relu(self.c2(x)), 2)
        return self.svm(torch.tanh(self.hidden(x.flatten(1))))


def hinge(scores, y, margin=1.0):
    sign = -torch.ones_like(scores)
    sign[torch.arange(len(y)), y] = 1.0
    return (margin - sign * scores).clamp(min=0).pow(2).sum(1).mean()


net = SVMNet()
groups = [
    {"params": net.svm.parameters(), "weight_decay": 1e-3},
    {"params": [p for n, p in net.named_parameters() if not n.startswith("svm")]},
]
opt = torch.optim.Adam(groups, lr=1e-3)
shrink = torch.optim.lr_scheduler.StepLR(opt, 5, 0.3)

for epoch in range(10):
    net.train()
    value = 0.0
    for i in torch.randperm(len(A), generator=rs).chunk(80):
        opt.zero_grad()
        h = hinge(net(A[i]), a[i])
        h.backward()
        opt.step()
        value += h.item() / 80
    shrink.step()
    print("epoch %d: hinge %.3f" % (epoch + 1, value))

net.eval()
with torch.no_grad():
    # scores are no probabilities, but the largest wins all the same
    wins = net(B).argmax(1).eq(b).double().mean()
print("percent right = %.2f%%" % (100 * wins))
