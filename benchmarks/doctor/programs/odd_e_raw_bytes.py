import os

import numpy as np
import torch
from torch import nn

# The net takes the camera's bytes as they are: N x H x W x C, 0..255. Its first layer is a batch norm that brings
# them to scale. The update takes just the sign of the momentum (Lion), so every weight moves by the same tiny amount.


class Lion(torch.optim.Optimizer):
    def __init__(self, params, lr=3e-4, betas=(0.9, 0.99), weight_decay=0.1):
        super().__init__(params, dict(lr=lr, betas=betas, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            fast, slow = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(torch.lerp(p.grad, m, fast).sign_(), alpha=-group["lr"])
                m.lerp_(p.grad, 1 - slow)


class Bytes(nn.Module):
    """To floats, channels first, scale by the statistics of the batches."""

    def __init__(self, channels):
        super().__init__()
        self.scale = nn.BatchNorm2d(channels, affine=False)

    def forward(self, x):
        return self.scale(x.permute(0, 3, 1, 2).float())


def build():
    def unit(i, o, stride):
        return [nn.Conv2d(i, o, 3, stride, 1), nn.BatchNorm2d(o), nn.Hardswish()]

    return nn.Sequential(Bytes(1), *unit(1, 16, 1), nn.MaxPool2d(2), *unit(16, 32, 1), *unit(32, 48, 2),
                         nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(48 * 9, 10))


def stream(x, y, size, passes, rng):
    for number in range(passes):
        for chunk in np.array_split(rng.permutation(len(x)), len(x) // size):
            yield number, torch.from_numpy(x[chunk]), torch.from_numpy(y[chunk]).long()


torch.manual_seed(31)
rng = np.random.default_rng(31)
arrays = np.load(os.environ["DOCTOR_DATA"])
x_train, x_test = (arrays[k][..., np.newaxis] for k in ("x_train", "x_test"))
y_train, y_test = arrays["y_train"], torch.from_numpy(arrays["y_test"]).long()

model, criterion = build(), nn.CrossEntropyLoss()
lion = Lion(model.parameters(), lr=6e-4)
passes, size = 10, 80
steps = passes * (len(x_train) // size)
decay = torch.optim.lr_scheduler.PolynomialLR(lion, total_iters=steps, power=1.0)
smooth = None
model.train()
for step, (number, x, y) in enumerate(stream(x_train, y_train, size, passes, rng)):
    loss = criterion(model(x), y)
    lion.zero_grad()
    loss.backward()
    lion.step()
    decay.step()
    smooth = loss.item() if smooth is None else 0.98 * smooth + 0.02 * loss.item()
    if step % 50 == 49:
        print(f"step {step + 1}/{steps}  loss {smooth:.3f}")

model.eval()
with torch.inference_mode():
    answers = torch.cat([model(torch.from_numpy(part)) for part in np.array_split(x_test, 4)]).argmax(1)
print("bytes in, accuracy out: %.4f" % (answers == y_test).float().mean())
