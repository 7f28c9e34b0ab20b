import os

import numpy as np
import torch
import torch.nn as nn

# Error-correcting output codes: the net answers 24 yes/no questions about the garment; the class whose row of
# answers is nearest wins. So 24 outputs for 10 classes, targets of +1/-1 and a soft margin loss.
BITS = 24


def code_book(classes, bits, tries=400):
    g = torch.Generator().manual_seed(1)
    best, widest = None, -1
    for _ in range(tries):
        book = torch.randint(0, 2, (classes, bits), generator=g).float() * 2 - 1
        apart = (bits - book @ book.T) / 2 + bits * torch.eye(classes)
        split = book.sum(0).abs().max() < classes
        if split and apart.min() > widest:
            best, widest = book, apart.min().item()
    print("smallest distance between two words:", int(widest))
    return best


class Answers(nn.Module):
    def __init__(self, bits):
        super().__init__()
        self.a = nn.Conv2d(1, 16, 5, stride=2, padding=2)
        self.b = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.c = nn.Linear(32 * 49, 96)
        self.d = nn.Linear(96, bits)
        self.act = nn.LeakyReLU(0.1)
        self.drop = nn.Dropout(0.2)

    def forward(self, x):
        h = self.act(self.b(self.act(self.a(x))))
        return self.d(self.drop(self.act(self.c(h.flatten(1)))))


def decode(answers, book):
    return (torch.tanh(answers / 2) @ book.T).argmax(1)


torch.manual_seed(17)
f = np.load(os.environ["DOCTOR_DATA"])
X, Y, Xt, Yt = (torch.from_numpy(f[k]) for k in ("x_train", "y_train", "x_test", "y_test"))
X, Xt = (t.float().unsqueeze(1) / 255 for t in (X, Xt))
Y, Yt = Y.long(), Yt.long()
book = code_book(10, BITS)
net = Answers(BITS)
opt = torch.optim.RMSprop(net.parameters(), lr=8e-4)
fall = torch.optim.lr_scheduler.ExponentialLR(opt, 0.9)
ask = nn.SoftMarginLoss()
for epoch in range(16):
    net.train()
    loss_sum = n = 0
    for i in torch.randperm(len(X)).split(50):
        opt.zero_grad()
        loss = ask(net(X[i]), book[Y[i]])
        loss.backward()
        opt.step()
        loss_sum, n = loss_sum + loss.item(), n + 1
    fall.step()
    print("epoch", epoch, "loss", round(loss_sum / n, 4))
net.eval()
with torch.no_grad():
    out = net(Xt)
    bits = ((out > 0) == (book[Yt] > 0)).float().mean().item()
    print(f"questions answered rightly: {bits:.4f}")
    print(f"nearest word: {(decode(out, book) == Yt).float().mean().item():.4f}")
