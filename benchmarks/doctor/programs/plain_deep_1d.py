import os, sys, math, copy
import numpy as np
import torch as th
import torch.nn as nn

# ---------------------------------------------------------------- settings
SEED = 2023
N_EPOCH = 8
BATCH = 80
BASE_LR = 1e-3
WD = 1e-2
BN_MOMENTUM = 0.0
PATIENCE = 4


# ---------------------------------------------------------------- data
def read():
    z = np.load(os.environ['DOCTOR_DATA'])
    X, y = z['x_train'].astype(np.float32) / 255, z['y_train'].astype(np.int64)
    Xt, yt = z['x_test'].astype(np.float32) / 255, z['y_test'].astype(np.int64)
    # hold out the last 500 for early stopping
    Xv, yv, X, y = X[-500:], y[-500:], X[:-500], y[:-500]
    # twice as much data: every image and its mirror image
    X = np.concatenate([X, X[:, :, ::-1]])
    y = np.concatenate([y, y])
    m, s = X.mean(), X.std()
    pack = lambda a: th.from_numpy(np.ascontiguousarray((a - m) / s)).unsqueeze(1)
    return (pack(X), th.from_numpy(y)), (pack(Xv), th.from_numpy(yv)), (pack(Xt), th.from_numpy(yt))


# ---------------------------------------------------------------- model
class VGG12(nn.Module):
    """twelve 3x3 convolutions in a row, no skips"""

    def __init__(self, plan=(8, 8, 'M', 16, 16, 16, 'M', 24, 24, 24, 'M', 32, 32, 32, 32), num_classes=10):
        super(VGG12, self).__init__()
        c, seq = 1, []
        for item in plan:
            if item == 'M':
                seq.append(nn.MaxPool2d(2, 2))
                continue
            seq.append(nn.Conv2d(c, item, 3, 1, 1, bias=False))
            seq.append(nn.BatchNorm2d(item, momentum=BN_MOMENTUM))
            seq.append(nn.ReLU(True))
            c = item
        self.features = nn.Sequential(*seq)
        self.classifier = nn.Linear(c, num_classes)

    def forward(self, x):
        x = self.features(x)
        x = th.mean(x, [2, 3])
        return self.classifier(x)


# ---------------------------------------------------------------- training
class Trainer:
    def __init__(self, model, train, valid):
        self.model, self.train_set, self.valid_set = model, train, valid
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = th.optim.AdamW(model.parameters(), lr=BASE_LR, weight_decay=WD)
        self.scheduler = th.optim.lr_scheduler.StepLR(self.optimizer, step_size=3, gamma=0.4)
        self.best, self.best_state, self.bad = -1, None, 0

    def train_epoch(self):
        self.model.train()
        X, y = self.train_set
        perm = th.randperm(len(X))
        loss_sum = 0.
        for k in range(0, len(X) - BATCH + 1, BATCH):
            ids = perm[k:k + BATCH]
            self.optimizer.zero_grad()
            loss = self.criterion(self.model(X[ids]), y[ids])
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
            self.optimizer.step()
            loss_sum += float(loss)
        self.scheduler.step()
        return loss_sum / (len(X) // BATCH)

    @th.no_grad()
    def check(self, data):
        self.model.eval()
        X, y = data
        ok = 0
        for k in range(0, len(X), 200):
            ok += int((self.model(X[k:k + 200]).max(1)[1] == y[k:k + 200]).sum())
        return ok / len(X)

    def fit(self):
        for e in range(N_EPOCH):
            l, v = self.train_epoch(), self.check(self.valid_set)
            print('[%d] loss=%.4f valid=%.4f' % (e, l, v), flush=True)
            if v > self.best:
                self.best, self.best_state, self.bad = v, copy.deepcopy(self.model.state_dict()), 0
            else:
                self.bad += 1
                if self.bad >= PATIENCE:
                    print('early stop')
                    break
        self.model.load_state_dict(self.best_state)


def main():
    th.manual_seed(SEED)
    np.random.seed(SEED)
    train, valid, test = read()
    model = VGG12()
    trainer = Trainer(model, train, valid)
    trainer.fit()
    print('RESULT test=%.4f' % trainer.check(test))
    return 0


if __name__ == '__main__':
    sys.exit(main())
