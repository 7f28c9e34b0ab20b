"""Small programs that train, as people write them; each is run under the observer by the tests beside."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset


def images(n: int = 192, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Three classes of 8 x 8 images, told apart by where they are bright."""
    made = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (n,), generator=made)
    pictures = torch.randn(n, 1, 8, 8, generator=made)
    for k in range(3):
        pictures[labels == k, :, 2 * k : 2 * k + 3] += 1.5
    return pictures, labels


class Net(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, width, 3), nn.ReLU(), nn.Flatten())
        self.head = nn.Linear(width * 36, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def batch_norm_net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(144, 3)
    )


class Noisy(Dataset[Any]):
    """Augments by torch's generator, in whatever process it runs."""

    def __init__(self) -> None:
        self.x, self.y = images()

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.x[index] + 0.1 * torch.randn(1, 8, 8), self.y[index]


def plain(steps: int = 20) -> list[float]:
    x, y = images()
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    losses = []
    for step in range(steps):
        at = step * 16 % 176
        optimizer.zero_grad()
        loss = nn.CrossEntropyLoss()(net(x[at : at + 16]), y[at : at + 16])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def loaded(
    workers: int = 0, epochs: int = 2, adam: bool = False, shuffle: bool = True, drop_last: bool = False
) -> tuple[list[float], list[Tensor]]:
    net = batch_norm_net()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3) if adam else torch.optim.SGD(net.parameters(), 0.1, 0.9)
    loader = DataLoader(Noisy(), batch_size=40, shuffle=shuffle, num_workers=workers, drop_last=drop_last)
    losses = []
    for _ in range(epochs):
        net.train()
        for x, y in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        net.eval()
        with torch.no_grad():
            for x, y in loader:
                losses.append(F.cross_entropy(net(x), y).item())
    return losses, [p.detach().clone() for p in (*net.parameters(), *net.buffers())]


def with_older_net() -> None:
    x, y = images()
    net = Net()
    optimizer = torch.optim.Adam(net.parameters())
    net = Net(5)
    for _ in range(5):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()


def without_step() -> None:
    x, y = images()
    net = Net()
    optimizer = torch.optim.Adam(net.parameters())
    for _ in range(6):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()


def without_zero_grad() -> None:
    x, y = images()
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    for _ in range(6):
        F.cross_entropy(net(x), y).backward()
        optimizer.step()


def always_eval() -> None:
    x, y = images()
    net = batch_norm_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    for _ in range(3):
        for at in (0, 64):
            optimizer.zero_grad()
            F.cross_entropy(net(x[at : at + 64]), y[at : at + 64]).backward()
            optimizer.step()
        net.eval()
        with torch.no_grad():
            net(x)


def tested_in_train() -> None:
    """Tests without no_grad, and without eval."""
    x, y = images()
    net = batch_norm_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    for _ in range(4):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
        for at in (0, 64, 128):
            out = net(x[at : at + 64])
            (out.argmax(1) == y[at : at + 64]).sum().item()


def accumulating() -> None:
    x, y = images()
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for step in range(12):
        at = step % 12 * 16
        (F.cross_entropy(net(x[at : at + 16]), y[at : at + 16]) / 4).backward()
        if step % 4 == 3:
            optimizer.step()
            optimizer.zero_grad()


def with_closure() -> None:
    x, y = images()
    net = Net()
    optimizer = torch.optim.LBFGS(net.parameters(), lr=0.5, max_iter=4)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)


def by_hand(data: bool = False) -> None:
    """No module, no loss function, no optimizer: the textbook's from-scratch style."""
    x, y = images()
    w = torch.normal(0, 0.01, (64, 3), requires_grad=True)
    b = torch.zeros(3, requires_grad=True)
    for step in range(15):
        at = step % 6 * 32
        out = (x[at : at + 32].reshape(-1, 64) @ w + b).softmax(1)
        loss = -torch.log(out[range(32), y[at : at + 32]])
        loss.sum().backward()
        for p in (w, b):
            if data:
                p.data -= 0.1 * p.grad / 32
                p.grad = None
            else:
                with torch.no_grad():
                    p -= 0.1 * p.grad / 32
                    p.grad.zero_()


def net_by_hand(clears: bool = True) -> None:
    x, y = images()
    net = Net()
    for _ in range(15):
        if clears:
            net.zero_grad()
        F.cross_entropy(net(x), y).backward()
        with torch.no_grad():
            for p in net.parameters():
                p -= 0.05 * p.grad


def becoming_nan() -> None:
    x, y = images()
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), Logarithm(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for step in range(6):
        optimizer.zero_grad()
        net[2].clamps = step < 3
        F.cross_entropy(net(x), y).backward()
        optimizer.step()


class Logarithm(nn.Module):
    clamps = True

    def forward(self, x: Tensor) -> Tensor:
        return (x.abs() + 0.1 if self.clamps else x).log()


def clipped_and_scheduled() -> None:
    x, y = images()
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.1)
    for _ in range(6):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 0.25)
        optimizer.step()
        schedule.step()


def keeping_graphs() -> float:
    x, y = images()
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    total: Any = 0
    for _ in range(15):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        total += loss
    return float(total)


def adversarial() -> None:
    """Two nets, two optimizers, in turn."""
    x, _ = images()
    maker, judge = nn.Sequential(nn.Linear(4, 64), nn.Tanh()), nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    first = torch.optim.Adam(maker.parameters(), 1e-3)
    second = torch.optim.Adam(judge.parameters(), 1e-3)
    for _ in range(8):
        fake = maker(torch.randn(32, 4))
        second.zero_grad()
        real = F.binary_cross_entropy_with_logits(judge(x[:32]), torch.ones(32, 1))
        (real + F.binary_cross_entropy_with_logits(judge(fake.detach()), torch.zeros(32, 1))).backward()
        second.step()
        first.zero_grad()
        F.binary_cross_entropy_with_logits(judge(fake), torch.ones(32, 1)).backward()
        first.step()


def student_of_teacher() -> None:
    x, _ = images()
    teacher, student = Net(6).eval(), Net()
    averaged = copy.deepcopy(student)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    for _ in range(8):
        with torch.no_grad():
            wanted = teacher(x).softmax(1)
        optimizer.zero_grad()
        F.kl_div(student(x).log_softmax(1), wanted, reduction="batchmean").backward()
        optimizer.step()
        with torch.no_grad():
            for mine, its in zip(averaged.parameters(), student.parameters(), strict=True):
                mine.lerp_(its, 0.1)


def answers_kept(detached: bool = False) -> None:
    """Tests with gradients on, and keeps every answer."""
    x, y = images()
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(3):
        for _ in range(4):
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
        answers = [net(x).detach() if detached else net(x) for _ in range(8)]
        del answers


def teacher_of_batches() -> None:
    """Asks a net that was trained before about each batch, and tests the student on other images."""
    x, _ = images()
    teacher, student = Net(6), Net()
    for net in (teacher, student):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for part in (*x.split(8), *x.split(8)):
            wanted = None
            if net is student:
                with torch.no_grad():
                    wanted = teacher(part).softmax(1)
            optimizer.zero_grad()
            answers = net(part)
            F.cross_entropy(answers, answers.argmax(1) if wanted is None else wanted).backward()
            optimizer.step()
    with torch.no_grad():
        student(torch.randn_like(x))
        teacher(torch.randn_like(x))


def votes_of_dropout() -> None:
    """Drops units in every mode, to ask a net several times."""
    x, y = images()

    class Votes(Net):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            return F.dropout(super().forward(batch), 0.5, training=True)

    net = Votes()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for part, labels in zip([*x.split(8)] * 4, [*y.split(8)] * 4, strict=True):
        optimizer.zero_grad()
        F.cross_entropy(net(part), labels).backward()
        optimizer.step()


def softmax_twice() -> None:
    x, y = images()
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        F.cross_entropy(torch.softmax(net(x), dim=1), y).backward()
        optimizer.step()


def gradients_of_images() -> None:
    """Trains on images that were moved along their gradient."""
    x, y = images()
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(6):
        attacked = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(net(attacked), y), attacked)
        optimizer.zero_grad()
        F.cross_entropy(net(x + 0.1 * slope.sign()), y).backward()
        F.cross_entropy(net(attacked), y).backward()
        optimizer.step()


def forward_by_name() -> None:
    """Calls `forward` itself, past the hooks of the whole net."""
    x, y = images()
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        F.cross_entropy(net.forward(x), y).backward()
        optimizer.step()


def with_dictionaries() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = Net(), Net()

        def forward(self, batch: dict[str, Tensor]) -> dict[str, Any]:
            return {"logits": self.a(batch["x"]), "aux": (self.b(batch["x"]),)}

    x, y = images()
    net = Two()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        out = net({"x": x})
        (F.cross_entropy(out["logits"], y) + 0.3 * F.cross_entropy(out["aux"][0], y)).backward()
        optimizer.step()


def recurrent() -> None:
    x, y = images()
    net, head = nn.LSTM(8, 6, batch_first=True), nn.Linear(6, 3)
    optimizer = torch.optim.Adam([*net.parameters(), *head.parameters()], 0.01)
    for _ in range(5):
        optimizer.zero_grad()
        out, _ = net(x[:, 0])
        F.cross_entropy(head(out[:, -1]), y).backward()
        optimizer.step()


def printing() -> None:
    print("no number here")
    for epoch in range(3):
        print(f"epoch {epoch}: loss {2.3 / (epoch + 1):.3f}, acc=.{epoch}5, lr 1e-3", end="\n")
    print("half a", end=" ")
    print("line 7")


def leaking() -> None:
    """The test set is made of training images."""
    x, y = images()
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    train = DataLoader(TensorDataset(x, y), batch_size=32)
    test = DataLoader(TensorDataset(torch.cat([x[:30], images(10, 1)[0]]), torch.zeros(40).long()), batch_size=20)
    for _ in range(2):
        for a, b in train:
            optimizer.zero_grad()
            F.cross_entropy(net(a), b).backward()
            optimizer.step()
        with torch.no_grad():
            for a, _ in test:
                net(a)


def fine_tuning() -> None:
    x, y = images()
    weights = Net().state_dict()
    net = Net()
    net.load_state_dict(weights)
    for p in net.body.parameters():
        p.requires_grad_(False)
    optimizer = torch.optim.SGD(net.head.parameters(), lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()


def breaking() -> None:
    x, y = images()
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for step in range(5):
        optimizer.zero_grad()
        F.cross_entropy(net(x if step < 3 else x[..., :7]), y).backward()
        optimizer.step()
