"""
Deep Learning, Assignment 4: Convolutional Network
Fill in the functions marked GRADED. Examples are columns: X has shape (784, m), Y has shape (1, m).
"""
import math
import os

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

np.random.seed(1)
torch.manual_seed(1)
torch.set_num_threads(1)


def load_dataset():
    h = np.load(os.environ["DOCTOR_DATA"])
    X_train_orig, Y_train_orig = h["x_train"], h["y_train"]
    X_test_orig, Y_test_orig = h["x_test"], h["y_test"]
    # flatten: every column is one picture
    X_train = X_train_orig.reshape(X_train_orig.shape[0], -1).T / 255.0
    X_test = X_test_orig.reshape(X_test_orig.shape[0], -1).T / 255.0
    return (X_train.astype(np.float32), Y_train_orig.reshape(1, -1),
            X_test.astype(np.float32), Y_test_orig.reshape(1, -1))


# GRADED FUNCTION: random_mini_batches
def random_mini_batches(X, Y, mini_batch_size=64, seed=0):
    m = X.shape[1]
    rng = np.random.RandomState(seed)
    permutation = rng.permutation(m)
    shuffled_X, shuffled_Y = X[:, permutation], Y[:, permutation]
    out = []
    for k in range(math.ceil(m / mini_batch_size)):
        s = slice(k * mini_batch_size, (k + 1) * mini_batch_size)
        out.append((torch.tensor(shuffled_X[:, s]), torch.tensor(shuffled_Y[0, s]).long()))
    return out


# GRADED CLASS: forward propagation
class ConvModel(nn.Module):
    """CONV -> RELU -> MAXPOOL -> CONV -> RELU -> MAXPOOL -> FC -> RELU -> FC"""

    def __init__(self):
        super().__init__()
        self.W1 = nn.Conv2d(1, 16, 5, padding=2)
        self.W2 = nn.Conv2d(16, 32, 3, padding=1)
        self.W3 = nn.Linear(32 * 7 * 7, 64)
        self.W4 = nn.Linear(64, 10)

    def forward(self, X):
        A0 = X.t().reshape(-1, 1, 28, 28)
        A1 = F.relu(self.W1(A0))
        P1 = F.max_pool2d(A1, 2)
        A2 = F.relu(self.W2(P1))
        P2 = F.max_pool2d(A2, 2)
        A3 = F.relu(self.W3(P2.flatten(1)))
        Z4 = self.W4(A3)
        return Z4


# GRADED FUNCTION: initialize_parameters
def initialize_parameters(layer):
    if isinstance(layer, (nn.Conv2d, nn.Linear)):
        nn.init.kaiming_normal_(layer.weight)
        nn.init.zeros_(layer.bias)


# GRADED FUNCTION: compute_cost
def compute_cost(Z, Y):
    return F.cross_entropy(Z, Y)


def model(X_train, Y_train, learning_rate=0.2, num_epochs=10, minibatch_size=64, print_cost=True):
    net = ConvModel()
    net.apply(initialize_parameters)
    optimizer = torch.optim.SGD(net.parameters(), lr=learning_rate, momentum=0.9)
    costs, seed = [], 3
    for epoch in range(num_epochs):
        minibatch_cost = 0.0
        seed = seed + 1
        minibatches = random_mini_batches(X_train, Y_train, minibatch_size, seed)
        for minibatch_X, minibatch_Y in minibatches:
            Z = net(minibatch_X)
            cost = compute_cost(Z, minibatch_Y)
            optimizer.zero_grad()
            cost.backward()
            optimizer.step()
            minibatch_cost += cost.item() / len(minibatches)
        if print_cost:
            print("Cost after epoch %i: %f" % (epoch, minibatch_cost))
        costs.append(minibatch_cost)
    return net, costs


# GRADED FUNCTION: predict
def predict(net, X):
    with torch.no_grad():
        return net(torch.tensor(X)).argmax(dim=1).numpy()


X_train, Y_train, X_test, Y_test = load_dataset()
print("number of training examples =", X_train.shape[1])
print("X_train shape:", X_train.shape, " Y_train shape:", Y_train.shape)
parameters, costs = model(X_train, Y_train)
print("Train Accuracy:", np.mean(predict(parameters, X_train) == Y_train[0]))
print("Test Accuracy:", np.mean(predict(parameters, X_test) == Y_test[0]))
