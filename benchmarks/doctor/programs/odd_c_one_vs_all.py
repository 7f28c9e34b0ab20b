# ten yes/no detectors in one network (one-vs-all): sigmoid outputs, BCE against indicator targets
import os
import numpy as np
import torch
from torch import nn

torch.manual_seed(77)
torch.set_num_threads(1)
K, PRIOR = 10, 0.1


def build():
    net = nn.Sequential(
        nn.Conv2d(1, 20, 3, padding=1, stride=2), nn.PReLU(20),
        nn.Conv2d(20, 40, 3, padding=1), nn.PReLU(40), nn.MaxPool2d(2),
        nn.Conv2d(40, 60, 3, padding=1), nn.PReLU(60), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(60 * 9, K))
    # each detector starts out saying "no" with the share of its class
    nn.init.constant_(net[-1].bias, float(np.log(PRIOR / (1 - PRIOR))))
    return net


def indicator(y):
    return torch.zeros(len(y), K).scatter_(1, y[:, None], 1.0)


def fetch():
    a = np.load(os.environ["DOCTOR_DATA"])
    px = lambda v: torch.from_numpy(v).float().unsqueeze(1).mul(1 / 255).sub(0.5).mul(2)
    return px(a["x_train"]), torch.from_numpy(a["y_train"]).long(), px(a["x_test"]), torch.from_numpy(a["y_test"]).long()


def sweep(net, x, y, opt, bce, bs=40):
    net.train()
    order, acc_loss = torch.randperm(len(x)), 0.0
    for i in order.split(bs):
        # summed over the detectors, averaged over the batch
        loss = bce(net(x[i]), indicator(y[i])).sum(dim=1).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        acc_loss += loss.item() * len(i)
    return acc_loss / len(x)


x, y, xt, yt = fetch()
net = build()
opt = torch.optim.Adam(net.parameters(), lr=1.5e-3)
decay = torch.optim.lr_scheduler.StepLR(opt, 5, 0.3)
bce = nn.BCEWithLogitsLoss(reduction="none")
for r in range(12):
    l = sweep(net, x, y, opt, bce)
    decay.step()
    print("round", r, "loss per picture", round(l, 4))

net.eval()
with torch.no_grad():
    scores = torch.cat([torch.sigmoid(net(c)) for c in xt.split(100)])
yes = (scores > 0.5) == indicator(yt).bool()
print("share of right yes/no answers:", round(yes.float().mean().item(), 4))
print("one-vs-all accuracy:", (scores.argmax(1) == yt).float().mean().item())
