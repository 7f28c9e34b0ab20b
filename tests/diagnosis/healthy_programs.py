# ruff: noqa: E501 - lines of programs are as their writers left them
"""Programs that train as they should, as different people write them: the reader may say nothing misleading of them."""

HEAD = """\
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

train_set = TensorDataset(x_train, y_train)
test_set = TensorDataset(x_test, y_test)
train_loader = DataLoader(train_set, batch_size=64, shuffle=True)
test_loader = DataLoader(test_set, batch_size=256)
"""

FLAT = (
    HEAD
    + """\
net = nn.Sequential(nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * 13 * 13, 10))
optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
criterion = nn.CrossEntropyLoss()
for epoch in range(5):
    net.train()
    running = 0.0
    for images, labels in train_loader:
        optimizer.zero_grad()
        outputs = net(images)
        loss = criterion(outputs, labels)
        loss.backward()
        optimizer.step()
        running += loss.item()
    net.eval()
    correct = total = 0
    with torch.no_grad():
        for images, labels in test_loader:
            predicted = net(images).argmax(dim=1)
            correct += (predicted == labels).sum().item()
            total += labels.size(0)
    print(f"epoch {epoch} loss {running / len(train_loader):.3f} accuracy: {correct / total:.3f}")
"""
)

FUNCTIONS = (
    HEAD
    + """\
class Net(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, 1)
        self.conv2 = nn.Conv2d(32, 64, 3, 1)
        self.dropout1 = nn.Dropout(0.25)
        self.dropout2 = nn.Dropout(0.5)
        self.fc1 = nn.Linear(9216, 128)
        self.fc2 = nn.Linear(128, classes)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        x = F.relu(self.conv2(x))
        x = F.max_pool2d(x, 2)
        x = self.dropout1(x)
        x = torch.flatten(x, 1)
        x = F.relu(self.fc1(x))
        x = self.dropout2(x)
        x = self.fc2(x)
        return F.log_softmax(x, dim=1)


def train(args, model, device, train_loader, optimizer, epoch):
    model.train()
    for batch_idx, (data, target) in enumerate(train_loader):
        data, target = data.to(device), target.to(device)
        optimizer.zero_grad()
        output = model(data)
        loss = F.nll_loss(output, target)
        loss.backward()
        optimizer.step()
        if batch_idx % args.log_interval == 0:
            print(epoch, batch_idx * len(data), len(train_loader.dataset), loss.item())
            if args.dry_run:
                break


def test(model, device, test_loader):
    model.eval()
    test_loss = 0
    correct = 0
    with torch.no_grad():
        for data, target in test_loader:
            data, target = data.to(device), target.to(device)
            output = model(data)
            test_loss += F.nll_loss(output, target, reduction='sum').item()
            pred = output.argmax(dim=1, keepdim=True)
            correct += pred.eq(target.view_as(pred)).sum().item()
    test_loss /= len(test_loader.dataset)
    print(test_loss, 100. * correct / len(test_loader.dataset))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--lr', type=float, default=1.0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = Net().to(device)
    optimizer = torch.optim.Adadelta(model.parameters(), lr=args.lr)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=args.gamma)
    for epoch in range(1, args.epochs + 1):
        train(args, model, device, train_loader, optimizer, epoch)
        test(model, device, test_loader)
        scheduler.step()
    if args.save_model:
        torch.save(model.state_dict(), "mnist_cnn.pt")


if __name__ == '__main__':
    main()
"""
)

TRAINER = (
    HEAD
    + """\
class Block(nn.Module):
    def __init__(self, channels):
        super(Block, self).__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x):
        return F.relu(x + self.bn(self.conv(x)))


class ResNet(nn.Module):
    def __init__(self):
        super(ResNet, self).__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.blocks = nn.ModuleList([Block(16) for _ in range(3)])
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        x = x.mean(dim=(2, 3))
        return self.head(x)


class Trainer:
    def __init__(self, model, optimizer, loss_fn, loader, val_loader):
        self.model = model
        self.optimizer = optimizer
        self.loss_fn = loss_fn
        self.loader = loader
        self.val_loader = val_loader
        self.history = []

    def step(self, x, y):
        self.optimizer.zero_grad(set_to_none=True)
        out = self.model(x)
        loss = self.loss_fn(out, y)
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def fit(self, epochs):
        for epoch in range(epochs):
            self.model.train()
            total = 0.0
            for x, y in self.loader:
                total += self.step(x, y)
            self.history.append((total / len(self.loader), self.validate()))

    @torch.no_grad()
    def validate(self):
        self.model.eval()
        hits = 0
        for x, y in self.val_loader:
            hits += (self.model(x).argmax(1) == y).sum().item()
        return hits / len(self.val_loader.dataset)


model = ResNet()
trainer = Trainer(model, torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05), nn.CrossEntropyLoss(), train_loader, test_loader)
trainer.fit(5)
print(trainer.history)
"""
)

BOOK = """\
import torch
from torch import nn
from d2l import torch as d2l

net = nn.Sequential(
    nn.Conv2d(1, 6, kernel_size=5, padding=2), nn.Sigmoid(),
    nn.AvgPool2d(kernel_size=2, stride=2),
    nn.Conv2d(6, 16, kernel_size=5), nn.Sigmoid(),
    nn.AvgPool2d(kernel_size=2, stride=2),
    nn.Flatten(),
    nn.Linear(16 * 5 * 5, 120), nn.Sigmoid(),
    nn.Linear(120, 84), nn.Sigmoid(),
    nn.Linear(84, 10))

X = torch.rand(size=(1, 1, 28, 28), dtype=torch.float32)
for layer in net:
    X = layer(X)
    print(layer.__class__.__name__, 'output shape: \\t', X.shape)

batch_size = 256
train_iter, test_iter = d2l.load_data_fashion_mnist(batch_size=batch_size)

def evaluate_accuracy_gpu(net, data_iter, device=None):
    if isinstance(net, nn.Module):
        net.eval()
        if not device:
            device = next(iter(net.parameters())).device
    metric = d2l.Accumulator(2)
    with torch.no_grad():
        for X, y in data_iter:
            if isinstance(X, list):
                X = [x.to(device) for x in X]
            else:
                X = X.to(device)
            y = y.to(device)
            metric.add(d2l.accuracy(net(X), y), d2l.size(y))
    return metric[0] / metric[1]

def train_ch6(net, train_iter, test_iter, num_epochs, lr, device):
    def init_weights(m):
        if type(m) == nn.Linear or type(m) == nn.Conv2d:
            nn.init.xavier_uniform_(m.weight)
    net.apply(init_weights)
    print('training on', device)
    net.to(device)
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    loss = nn.CrossEntropyLoss()
    animator = d2l.Animator(xlabel='epoch', xlim=[1, num_epochs], legend=['train loss', 'train acc', 'test acc'])
    timer, num_batches = d2l.Timer(), len(train_iter)
    for epoch in range(num_epochs):
        metric = d2l.Accumulator(3)
        net.train()
        for i, (X, y) in enumerate(train_iter):
            timer.start()
            optimizer.zero_grad()
            X, y = X.to(device), y.to(device)
            y_hat = net(X)
            l = loss(y_hat, y)
            l.backward()
            optimizer.step()
            with torch.no_grad():
                metric.add(l * X.shape[0], d2l.accuracy(y_hat, y), X.shape[0])
            timer.stop()
            train_l = metric[0] / metric[2]
            train_acc = metric[1] / metric[2]
            if (i + 1) % (num_batches // 5) == 0 or i == num_batches - 1:
                animator.add(epoch + (i + 1) / num_batches, (train_l, train_acc, None))
        test_acc = evaluate_accuracy_gpu(net, test_iter)
        animator.add(epoch + 1, (None, None, test_acc))
    print(f'loss {train_l:.3f}, train acc {train_acc:.3f}, test acc {test_acc:.3f}')

lr, num_epochs = 0.9, 10
train_ch6(net, train_iter, test_iter, num_epochs, lr, d2l.try_gpu())
"""

BOOK_SCRATCH = """\
import torch
from d2l import torch as d2l

batch_size = 256
train_iter, test_iter = d2l.load_data_fashion_mnist(batch_size)
num_inputs, num_outputs = 784, 10
W = torch.normal(0, 0.01, size=(num_inputs, num_outputs), requires_grad=True)
b = torch.zeros(num_outputs, requires_grad=True)

def softmax(X):
    X_exp = torch.exp(X)
    partition = X_exp.sum(1, keepdim=True)
    return X_exp / partition

def net(X):
    return softmax(torch.matmul(X.reshape((-1, W.shape[0])), W) + b)

def cross_entropy(y_hat, y):
    return - torch.log(y_hat[range(len(y_hat)), y])

class Accumulator:
    def __init__(self, n):
        self.data = [0.0] * n
    def add(self, *args):
        self.data = [a + float(b) for a, b in zip(self.data, args)]
    def __getitem__(self, idx):
        return self.data[idx]

def sgd(params, lr, batch_size):
    with torch.no_grad():
        for param in params:
            param -= lr * param.grad / batch_size
            param.grad.zero_()

def train_epoch_ch3(net, train_iter, loss, updater):
    if isinstance(net, torch.nn.Module):
        net.train()
    metric = Accumulator(3)
    for X, y in train_iter:
        y_hat = net(X)
        l = loss(y_hat, y)
        if isinstance(updater, torch.optim.Optimizer):
            updater.zero_grad()
            l.mean().backward()
            updater.step()
        else:
            l.sum().backward()
            updater(X.shape[0])
        metric.add(float(l.sum()), d2l.accuracy(y_hat, y), y.numel())
    return metric[0] / metric[2], metric[1] / metric[2]

lr = 0.1

def updater(batch_size):
    return sgd([W, b], lr, batch_size)

num_epochs = 10
for epoch in range(num_epochs):
    print(train_epoch_ch3(net, train_iter, cross_entropy, updater))
"""

BATCH_NORM = (
    HEAD
    + """\
def batch_norm(X, gamma, beta, moving_mean, moving_var, eps, momentum):
    if not torch.is_grad_enabled():
        X_hat = (X - moving_mean) / torch.sqrt(moving_var + eps)
    else:
        mean = X.mean(dim=(0, 2, 3), keepdim=True)
        var = ((X - mean) ** 2).mean(dim=(0, 2, 3), keepdim=True)
        X_hat = (X - mean) / torch.sqrt(var + eps)
        moving_mean = momentum * moving_mean + (1.0 - momentum) * mean
        moving_var = momentum * moving_var + (1.0 - momentum) * var
    return gamma * X_hat + beta, moving_mean.data, moving_var.data


class BatchNorm(nn.Module):
    def __init__(self, num_features, num_dims):
        super().__init__()
        shape = (1, num_features) if num_dims == 2 else (1, num_features, 1, 1)
        self.gamma = nn.Parameter(torch.ones(shape))
        self.beta = nn.Parameter(torch.zeros(shape))
        self.moving_mean = torch.zeros(shape)
        self.moving_var = torch.ones(shape)

    def forward(self, X):
        Y, self.moving_mean, self.moving_var = batch_norm(X, self.gamma, self.beta, self.moving_mean, self.moving_var, 1e-5, 0.9)
        return Y


net = nn.Sequential(nn.Conv2d(1, 6, 5), BatchNorm(6, 4), nn.Sigmoid(), nn.Flatten(), nn.Linear(6 * 24 * 24, 10))
trainer = torch.optim.SGD(net.parameters(), lr=0.5)
loss = nn.CrossEntropyLoss(reduction='none')
for epoch in range(3):
    net.train()
    for X, y in train_loader:
        l = loss(net(X), y)
        trainer.zero_grad()
        l.mean().backward()
        trainer.step()
net.eval()
with torch.no_grad():
    print(sum((net(X).argmax(1) == y).float().sum() for X, y in test_loader) / len(y_test))
"""
)

ACCUMULATION = FLAT.replace(
    """\
        optimizer.zero_grad()
        outputs = net(images)
        loss = criterion(outputs, labels)
        loss.backward()
        optimizer.step()
        running += loss.item()
""",
    """\
        outputs = net(images)
        loss = criterion(outputs, labels) / 4
        loss.backward()
        steps = steps + 1
        if steps % 4 == 0:
            optimizer.step()
            optimizer.zero_grad()
        running += loss.item() * 4
""",
)

WINDOWED = (
    HEAD
    + """\
net = nn.Sequential(nn.Flatten(), nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10))
opt = torch.optim.Adam(net.parameters(), 1e-3)
for epoch in range(3):
    for x, y in train_loader:
        opt.zero_grad()
        for part, labels in zip(x.chunk(4), y.chunk(4)):
            loss = F.cross_entropy(net(part), labels) / 4
            loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        opt.step()
"""
)

SEVERAL_LOSSES = (
    HEAD
    + """\
net = Branches()
heads = [nn.Linear(64, 10), nn.Linear(64, 2)]
opt = torch.optim.Adam(list(net.parameters()) + list(heads[0].parameters()) + list(heads[1].parameters()), lr=1e-3)
for epoch in range(3):
    for x, y, z in train_loader:
        opt.zero_grad()
        features = net(x)
        total = 0
        for head, target in zip(heads, (y, z)):
            total += F.cross_entropy(head(features), target)
        total.backward()
        opt.step()
"""
)

LISTED_LOSSES = (
    HEAD
    + """\
net = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
opt = torch.optim.SGD(net.parameters(), lr=0.1)
for epoch in range(3):
    for x, y in train_loader:
        losses = []
        for part, labels in zip(x.chunk(4), y.chunk(4)):
            losses.append(F.cross_entropy(net(part), labels))
        loss = torch.stack(losses).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
"""
)

GAN = (
    HEAD
    + """\
class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        self.main = nn.Sequential(nn.Linear(64, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, 784), nn.Tanh())
    def forward(self, z):
        return self.main(z)

class Discriminator(nn.Module):
    def __init__(self):
        super().__init__()
        self.main = nn.Sequential(nn.Linear(784, 256), nn.LeakyReLU(0.2), nn.Dropout(0.3), nn.Linear(256, 1), nn.Sigmoid())
    def forward(self, x):
        return self.main(x.view(x.size(0), -1))

G, D = Generator(), Discriminator()
opt_g = torch.optim.Adam(G.parameters(), lr=2e-4, betas=(0.5, 0.999))
opt_d = torch.optim.Adam(D.parameters(), lr=2e-4, betas=(0.5, 0.999))
bce = nn.BCELoss()
for epoch in range(5):
    for real, _ in train_loader:
        ones, zeros = torch.ones(real.size(0), 1), torch.zeros(real.size(0), 1)
        z = torch.randn(real.size(0), 64)
        fake = G(z)
        d_loss = bce(D(real), ones) + bce(D(fake.detach()), zeros)
        opt_d.zero_grad()
        d_loss.backward()
        opt_d.step()
        g_loss = bce(D(fake), ones)
        opt_g.zero_grad()
        g_loss.backward()
        opt_g.step()
    G.eval()
    with torch.no_grad():
        save_image(G(torch.randn(64, 64)), f"{epoch}.png")
    G.train()
"""
)

WGAN = GAN.replace(
    "d_loss = bce(D(real), ones) + bce(D(fake.detach()), zeros)", "d_loss = -(D(real).mean() - D(fake.detach()).mean())"
).replace("g_loss = bce(D(fake), ones)", "g_loss = -D(fake).mean()")

EMA = (
    HEAD
    + """\
import copy
net = nn.Sequential(nn.Flatten(), nn.Linear(784, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, 10))
ema = copy.deepcopy(net)
for p in ema.parameters():
    p.requires_grad_(False)
ema.eval()
optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)

def update(ema, net, decay=0.999):
    with torch.no_grad():
        for a, b in zip(ema.parameters(), net.parameters()):
            a.mul_(decay).add_(b, alpha=1 - decay)

for epoch in range(4):
    net.train()
    for x, y in train_loader:
        loss = F.cross_entropy(net(x), y, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        update(ema, net)
    with torch.no_grad():
        hits = sum((ema(x).argmax(1) == y).sum().item() for x, y in test_loader)
    print(hits / len(test_set))
"""
)

FEATURES = (
    HEAD
    + """\
from torchvision import models
model = models.resnet18(weights="IMAGENET1K_V1")
for param in model.parameters():
    param.requires_grad = False
model.fc = nn.Linear(model.fc.in_features, 10)
optimizer = torch.optim.SGD(model.fc.parameters(), lr=0.01, momentum=0.9)
criterion = nn.CrossEntropyLoss()
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=7, gamma=0.1)

def train_model(model, criterion, optimizer, scheduler, num_epochs=25):
    best_acc = 0.0
    for epoch in range(num_epochs):
        for phase in ['train', 'val']:
            if phase == 'train':
                model.train()
            else:
                model.eval()
            running_loss = 0.0
            running_corrects = 0
            for inputs, labels in dataloaders[phase]:
                optimizer.zero_grad()
                with torch.set_grad_enabled(phase == 'train'):
                    outputs = model(inputs)
                    _, preds = torch.max(outputs, 1)
                    loss = criterion(outputs, labels)
                    if phase == 'train':
                        loss.backward()
                        optimizer.step()
                running_loss += loss.item() * inputs.size(0)
                running_corrects += torch.sum(preds == labels.data)
            if phase == 'train':
                scheduler.step()
            epoch_loss = running_loss / dataset_sizes[phase]
            epoch_acc = running_corrects.double() / dataset_sizes[phase]
            print(f'{phase} Loss: {epoch_loss:.4f} Acc: {epoch_acc:.4f}')
            if phase == 'val' and epoch_acc > best_acc:
                best_acc = epoch_acc
                torch.save(model.state_dict(), 'best.pt')
    model.load_state_dict(torch.load('best.pt'))
    return model

model = train_model(model, criterion, optimizer, scheduler, num_epochs=25)
"""
)

TRUNK = (
    HEAD
    + """\
trunk = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten())
trunk.load_state_dict(torch.load("trunk.pt"))
for p in trunk.parameters():
    p.requires_grad = False
trunk.eval()
head = nn.Linear(256, 10)
optimizer = torch.optim.Adam(head.parameters(), lr=1e-3)
for epoch in range(5):
    for x, y in train_loader:
        with torch.no_grad():
            features = trunk(x)
        loss = F.cross_entropy(head(features), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
"""
)

TEACHER = (
    HEAD
    + """\
teacher = nn.Sequential(nn.Flatten(), nn.Linear(784, 512), nn.ReLU(), nn.Dropout(), nn.Linear(512, 10))
teacher.load_state_dict(torch.load("teacher.pt"))
student = nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10))
teacher.eval()
opt = torch.optim.Adam(student.parameters(), lr=1e-3)
T = 4.0
for epoch in range(5):
    student.train()
    for x, y in train_loader:
        with torch.no_grad():
            wanted = teacher(x)
        logits = student(x)
        soft = F.kl_div(F.log_softmax(logits / T, dim=1), F.softmax(wanted / T, dim=1), reduction="batchmean") * T * T
        loss = 0.5 * soft + 0.5 * F.cross_entropy(logits, y)
        opt.zero_grad()
        loss.backward()
        opt.step()
"""
)

LIGHTNING = """\
import torch, torch.nn as nn, torch.nn.functional as F
import lightning as L

class LitNet(L.LightningModule):
    def __init__(self, lr=1e-3):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, 10))

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("acc", (self(x).argmax(1) == y).float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.hparams.lr)

trainer = L.Trainer(max_epochs=3)
trainer.fit(LitNet(), train_loader, val_loader)
"""

LEARNER = (
    HEAD
    + """\
class Learner:
    def __init__(self, model, dls, loss_func, lr, opt_func=torch.optim.SGD):
        self.model, self.dls, self.loss_func, self.lr, self.opt_func = model, dls, loss_func, lr, opt_func

    def one_batch(self):
        self.xb, self.yb = self.batch
        self.preds = self.model(self.xb)
        self.loss = self.loss_func(self.preds, self.yb)
        if self.model.training:
            self.loss.backward()
            self.opt.step()
            self.opt.zero_grad()
        with torch.no_grad():
            self.stats.append((self.loss.item(), (self.preds.argmax(1) == self.yb).float().mean().item()))

    def one_epoch(self, train):
        self.model.train(train)
        self.stats = []
        for self.batch in self.dls[0 if train else 1]:
            self.one_batch()
        print(train, [sum(s) / len(s) for s in zip(*self.stats)])

    def fit(self, n_epochs):
        self.opt = self.opt_func(self.model.parameters(), self.lr)
        for epoch in range(n_epochs):
            self.one_epoch(True)
            with torch.no_grad():
                self.one_epoch(False)

model = nn.Sequential(nn.Flatten(), nn.Linear(784, 50), nn.ReLU(), nn.Linear(50, 10))
Learner(model, (train_loader, test_loader), F.cross_entropy, lr=0.2).fit(3)
"""
)

RUN_EPOCH = (
    HEAD
    + """\
def run_epoch(model, loader, criterion, optimizer=None):
    training = optimizer is not None
    model.train(training)
    total, hits, seen = 0.0, 0, 0
    with torch.set_grad_enabled(training):
        for xb, yb in loader:
            out = model(xb)
            loss = criterion(out, yb)
            if training:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            total += loss.item() * xb.size(0)
            hits += (out.argmax(1) == yb).sum().item()
            seen += xb.size(0)
    return total / seen, hits / seen


model = nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3)
criterion = nn.CrossEntropyLoss()
for epoch in range(10):
    train_loss, train_acc = run_epoch(model, train_loader, criterion, optimizer)
    test_loss, test_acc = run_epoch(model, test_loader, criterion)
    print(f"{epoch}: {train_loss:.3f} {train_acc:.3f} {test_loss:.3f} {test_acc:.3f}")
"""
)

NOTEBOOK = """\
# %%
import numpy as np, torch, torch.nn as nn, torch.nn.functional as F
X = torch.tensor(data["x_train"]).float().div(255).unsqueeze(1)
y = torch.tensor(data["y_train"]).long()
# %%
model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 26 * 26, 10))
model(X[:2]).shape
# %%
def init_weights(m):
    if isinstance(m, (nn.Conv2d, nn.Linear)):
        nn.init.kaiming_normal_(m.weight, nonlinearity="relu")
        nn.init.zeros_(m.bias)
model.apply(init_weights)
# %%
opt = torch.optim.Adam(model.parameters(), lr=3e-4)
losses = []
for epoch in range(3):
    perm = torch.randperm(len(X))
    for i in range(0, len(X), 128):
        idx = perm[i:i + 128]
        logits = model(X[idx])
        loss = F.cross_entropy(logits, y[idx])
        opt.zero_grad()
        loss.backward()
        opt.step()
        losses.append(loss.item())
# %%
model.eval()
with torch.no_grad():
    pred = model(X_test).argmax(1)
(pred == y_test).float().mean()
# %%
model = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 26 * 26, 10))
opt = torch.optim.Adam(model.parameters(), lr=3e-4)
for epoch in range(3):
    for i in range(0, len(X), 128):
        loss = F.cross_entropy(model(X[i:i + 128]), y[i:i + 128])
        opt.zero_grad(); loss.backward(); opt.step()
"""

LBFGS = (
    HEAD
    + """\
net = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
optimizer = torch.optim.LBFGS(net.parameters(), lr=0.5, max_iter=10)
for epoch in range(10):
    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x_train), y_train)
        loss.backward()
        return loss
    optimizer.step(closure)
print((net(x_test).argmax(1) == y_test).float().mean().item())
"""
)

MIXED_PRECISION = (
    HEAD
    + """\
net = nn.Sequential(nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 10)).cuda()
optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=5 * len(train_loader))
scaler = torch.amp.GradScaler()
for epoch in range(5):
    for x, y in train_loader:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", dtype=torch.float16):
            loss = F.cross_entropy(net(x.cuda()), y.cuda())
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
"""
)

MIXUP = (
    HEAD
    + """\
def mixup(x, y, alpha=0.2):
    lam = np.random.beta(alpha, alpha)
    index = torch.randperm(x.size(0))
    return lam * x + (1 - lam) * x[index], y, y[index], lam

net = SmallNet()
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=30)
best = 0
for epoch in range(30):
    net.train()
    for x, y in train_loader:
        x, ya, yb, lam = mixup(x, y)
        out = net(x)
        loss = lam * criterion(out, ya) + (1 - lam) * criterion(out, yb)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    scheduler.step()
"""
)

AUTOENCODER = (
    HEAD
    + """\
class AE(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode = nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 16))
        self.decode = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 784), nn.Sigmoid())
    def forward(self, x):
        return self.decode(self.encode(x))

ae = AE()
opt = torch.optim.Adam(ae.parameters(), lr=1e-3)
for epoch in range(5):
    for img, _ in train_loader:
        img = img.view(img.size(0), -1)
        loss = F.mse_loss(ae(img), img)
        opt.zero_grad()
        loss.backward()
        opt.step()
"""
)

MULTI_LABEL = (
    HEAD
    + """\
net = nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10), nn.Sigmoid())
opt = torch.optim.Adam(net.parameters(), lr=1e-3)
bce = nn.BCELoss()
for epoch in range(5):
    for x, y in train_loader:
        targets = F.one_hot(y, 10).float()
        loss = bce(net(x), targets)
        opt.zero_grad()
        loss.backward()
        opt.step()
with torch.no_grad():
    print((net(x_test).argmax(1) == y_test).float().mean())
"""
)

SIAMESE = (
    HEAD
    + """\
class Embed(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 32))
    def forward(self, x):
        return F.normalize(self.body(x), dim=1)

embed = Embed()
opt = torch.optim.Adam(embed.parameters(), lr=1e-3)
triplet = nn.TripletMarginLoss(margin=0.3)
for step in range(300):
    a, p, n = sample_triplet(x_train, y_train)
    loss = triplet(embed(a), embed(p), embed(n))
    opt.zero_grad()
    loss.backward()
    opt.step()
"""
)

COMPARED = (
    HEAD
    + """\
def make(width):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, width), nn.ReLU(), nn.Dropout(0.2), nn.Linear(width, 10))

def train(net, lr, epochs):
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    for _ in range(epochs):
        net.train()
        for x, y in train_loader:
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
    return evaluate(net)

def evaluate(net):
    net.eval()
    with torch.no_grad():
        return sum((net(x).argmax(1) == y).sum().item() for x, y in test_loader) / len(test_set)

results = {}
for lr in (0.01, 0.1):
    torch.manual_seed(0)
    results[lr] = train(make(64), lr, 3)
small, large = make(32), make(256)
print(results, train(small, 0.1, 3), train(large, 0.1, 3))
"""
)

TEST_FIRST = (
    HEAD
    + """\
net = nn.Sequential(nn.Flatten(), nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10))
def accuracy(model, loader):
    model.eval()
    with torch.no_grad():
        good = sum((model(x).argmax(1) == y).sum().item() for x, y in loader)
    model.train()
    return good / len(loader.dataset)
if args.test_only:
    net.eval()
    print(accuracy(net, test_loader))
    raise SystemExit
print("before", accuracy(net, test_loader))
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
for epoch in range(3):
    for step, (x, y) in enumerate(train_loader):
        optimizer.zero_grad()
        loss = nn.CrossEntropyLoss()(net(x), y)
        loss.backward()
        optimizer.step()
        if step % 50 == 0:
            print(step, loss.item() * 100, accuracy(net, test_loader))
"""
)

TWO_OPTIMIZERS = (
    HEAD
    + """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten())
        self.classifier = nn.Linear(256, 10)
    def forward(self, x):
        return self.classifier(self.features(x))

net = Net()
opt_a = torch.optim.SGD(net.features.parameters(), lr=0.01)
opt_b = torch.optim.Adam(net.classifier.parameters(), lr=1e-3)
for epoch in range(3):
    for x, y in train_loader:
        loss = F.cross_entropy(net(x), y)
        for opt in (opt_a, opt_b):
            opt.zero_grad()
        loss.backward()
        for opt in (opt_a, opt_b):
            opt.step()
"""
)

GROUPS = (
    HEAD
    + """\
net = Net()
decay = [p for n, p in net.named_parameters() if p.ndim > 1]
plain = [p for n, p in net.named_parameters() if p.ndim <= 1]
optimizer = torch.optim.AdamW([{"params": decay, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}], lr=3e-4)
if torch.cuda.device_count() > 1:
    net = nn.DataParallel(net)
net = torch.compile(net)
warmup = 100
for step, (x, y) in enumerate(cycle(train_loader)):
    for group in optimizer.param_groups:
        group["lr"] = 3e-4 * min(1, (step + 1) / warmup)
    loss = F.cross_entropy(net(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step == 1000:
        break
"""
)

CONFIG = (
    HEAD
    + """\
from dataclasses import dataclass

@dataclass
class Config:
    lr: float = 0.1
    weight_decay: float = 5e-4
    epochs: int = 5
    batch_size = 64

cfg = Config()
net = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
optimizer = torch.optim.SGD(net.parameters(), **vars(Namespace(lr=cfg.lr)))
loss_history = []
for epoch in range(cfg.epochs):
    epoch_loss = torch.zeros(())
    for x, y in train_loader:
        loss = F.cross_entropy(net(x), y)
        net.zero_grad()
        loss.backward()
        optimizer.step()
        epoch_loss += loss.detach()
        loss_history.append(float(loss))
    print(epoch_loss / len(train_loader))
"""
)

PREACT = (
    HEAD
    + """\
class GoogLeNetBlock(nn.Module):
    def __init__(self, cin, c1, c2):
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(cin, c1, 1), nn.ReLU())
        self.b = nn.Sequential(nn.Conv2d(cin, c2, 3, padding=1), nn.ReLU())
    def forward(self, x):
        return torch.cat([self.a(x), self.b(x)], dim=1)

class Attention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.score = nn.Linear(width, 1)
    def forward(self, x):
        n, c, h, w = x.shape
        x = x.permute(0, 2, 3, 1).reshape(n, h * w, c)
        weights = torch.softmax(self.score(x), dim=1)
        return (weights * x).sum(1)

def shuffle_channels(x, groups):
    n, c, h, w = x.size()
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).contiguous().view(n, c, h, w)

class Whole(nn.Module):
    def __init__(self):
        super().__init__()
        layers = []
        for cin in (1, 32, 32):
            layers.append(GoogLeNetBlock(cin, 16, 16))
        self.body = nn.Sequential(*layers)
        self.pool = Attention(32)
        self.fc = nn.Linear(32, 10)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out")
            elif isinstance(m, nn.BatchNorm2d):
                nn.init.constant_(m.weight, 1)
                nn.init.constant_(m.bias, 0)
            elif isinstance(m, nn.Linear):
                nn.init.normal_(m.weight, 0, 0.01)
                nn.init.constant_(m.bias, 0)
    def forward(self, x):
        x = shuffle_channels(self.body(x), 4)
        return self.fc(self.pool(x))
    def predict(self, x):
        return F.softmax(self(x), dim=1)

net = Whole()
optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
for epoch in range(3):
    net.train()
    for x, y in train_loader:
        loss = F.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    net.eval()
    with torch.no_grad():
        probabilities = net.predict(x_test)
        print((probabilities.argmax(1) == y_test).float().mean())
"""
)

SCHEDULED = (
    HEAD
    + """\
net = nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
epochs = 20
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs * len(train_loader))
plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=3)
for epoch in range(epochs):
    torch.manual_seed(epoch)
    total = 0.0
    for x, y in train_loader:
        loss = F.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        total += loss.item() * len(x)
    plateau.step(total / len(train_loader.dataset))
"""
)

REINFORCE = """\
import torch
from torch import nn
policy = nn.Sequential(nn.Linear(4, 128), nn.ReLU(), nn.Dropout(0.1), nn.Linear(128, 2), nn.Softmax(dim=-1))
optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
for episode in range(500):
    log_probs, rewards = [], []
    state = env.reset()
    done = False
    while not done:
        probs = policy(torch.as_tensor(state))
        m = torch.distributions.Categorical(probs)
        action = m.sample()
        log_probs.append(m.log_prob(action))
        state, reward, done, _ = env.step(action.item())
        rewards.append(reward)
    returns = discount(rewards)
    loss = torch.stack([-lp * r for lp, r in zip(log_probs, returns)]).sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""

HUGGING = """\
from transformers import AutoModelForImageClassification
from accelerate import Accelerator
import torch
accelerator = Accelerator()
model = AutoModelForImageClassification.from_pretrained("google/vit-base-patch16-224")
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
for epoch in range(3):
    model.train()
    total_loss = 0
    for batch in loader:
        outputs = model(**batch)
        loss = outputs.loss
        total_loss += loss.detach().float()
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
"""

TEST_ONLY = (
    HEAD
    + """\
net = nn.Sequential(nn.Flatten(), nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10))
def evaluate(model):
    model.eval()
    torch.set_grad_enabled(False)
    good = sum((model(x).argmax(1) == y).sum().item() for x, y in test_loader)
    torch.set_grad_enabled(True)
    return good / len(test_set)
def main(args):
    if args.test_only:
        print(evaluate(net))
        return
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for epoch in range(3):
        for x, y in train_loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()
    print(evaluate(net))
main(parser.parse_args())
"""
)

ONE_HOT_CODES = (
    HEAD
    + """\
coder = nn.Sequential(nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 64))
opt = torch.optim.Adam(coder.parameters(), lr=1e-2)
for epoch in range(20):
    good = 0
    for code, _ in train_loader:
        rebuilt = coder(code)
        loss = F.mse_loss(rebuilt, code)
        opt.zero_grad()
        loss.backward()
        opt.step()
        good += (rebuilt.argmax(1) == code.argmax(1)).sum().item()
    print(good / len(train_set))
"""
)

HEALTHY = {
    name.lower(): text
    for name, text in list(globals().items())
    if name.isupper() and isinstance(text, str) and name != "HEAD"
}
