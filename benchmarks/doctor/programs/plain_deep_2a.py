"""
Homework 3, question 4: a deep plain network WITHOUT batch normalisation.
"""
import numpy, torch, os
import torch.nn.functional as F
from torch.nn import Conv2d, Linear, Module, ModuleList
from torch.utils.data import TensorDataset, DataLoader

hyper = {
    "seed": 12, "depth": 14, "width": 12, "pool_after": (0, 4, 8),
    "lr": 0.02, "momentum": 0.9, "epochs": 10, "batch": 64,
}


class Deep(Module):
    def __init__(self, depth, width, pool_after):
        super().__init__()
        self.convs = ModuleList()
        c = 1
        for i in range(depth):
            w = width if i < depth // 2 else 2 * width
            self.convs.append(Conv2d(c, w, kernel_size=3, padding=1))
            c = w
        self.pool_after = pool_after
        self.last = Linear(c * 9, 10)

    def forward(self, x):
        for i, conv in enumerate(self.convs):
            x = F.relu(conv(x))
            if i in self.pool_after:
                x = F.max_pool2d(x, 2)
        x = x.reshape(x.size(0), -1)
        return self.last(x)


def make_loader(split, train):
    blob = numpy.load(os.environ["DOCTOR_DATA"])
    x = torch.tensor(blob["x_" + split], dtype=torch.float).div_(255.).unsqueeze_(1)
    x = (x - 0.2860) / 0.3530
    y = torch.tensor(blob["y_" + split], dtype=torch.int64)
    return DataLoader(TensorDataset(x, y), batch_size=hyper["batch"] if train else 500, shuffle=train)


def test(net, loader):
    net.eval()
    n_right = 0
    with torch.no_grad():
        for x, y in loader:
            n_right += net(x).argmax(dim=1).eq(y).sum().item()
    return n_right / len(loader.dataset)


def train(net, loader, hyper):
    optim = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=hyper["lr"], momentum=hyper["momentum"])
    sched = torch.optim.lr_scheduler.CosineAnnealingLR(optim, hyper["epochs"] * len(loader), eta_min=1e-4)
    history = []
    for epoch in range(hyper["epochs"]):
        net.train()
        for step, (x, y) in enumerate(loader):
            loss = F.cross_entropy(net(x), y)
            optim.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 2.0)
            optim.step()
            sched.step()
            history.append(loss.item())
            if step % 20 == 19:
                print("epoch %d step %3d   loss %.4f" % (epoch, step + 1, sum(history[-20:]) / 20))
    return history


torch.manual_seed(hyper["seed"])
numpy.random.seed(hyper["seed"])
train_loader = make_loader("train", True)
test_loader = make_loader("test", False)
net = Deep(hyper["depth"], hyper["width"], hyper["pool_after"])
print("parameters:", sum(p.numel() for p in net.parameters()))
history = train(net, train_loader, hyper)
print("Q4 answer: accuracy = %.4f" % test(net, test_loader))
