"""Policies π_θ(a | s) and critics V_φ(s), pure functions: networks, also with memory, tables,
linear feedback, or your own library's.
"""

from jaxpg.policies import distributions
from jaxpg.policies.adapters import from_network, value_from_network
from jaxpg.policies.base import Critic, Policy
from jaxpg.policies.closed_form import linear_gaussian, tabular, value_tabular
from jaxpg.policies.description import from_description
from jaxpg.policies.distributions import (
    Bernoulli,
    Beta,
    Categorical,
    DiagonalNormal,
    Joint,
    MultiDiscrete,
    TanhNormal,
    WithValue,
    to_environment,
)
from jaxpg.policies.features import feature_size, features
from jaxpg.policies.heads import head, head_size
from jaxpg.policies.networks import cnn, mlp, value_cnn, value_mlp
from jaxpg.policies.normalization import normalized
from jaxpg.policies.recurrent import recurrent, value_recurrent

__all__ = [
    "Bernoulli",
    "Beta",
    "Categorical",
    "Critic",
    "DiagonalNormal",
    "Joint",
    "MultiDiscrete",
    "Policy",
    "TanhNormal",
    "WithValue",
    "cnn",
    "distributions",
    "feature_size",
    "features",
    "from_description",
    "from_network",
    "head",
    "head_size",
    "linear_gaussian",
    "mlp",
    "normalized",
    "recurrent",
    "tabular",
    "to_environment",
    "value_cnn",
    "value_from_network",
    "value_mlp",
    "value_recurrent",
    "value_tabular",
]
