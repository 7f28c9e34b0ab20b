import argparse
import os

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

# Progressive resizing: the first epochs see 14x14 thumbnails in big batches, later ones 20x20, the last the whole 28x28.
# Global pooling lets the one net take them all. A new loader and a lower rate for every stage, one optimiser throughout.

parser = argparse.ArgumentParser()
parser.add_argument("--stages", default="14:4:0.003:50,20:4:0.002:50,28:6:0.001:50", help="size:epochs:rate:batch")
parser.add_argument("--seed", type=int, default=808)
args = parser.parse_args()
torch.manual_seed(args.seed)

blob = np.load(os.environ["DOCTOR_DATA"])


def dataset(split, size):
    x = torch.as_tensor(blob[f"x_{split}"], dtype=torch.float32)[:, None] / 255
    if size != x.shape[-1]:
        x = F.interpolate(x, size=(size, size), mode="bilinear", antialias=True)
    return TensorDataset(x.sub(0.28).div(0.35), torch.as_tensor(blob[f"y_{split}"], dtype=torch.long))


class AnySize(nn.Module):
    def __init__(self, widths=(16, 32, 64)):
        super().__init__()
        self.convs = nn.ModuleList()
        self.norms = nn.ModuleList()
        for i, o in zip((1, *widths), widths):
            self.convs.append(nn.Conv2d(i, o, 3, padding=1, bias=False))
            self.norms.append(nn.BatchNorm2d(o))
        self.out = nn.Linear(2 * widths[-1], 10)

    def forward(self, x):
        for k, (conv, norm) in enumerate(zip(self.convs, self.norms)):
            x = F.relu(norm(conv(x)))
            if k < 2:
                x = F.max_pool2d(x, 2)
        return self.out(torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1))


model = AnySize()
optimizer = torch.optim.Adam(model.parameters())
for stage in args.stages.split(","):
    size, epochs, rate, batch = (float(s) for s in stage.split(":"))
    loader = DataLoader(dataset("train", int(size)), batch_size=int(batch), shuffle=True)
    for group in optimizer.param_groups:
        group["lr"] = rate
    for epoch in range(int(epochs)):
        model.train()
        losses = []
        for x, y in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        print(f"{int(size)}px epoch {epoch}: {np.mean(losses):.4f}")

model.eval()
right = 0
with torch.inference_mode():
    for x, y in DataLoader(dataset("test", 28), batch_size=500):
        right += (model(x).argmax(1) == y).sum().item()
print(f"full size accuracy {right / len(blob['y_test']):.4f}")
