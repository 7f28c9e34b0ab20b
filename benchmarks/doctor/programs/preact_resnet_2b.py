# pre-activation resnet written without nn.Module: a dictionary of tensors and a function
import os
from collections import OrderedDict

import numpy as np
import torch
import torch.nn.functional as F

opt = dict(width=1, n=1, lr=0.05, momentum=0.9, wd=5e-4, epochs=7, bs=64, seed=3, decay_at=(4, 6))

torch.set_num_threads(1)
torch.manual_seed(opt["seed"])


def conv_w(ni, no, k):
    return torch.full((no, ni, k, k), (2.0 / (ni * k * k)) ** 0.5)


def bn_p(n):
    return {"g": torch.ones(n), "b": torch.zeros(n)}


def bn_s(n):
    return {"m": torch.zeros(n), "v": torch.ones(n)}


def block_p(ni, no):
    return {"bn0": bn_p(ni), "c0": conv_w(ni, no, 3), "bn1": bn_p(no), "c1": conv_w(no, no, 3),
            **({"sc": conv_w(ni, no, 1)} if ni != no else {})}


def block_s(ni, no):
    return {"bn0": bn_s(ni), "bn1": bn_s(no)}


def flat(tree, pre=""):
    out = OrderedDict()
    for k, v in tree.items():
        if isinstance(v, dict):
            out.update(flat(v, f"{pre}{k}."))
        else:
            out[pre + k] = v
    return out


def define(width, n, classes):
    w = [16 * width, 32 * width, 64 * width]
    ins = [16 * width] + w[:-1]
    params = {"stem": conv_w(1, 16 * width, 3), "bn": bn_p(w[-1]),
              "fc": {"w": torch.zeros(classes, w[-1]), "b": torch.zeros(classes)}}
    stats = {"bn": bn_s(w[-1])}
    for g in range(3):
        for i in range(n):
            ni = ins[g] if i == 0 else w[g]
            params[f"g{g}b{i}"] = block_p(ni, w[g])
            stats[f"g{g}b{i}"] = block_s(ni, w[g])
    params, stats = flat(params), flat(stats)
    for p in params.values():
        p.requires_grad_(True)

    def bn(x, key, training):
        return F.batch_norm(x, stats[key + ".m"], stats[key + ".v"], params[key + ".g"], params[key + ".b"], training)

    def block(x, key, stride, training):
        a = F.relu(bn(x, key + ".bn0", training))
        y = F.conv2d(a, params[key + ".c0"], stride=stride, padding=1)
        y = F.conv2d(F.relu(bn(y, key + ".bn1", training)), params[key + ".c1"], padding=1)
        return y + (F.conv2d(a, params[key + ".sc"], stride=stride) if key + ".sc" in params else x)

    def f(x, training):
        x = F.conv2d(x, params["stem"], stride=2, padding=1)
        for g in range(3):
            for i in range(n):
                x = block(x, f"g{g}b{i}", 2 if g > 0 and i == 0 else 1, training)
        x = F.relu(bn(x, "bn", training)).mean((2, 3))
        return F.linear(x, params["fc.w"], params["fc.b"])

    return f, params


def get(split, files):
    x, y = files["x_" + split].copy(), files["y_" + split].copy()
    if split == "train":
        np.random.seed(opt["seed"])
        np.random.shuffle(x)
        np.random.seed(opt["seed"])
        np.random.shuffle(y)
    x = (torch.from_numpy(x).float() - 73.0) / 90.0
    return x.view(-1, 1, 28, 28), torch.from_numpy(y).long()


def accuracy(f, x, y):
    with torch.no_grad():
        return sum((f(a, False).argmax(1) == b).sum().item() for a, b in zip(x.split(200), y.split(200))) / len(y)


files = np.load(os.environ["DOCTOR_DATA"])
X, Y = get("train", files)
f, params = define(opt["width"], opt["n"], 10)
decayed = [p for k, p in params.items() if p.dim() > 1]
sgd = torch.optim.SGD(params.values(), lr=opt["lr"], momentum=opt["momentum"])

for epoch in range(opt["epochs"]):
    if epoch in opt["decay_at"]:
        for group in sgd.param_groups:
            group["lr"] *= 0.2
    perm, log = torch.randperm(len(Y)), []
    for idx in perm.split(opt["bs"]):
        out = f(X[idx], True)
        ce = F.cross_entropy(out, Y[idx])
        l2 = sum(p.pow(2).sum() for p in decayed)
        loss = ce + 0.5 * opt["wd"] * l2
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        log.append(loss.item())
    print({"epoch": epoch, "train_loss": round(float(np.mean(log)), 4), "lr": sgd.param_groups[0]["lr"]})

print("test_acc", accuracy(f, *get("test", files)))
