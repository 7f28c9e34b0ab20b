"""AlexNet's recipe on small images: two fully connected layers with dropout .5, log-probabilities by hand,
Polyak average of the last epochs' weights, test in the middle of an epoch."""
import os
import numpy as np
import torch
from torch import nn

torch.manual_seed(27)
rng = np.random.default_rng(27)
Z = np.load(os.environ["DOCTOR_DATA"])


class SmallAlex(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 5, stride=2, padding=2), nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1),
        )
        self.fc = nn.Sequential(
            nn.Dropout(0.5), nn.Linear(32 * 9, 256), nn.ReLU(),
            nn.Dropout(0.5), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10),
        )

    def forward(self, x):
        s = self.fc(self.features(x).flatten(1))
        s = s - s.max(1, keepdim=True).values
        return s - s.exp().sum(1, keepdim=True).log()


def tensor(name):
    return torch.from_numpy(Z[name].astype("float32") / 255 - 0.28).unsqueeze(1)


X, XT = tensor("x_train"), tensor("x_test")
Y, YT = torch.from_numpy(Z["y_train"]).long(), torch.from_numpy(Z["y_test"]).long()


def test(net):
    net.eval()
    with torch.no_grad():
        acc = (net(XT).argmax(1) == YT).float().mean().item()
    net.train()
    return acc


net = SmallAlex()
mean = {k: torch.zeros_like(v) for k, v in net.state_dict().items()}
count = 0
opt = torch.optim.Adam(net.parameters(), lr=1e-3)
print("before training: %.3f" % test(net))
EPOCHS, AVERAGE_FROM = 16, 12
step = 0
for epoch in range(EPOCHS):
    for rows in np.array_split(rng.permutation(len(X)), 80):
        rows = torch.from_numpy(rows)
        log_p = net(X[rows])
        nll = -log_p[torch.arange(len(rows)), Y[rows]].mean()
        opt.zero_grad()
        nll.backward()
        opt.step()
        step += 1
        if step % 160 == 0:
            print("step %d nll %.3f (dropout on), test %.3f" % (step, nll.item(), test(net)))
        if epoch >= AVERAGE_FROM:
            count += 1
            for k, v in net.state_dict().items():
                mean[k] += (v - mean[k]) / count
print("last weights: %.4f" % test(net))
final = SmallAlex()
final.load_state_dict(mean)
print("averaged weights: %.4f" % test(final))
