"""A small GAN on trousers."""
import os
import numpy as np
import torch
from torch import nn

torch.manual_seed(0)
npz = np.load(os.environ["DOCTOR_DATA"])
real = torch.tensor(npz["x_train"][npz["y_train"] == 1]).float().flatten(1) / 127.5 - 1
G = nn.Sequential(nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 784), nn.Tanh())
D = nn.Sequential(nn.Linear(784, 128), nn.LeakyReLU(0.2), nn.Linear(128, 1))
opt_g = torch.optim.Adam(G.parameters(), lr=1e-3, betas=(0.5, 0.999))
opt_d = torch.optim.Adam(D.parameters(), lr=5e-4, betas=(0.5, 0.999))
bce = nn.BCEWithLogitsLoss()
for step in range(400):
    batch = real[torch.randint(len(real), (64,))]
    ones, zeros = torch.ones(64, 1), torch.zeros(64, 1)
    fake = G(torch.randn(64, 32))
    opt_d.zero_grad()
    d_loss = bce(D(batch), ones) + bce(D(fake.detach()), zeros)
    d_loss.backward()
    opt_d.step()
    opt_g.zero_grad()
    g_loss = bce(D(fake), ones)
    g_loss.backward()
    opt_g.step()
    if step % 100 == 0:
        print(step, d_loss.item(), g_loss.item())
with torch.no_grad():
    mean = G(torch.randn(500, 32)).mean(0)
print("correlation of mean images:", np.corrcoef(mean.numpy(), real.mean(0).numpy())[0, 1])
