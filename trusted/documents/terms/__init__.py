"""The terms of a plan, one file for each object inside it (docs/protocol.md §2). Trust zone: every TEE.

Each ``read`` refuses what is out of bounds, whoever signed it; the bounds stop a plan that no enclave could carry out.
"""

from trusted.documents.terms.aggregation import MAX_COMPARED, MAX_EXCHANGES, MAX_WEIGHT, Aggregation, Rule
from trusted.documents.terms.app import App, AppKind, Change, Scalar
from trusted.documents.terms.cohort import MAX_COHORT, MAX_DEADLINE_S, Cohort, Deadlines
from trusted.documents.terms.columns import ColumnRule, ColumnType, Missing
from trusted.documents.terms.dataset import MAX_ROWS, Consent, DatasetContract, read_columns
from trusted.documents.terms.evaluation import Audit, Evaluation, Label, Subgroup
from trusted.documents.terms.exchange import Exchange
from trusted.documents.terms.metrics import MetricRule
from trusted.documents.terms.privacy import Budget, DpSgd, Mechanism, MemberClipping, Privacy, Unit
from trusted.documents.terms.server import Optimizer, ServerOptimizer

__all__ = [
    "MAX_COHORT",
    "MAX_COMPARED",
    "MAX_DEADLINE_S",
    "MAX_EXCHANGES",
    "MAX_ROWS",
    "MAX_WEIGHT",
    "Aggregation",
    "App",
    "AppKind",
    "Audit",
    "Budget",
    "Change",
    "Cohort",
    "ColumnRule",
    "ColumnType",
    "Consent",
    "DatasetContract",
    "Deadlines",
    "DpSgd",
    "Evaluation",
    "Exchange",
    "Label",
    "Mechanism",
    "MemberClipping",
    "MetricRule",
    "Missing",
    "Optimizer",
    "Privacy",
    "Rule",
    "Scalar",
    "ServerOptimizer",
    "Subgroup",
    "Unit",
    "read_columns",
]
