"""Distributions over actions, π(· | s): frozen pytrees with `sample`, `log_prob`, `entropy`, `mode`, `kl_divergence`.

Each takes leading batch axes. The last axes of an action are its own: `log_prob`, `entropy` and `kl_divergence` sum
over them. `to_environment(action)` gives what to pass to `Environment.step` for an action drawn; only where a
distribution is bounded is that not the action itself.
"""

from jaxpg.policies.distributions.continuous import Beta, DiagonalNormal, TanhNormal
from jaxpg.policies.distributions.discrete import Bernoulli, Categorical, MultiDiscrete
from jaxpg.policies.distributions.joint import Joint, is_distribution, to_environment

__all__ = [
    "Bernoulli",
    "Beta",
    "Categorical",
    "DiagonalNormal",
    "Joint",
    "MultiDiscrete",
    "TanhNormal",
    "is_distribution",
    "to_environment",
]
