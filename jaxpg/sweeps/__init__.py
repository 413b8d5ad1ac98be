"""Large batched experiments: `jaxpg.sweep` and `jaxpg.plan`, and the settings that they take."""

from jaxpg.sweeps._params import RunParams
from jaxpg.sweeps.plan import Plan
from jaxpg.sweeps.points import (
    Points,
    Range,
    choice,
    grid,
    integers,
    log_uniform,
    random,
    samples,
    sobol,
    uniform,
)

__all__ = [
    "Plan",
    "Points",
    "Range",
    "RunParams",
    "choice",
    "grid",
    "integers",
    "log_uniform",
    "random",
    "samples",
    "sobol",
    "uniform",
]
