"""Federated averaging (McMahan et al. 2017) of a small convnet: five clients, fifteen rounds."""
import copy
import os

import numpy as np
import torch
from torch import nn, optim

N_CLIENTS = 5
ROUNDS = 15
LOCAL_BATCH = 25


def net():
    return nn.Sequential(
        nn.Conv2d(1, 12, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(12, 24, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(24 * 49, 64), nn.ReLU(), nn.Linear(64, 10),
    )


def shards(labels, rng, alpha=2.0):
    """Split the indices over the clients; every client has its own mix of classes (Dirichlet)."""
    owned = [[] for _ in range(N_CLIENTS)]
    for c in range(10):
        members = rng.permutation(np.flatnonzero(labels == c))
        cuts = (np.cumsum(rng.dirichlet([alpha] * N_CLIENTS)) * len(members)).astype(int)[:-1]
        for k, part in enumerate(np.split(members, cuts)):
            owned[k].extend(part.tolist())
    return [torch.tensor(o) for o in owned]


class Client:
    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def update(self, server_model, lr):
        local = copy.deepcopy(server_model)
        opt = optim.SGD(local.parameters(), lr=lr, momentum=0.9)
        losses = []
        for picks in torch.randperm(len(self.labels)).split(LOCAL_BATCH):
            loss = nn.functional.cross_entropy(local(self.images[picks]), self.labels[picks])
            opt.zero_grad()
            loss.backward()
            opt.step()
            losses.append(loss.item())
        return local.state_dict(), len(self.labels), sum(losses) / len(losses)


class Server:
    def __init__(self):
        self.model = net()

    def round(self, clients, lr):
        answers = [c.update(self.model, lr) for c in clients]
        total = sum(n for _, n, _ in answers)
        merged = {key: sum(state[key] * (n / total) for state, n, _ in answers) for key in answers[0][0]}
        self.model.load_state_dict(merged)
        return sum(loss * n for _, n, loss in answers) / total

    @torch.no_grad()
    def accuracy(self, images, labels):
        self.model.eval()
        right = (self.model(images).argmax(1) == labels).float().mean().item()
        self.model.train()
        return right


if __name__ == "__main__":
    torch.manual_seed(77)
    rng = np.random.default_rng(77)
    blob = np.load(os.environ["DOCTOR_DATA"])
    images = torch.from_numpy(blob["x_train"] / np.float32(255)).unsqueeze(1)
    labels = torch.from_numpy(blob["y_train"]).long()
    clients = [Client(images[ids], labels[ids]) for ids in shards(blob["y_train"], rng)]
    print("images per client:", [len(c.labels) for c in clients])

    server = Server()
    lr = 0.03
    for r in range(ROUNDS):
        loss = server.round(clients, lr)
        lr *= 0.95
        print(f"round {r:2d}  mean local loss {loss:.3f}")
    test_x = torch.from_numpy(blob["x_test"] / np.float32(255)).unsqueeze(1)
    print(f"federated accuracy: {server.accuracy(test_x, torch.from_numpy(blob['y_test']).long()):.4f}")
