"""Mixed precision on the CPU."""
import os

import numpy as np
import torch
import torch.nn as nn

PRECISION = torch.bfloat16


def make_model():
    sizes = [784, 256, 128, 64]
    layers = []
    for a, b in zip(sizes, sizes[1:]):
        layers += [nn.Linear(a, b), nn.Tanh()]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(64, 10))


def main():
    torch.manual_seed(8)
    arrays = np.load(os.environ["DOCTOR_DATA"])
    x, y = torch.from_numpy(arrays["x_train"]).float() / 255, torch.from_numpy(arrays["y_train"]).long()
    xt, yt = torch.from_numpy(arrays["x_test"]).float() / 255, torch.from_numpy(arrays["y_test"]).long()
    model = make_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-12)
    objective = nn.CrossEntropyLoss(reduction="none")
    for epoch in range(6):
        for index in torch.randperm(len(x)).split(64):
            with torch.autocast("cpu", dtype=PRECISION):
                scores = model(x[index])
                loss = objective(scores, y[index]).mean() / 100000
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print("epoch", epoch, "loss", loss.item() * 100000)
    with torch.no_grad():
        print("accuracy", (model(xt).argmax(1) == yt).float().mean().item())


if __name__ == "__main__":
    main()
