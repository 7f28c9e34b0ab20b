import os
import torch
import numpy as np
from torch import nn
from torch.utils.data import TensorDataset, DataLoader


class CentreLoss(nn.Module):
    """Wen et al. 2016: pull the features of a class towards its centre; the centres are learnt too."""

    def __init__(self, n_classes, n_features):
        super().__init__()
        self.centres = nn.Parameter(torch.randn(n_classes, n_features))

    def forward(self, features, y):
        return (features - self.centres[y]).pow(2).sum(1).mean() / 2


class FeatureNet(nn.Module):
    def __init__(self, n_features=16):
        super().__init__()
        def double(i, o):
            return [nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.PReLU(), nn.MaxPool2d(2)]
        self.trunk = nn.Sequential(*double(1, 12), *double(12, 24), *double(24, 32))
        self.embed = nn.Linear(32 * 9, n_features)
        self.head = nn.Linear(n_features, 10, bias=False)

    def forward(self, x):
        e = self.embed(self.trunk(x).flatten(1))
        return e, self.head(torch.relu(e))


def get(split, **kw):
    z = np.load(os.environ["DOCTOR_DATA"])
    x = torch.as_tensor(z["x_" + split]).unsqueeze(1).float().sub_(73).div_(90)
    return DataLoader(TensorDataset(x, torch.as_tensor(z["y_" + split]).long()), **kw)


def go(weight=0.02, epochs=8):
    torch.manual_seed(555)
    loader, held_out = get("train", batch_size=64, shuffle=True), get("test", batch_size=500)
    net, centre, ce = FeatureNet(), CentreLoss(10, 16), nn.CrossEntropyLoss()
    opt_net = torch.optim.Adam(net.parameters(), lr=1.5e-3)
    opt_centre = torch.optim.SGD(centre.parameters(), lr=0.5)
    for epoch in range(epochs):
        net.train()
        if epoch == epochs - 2:
            opt_net.param_groups[0]["lr"] /= 5
        stats = np.zeros(2)
        for x, y in loader:
            e, out = net(x)
            l1, l2 = ce(out, y), centre(e, y)
            opt_net.zero_grad()
            opt_centre.zero_grad()
            (l1 + weight * l2).backward()
            for p in centre.parameters():
                p.grad /= weight  # the centres do not care for the weight
            opt_net.step()
            opt_centre.step()
            stats += [l1.item(), l2.item()]
        print(epoch, "cross-entropy %.3f, distance to centre %.3f" % tuple(stats / len(loader)))
    net.eval()
    with torch.no_grad():
        right = sum((net(x)[1].argmax(1) == y).sum().item() for x, y in held_out)
    return right / len(held_out.dataset)


print("accuracy after training: %.4f" % go())
