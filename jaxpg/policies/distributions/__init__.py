"""Distributions over actions, π(· | s): frozen pytrees with `sample`, `log_prob`, `entropy`, `mode`, `kl_divergence`.

Each takes leading batch axes. The last axes of an action are its own: `log_prob`, `entropy` and `kl_divergence` sum
over them. `to_environment(action)` gives what to pass to `Environment.step` for an action drawn; only where a
distribution is bounded is that not the action itself. All but `Beta` also map uniform numbers to an action by the
inverse of their cumulative distribution, `from_uniforms(uniforms)` for `num_uniforms()` floats in (0, 1), which
antithetic and quasi-Monte Carlo sampling need. `WithValue` is any of them together with the value of the state.
"""

from jaxpg.policies.distributions.continuous import Beta, DiagonalNormal, TanhNormal
from jaxpg.policies.distributions.discrete import Bernoulli, Categorical, MultiDiscrete
from jaxpg.policies.distributions.joint import Joint, is_distribution, num_uniforms, to_environment
from jaxpg.policies.distributions.with_value import WithValue, without_value

__all__ = [
    "Bernoulli",
    "Beta",
    "Categorical",
    "DiagonalNormal",
    "Joint",
    "MultiDiscrete",
    "TanhNormal",
    "WithValue",
    "is_distribution",
    "num_uniforms",
    "to_environment",
    "without_value",
]
