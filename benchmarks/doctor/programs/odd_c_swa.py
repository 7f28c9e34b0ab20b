# stochastic weight averaging with torch.optim.swa_utils
import os
import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import SWALR, AveragedModel, update_bn
from torch.utils.data import DataLoader, TensorDataset

torch.set_num_threads(1)
torch.manual_seed(100)
EPOCHS, SWA_START, BATCH = 9, 5, 50


def dataset(split, src):
    pics = torch.tensor(src["x_" + split] / 255.0, dtype=torch.float).view(-1, 1, 28, 28)
    return TensorDataset((pics - 0.2860) / 0.3530, torch.tensor(src["y_" + split]).long())


def make():
    plan, layers, c = "16 M 32 32 M 48 A", [], 1
    for tok in plan.split():
        if tok == "M":
            layers.append(nn.MaxPool2d(2))
        elif tok == "A":
            layers += [nn.AdaptiveAvgPool2d(2), nn.Flatten()]
        else:
            layers += [nn.Conv2d(c, int(tok), 3, padding=1), nn.BatchNorm2d(int(tok)), nn.LeakyReLU(0.1)]
            c = int(tok)
    return nn.Sequential(*layers, nn.Linear(4 * c, 10))


def test(m, dl):
    m.eval()
    n_ok = 0
    with torch.no_grad():
        for xb, yb in dl:
            n_ok += int((m(xb).argmax(-1) == yb).sum())
    return n_ok / len(dl.dataset)


src = np.load(os.environ["DOCTOR_DATA"])
train_dl = DataLoader(dataset("train", src), BATCH, shuffle=True)
test_dl = DataLoader(dataset("test", src), 200)

model = make()
swa_model = AveragedModel(model)
opt = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
cosine = torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=EPOCHS)
constant = SWALR(opt, swa_lr=0.02, anneal_epochs=1)
lossf = nn.CrossEntropyLoss()

for epoch in range(EPOCHS):
    model.train()
    s = 0.0
    for xb, yb in train_dl:
        opt.zero_grad()
        loss = lossf(model(xb), yb)
        loss.backward()
        opt.step()
        s += loss.item() / len(train_dl)
    if epoch >= SWA_START:
        swa_model.update_parameters(model)
        constant.step()
    else:
        cosine.step()
    print(f"{epoch=} loss={s:.4f} averaged={int(swa_model.n_averaged)}")

update_bn(train_dl, swa_model)
print("last weights:", test(model, test_dl))
print("swa accuracy:", test(swa_model, test_dl))
