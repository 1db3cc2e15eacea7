"""quickstart-sklearn: model, data and parameters."""

from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression


def site_file(context):
    """The site's own file: its worker says where, or `flwr run` how many of a folder's it is."""
    node = context.node_config
    simulated = f"{context.run_config['data-path']}/site-{node['partition-id'] + 1}"
    (file,) = Path(node.get("data-path", simulated)).glob("*.csv")
    return file


def load_data(context):
    """The site's own file, four fifths of it to train on; what is changed in this app is this function."""
    file = site_file(context)
    table = np.loadtxt(file, delimiter=",", skiprows=1)
    X, y = table[:, :-1], table[:, -1]
    split = len(X) * 4 // 5
    return X[:split], X[split:], y[:split], y[split:]


def get_model(penalty: str, local_epochs: int):
    """A model that goes on from its parameters."""
    return LogisticRegression(penalty=penalty, max_iter=local_epochs, warm_start=True)


def get_model_params(model):
    """The parameters as a list of arrays."""
    return [model.coef_, model.intercept_] if model.fit_intercept else [model.coef_]


def set_model_params(model, params):
    """Put a list of arrays in their place."""
    model.coef_ = params[0]
    if model.fit_intercept:
        model.intercept_ = params[1]
    return model


def set_initial_params(model):
    """scikit-learn makes them in ``fit`` alone, and the server asks before."""
    model.classes_ = np.array([0, 1])
    model.coef_ = np.zeros((1, 4))
    if model.fit_intercept:
        model.intercept_ = np.zeros((1,))
