"""What sites may do besides training honestly, each by name: one small function each, to be combined at will.

Trust zone: the developer's machine. Scenarios, sweeps, benchmarks and users import it; it knows datasets and updates,
and of the aggregator the rules that an attack adapts to.

Rules: 1. Every function gives a :class:`~simulations.behaviour.Behaviour`, or several that belong together. 2. Who
behaves so comes first: a share of all sites, or their names. 3. What is random is drawn from the generator that a
behaviour is given, or from a seed: nothing is remembered from round to round. 4. Functions inside are partials of
functions of a module, so that every engine can carry them to another process.
"""

from simulations.behaviours.absence import dropouts, outages
from simulations.behaviours.backdoor import Patch, backdoor, constants
from simulations.behaviours.churn import churn, joining, leaving
from simulations.behaviours.collusion import a_little, against_mean, around_krum
from simulations.behaviours.false_labels import label_flip, mislabel
from simulations.behaviours.false_updates import nan, noise, overweight, scaled, sign_flip
from simulations.behaviours.free_riders import idle, pretending, stale
from simulations.behaviours.pace import slow_links, stragglers

__all__ = [
    "Patch",
    "a_little",
    "against_mean",
    "around_krum",
    "backdoor",
    "churn",
    "constants",
    "dropouts",
    "idle",
    "joining",
    "label_flip",
    "leaving",
    "mislabel",
    "nan",
    "noise",
    "outages",
    "overweight",
    "pretending",
    "scaled",
    "sign_flip",
    "slow_links",
    "stale",
    "stragglers",
]
