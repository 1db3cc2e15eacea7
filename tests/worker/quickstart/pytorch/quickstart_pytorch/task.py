"""quickstart-pytorch: model, data, training and test."""

from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset


class Net(nn.Module):
    """A small network."""

    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(4, 12)
        self.fc2 = nn.Linear(12, 6)
        self.fc3 = nn.Linear(6, 2)

    def forward(self, x):
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


def site_file(context):
    """The site's own file: its worker says where, or `flwr run` how many of a folder's it is."""
    node = context.node_config
    simulated = f"{context.run_config['data-path']}/site-{node['partition-id'] + 1}"
    (file,) = Path(node.get("data-path", simulated)).glob("*.csv")
    return file


def load_data(context, batch_size: int):
    """The site's own file, four fifths of it to train on; what is changed in this app is this function."""
    file = site_file(context)
    table = np.loadtxt(file, delimiter=",", skiprows=1, dtype=np.float32)
    split = len(table) * 4 // 5
    sets = [
        TensorDataset(torch.tensor(t[:, :-1]), torch.tensor(t[:, -1]).long()) for t in (table[:split], table[split:])
    ]
    shuffled = torch.Generator().manual_seed(len(table))
    return DataLoader(sets[0], batch_size=batch_size, shuffle=True, generator=shuffled), DataLoader(sets[1], batch_size)


def train(net, trainloader, epochs, lr, device):
    """Train the model on the training set."""
    net.to(device)
    criterion = torch.nn.CrossEntropyLoss().to(device)
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    net.train()
    running_loss = 0.0
    for _ in range(epochs):
        for features, labels in trainloader:
            optimizer.zero_grad()
            loss = criterion(net(features.to(device)), labels.to(device))
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
    return running_loss / (epochs * len(trainloader))


def test(net, testloader, device):
    """Validate the model on the test set."""
    net.to(device)
    criterion = torch.nn.CrossEntropyLoss()
    correct, loss = 0, 0.0
    with torch.no_grad():
        for features, labels in testloader:
            outputs = net(features.to(device))
            loss += criterion(outputs, labels.to(device)).item()
            correct += (torch.max(outputs.data, 1)[1] == labels.to(device)).sum().item()
    return loss / len(testloader), correct / len(testloader.dataset)
