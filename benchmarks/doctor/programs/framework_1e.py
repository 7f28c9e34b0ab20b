"""nanotrainer -- a tiny training framework in one file (registry, callbacks, config)."""
import os
import copy
import json
import numpy as np
import torch
import torch.nn as nn

CONFIG = {
    "seed": 61,
    "model": {"type": "ConvNet", "channels": [16, 32, 32], "num_classes": 10},
    "loss": {"type": "CE"},
    "optimizer": {"type": "SGD", "lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4},
    "data": {"batch_size": 64, "workers": 0},
    "runtime": {"max_epochs": 8, "accumulate": 1, "ema": 0.98, "log_every": 20},
}


class Registry(dict):
    def register(self, cls):
        self[cls.__name__] = cls
        return cls

    def build(self, cfg, *args):
        kw = dict(cfg)
        return self[kw.pop("type")](*args, **kw)


MODELS, LOSSES, OPTIMIZERS = Registry(), Registry(), Registry()
OPTIMIZERS.update(SGD=torch.optim.SGD, Adam=torch.optim.Adam)


@MODELS.register
class ConvNet(nn.Module):
    def __init__(self, channels, num_classes):
        super().__init__()
        blocks, prev = [], 1
        for ch in channels:
            blocks.append(nn.Sequential(
                nn.Conv2d(prev, ch, 3, padding=1), nn.BatchNorm2d(ch), nn.ReLU(), nn.MaxPool2d(2)))
            prev = ch
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(prev * 9, num_classes)

    def forward(self, x):
        return self.head(self.blocks(x).flatten(1))


@LOSSES.register
class CE(nn.Module):
    def forward(self, out, target):
        return nn.functional.cross_entropy(out, target)


class Callback:
    def before_fit(self, t): pass
    def after_step(self, t): pass
    def after_epoch(self, t): pass
    def after_fit(self, t): pass


class Logger(Callback):
    def after_step(self, t):
        if t.n_iter % t.cfg["runtime"]["log_every"] == 0:
            print(json.dumps({"iter": t.n_iter, "loss": round(t.loss.item(), 4)}))


class LinearDecay(Callback):
    def before_fit(self, t):
        self.base = t.optimizer.param_groups[0]["lr"]
        self.total = t.cfg["runtime"]["max_epochs"] * len(t.batches())

    def after_step(self, t):
        t.optimizer.param_groups[0]["lr"] = self.base * max(0.02, 1 - t.n_iter / self.total)


class Averaging(Callback):
    """keeps a smoothed copy of the net, which is what gets evaluated"""

    def before_fit(self, t):
        self.net = copy.deepcopy(t.model)
        self.decay = t.cfg["runtime"]["ema"]

    @torch.no_grad()
    def after_step(self, t):
        for slow, fast in zip(self.net.parameters(), t.model.parameters()):
            slow.lerp_(fast, 1 - self.decay)

    def after_epoch(self, t):
        t.eval_model = self.net


class Trainer:
    def __init__(self, cfg, callbacks):
        self.cfg, self.callbacks = cfg, callbacks
        torch.manual_seed(cfg["seed"])
        raw = np.load(os.environ["DOCTOR_DATA"])
        f = lambda k: torch.from_numpy(raw[k])
        self.x, self.y = self.prepare(f("x_train")), f("y_train").long()
        self.xt, self.yt = self.prepare(f("x_test")), f("y_test").long()
        self.model = MODELS.build(cfg["model"])
        self.loss_fn = LOSSES.build(cfg["loss"])
        self.optimizer = OPTIMIZERS.build(cfg["optimizer"], self.model.parameters())
        self.eval_model, self.n_iter, self.epoch = self.model, 0, 0

    @staticmethod
    def prepare(x):
        return (x.float().unsqueeze(1) / 255 - 0.5) * 2

    def fire(self, hook):
        for cb in self.callbacks:
            getattr(cb, hook)(self)

    def batches(self):
        return torch.randperm(len(self.x)).split(self.cfg["data"]["batch_size"])

    def fit(self):
        self.fire("before_fit")
        rt = self.cfg["runtime"]
        for self.epoch in range(rt["max_epochs"]):
            self.model.train()
            for i, idx in enumerate(self.batches()):
                self.loss = self.loss_fn(self.model(self.x[idx]), self.y[idx])
                (self.loss / rt["accumulate"]).backward()
                if (i + 1) % rt["accumulate"] == 0:
                    self.optimizer.step()
                    self.optimizer.zero_grad()
                self.n_iter += 1
                self.fire("after_step")
            self.fire("after_epoch")
            print(json.dumps({"epoch": self.epoch, "test_acc": round(self.evaluate(), 4)}))
        self.fire("after_fit")

    @torch.no_grad()
    def evaluate(self):
        m = self.eval_model.eval()
        hit = sum((m(a).argmax(1) == b).sum().item() for a, b in zip(self.xt.split(200), self.yt.split(200)))
        return hit / len(self.yt)


if __name__ == "__main__":
    trainer = Trainer(CONFIG, [LinearDecay(), Averaging(), Logger()])
    trainer.fit()
    print(json.dumps({"final_test_acc": round(trainer.evaluate(), 4)}))
