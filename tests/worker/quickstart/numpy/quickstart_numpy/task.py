"""quickstart-numpy: model, and data."""

from pathlib import Path

import numpy as np


def get_dummy_model():
    """A model of one number."""
    return [np.ones((1, 1))]


def site_file(context):
    """The site's own file: its worker says where, or `flwr run` how many of a folder's it is."""
    node = context.node_config
    simulated = f"{context.run_config['data-path']}/site-{node['partition-id'] + 1}"
    (file,) = Path(node.get("data-path", simulated)).glob("*.csv")
    return file


def load_data(context):
    """A generator that the site's own file seeds; what is changed in this app is where its random numbers come from."""
    file = site_file(context)
    return np.random.default_rng(len(file.read_text()))
