import os
from functools import partial
import numpy as np
import torch
from torch import nn

# everything here is a function that returns a function


def reader(path, scale=255.0):
    npz = np.load(path)

    def get(part):
        x = torch.from_numpy(npz[f"x_{part}"].astype(np.float32)).unsqueeze(1) / scale
        y = torch.from_numpy(npz[f"y_{part}"]).to(torch.int64)
        return x * 2 - 1, y

    return get


def streamer(x, y, size, shuffle=True):
    def stream():
        order = torch.randperm(len(y)) if shuffle else torch.arange(len(y))
        for start in range(0, len(y), size):
            at = order[start:start + size]
            yield x[at], y[at]

    return stream


def soft_targets(n, eps):
    def make(y):
        t = torch.full((len(y), n), eps / n)
        t[torch.arange(len(y)), y] += 1 - eps
        return t

    return make


def divergence(targets):
    """Kullback-Leibler divergence of the prediction from the targets"""

    def loss(scores, y):
        t = targets(y)
        log_q = scores - scores.logsumexp(1, keepdim=True)
        return (t * (t.log() - log_q)).sum(1).mean()

    return loss


def net(widths, n):
    gn = partial(nn.GroupNorm, 4)
    parts, last = [], 1
    for w in widths:
        parts += [nn.Conv2d(last, w, 3, padding=1), gn(w), nn.SiLU(), nn.AvgPool2d(2)]
        last = w
    return nn.Sequential(*parts, nn.Flatten(), nn.LazyLinear(64), nn.SiLU(), nn.Linear(64, n))


def stepper(model, loss_fn, opt):
    def step(x, y):
        loss = loss_fn(model(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    return step


def judge(model, stream):
    def rate():
        was = model.training
        model.eval()
        with torch.no_grad():
            marks = torch.cat([model(x).argmax(1) == y for x, y in stream()])
        model.train(was)
        return marks.float().mean().item()

    return rate


def cooled(opt, start, epochs):
    def set_rate(e):
        for group in opt.param_groups:
            group["lr"] = start * (1 - e / epochs) ** 0.9

    return set_rate


def experiment(seed=0, epochs=9, size=64, rate=2e-3, eps=0.1):
    torch.manual_seed(seed)
    get = reader(os.environ["DOCTOR_DATA"])
    x, y = get("train")
    n = 10
    model = net((12, 24, 48), n)
    model(x[:2])  # sizes of the lazy layer
    opt = torch.optim.AdamW(model.parameters(), lr=rate)
    loss_fn = divergence(soft_targets(n, eps))
    step = stepper(model, loss_fn, opt)
    train_stream = streamer(x, y, size)
    test_rate = judge(model, streamer(*get("test"), 500, shuffle=False))
    cool = cooled(opt, rate, epochs)
    for e in range(epochs):
        cool(e)
        seen = [step(*batch) for batch in train_stream()]
        print(f"{e}: {sum(seen) / len(seen):.4f}")
    return test_rate()


if __name__ == "__main__":
    print("outcome:", f"{experiment(seed=8):.4f}")
