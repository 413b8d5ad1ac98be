"""Statistics for runs of reinforcement learning: robust aggregates, stratified bootstrap intervals, comparisons.

The definitions are those of Agarwal et al. (2021), "Deep Reinforcement Learning at the Edge of the Statistical
Precipice", and of their library rliable. Scores are numpy arrays or `xarray.DataArray`s, and what comes in comes back:
a DataArray keeps the dimensions that are left and their coordinates. `dim` is the dimension of the runs: a name, or an
axis of an array; `task_dim` that of the tasks. docs/statistics.md says which statistic is for what, and how often the
intervals cover the truth.
"""

from jaxpg.stats._bootstrap import Interval
from jaxpg.stats.aggregate import interval, iqm, normalize, optimality_gap
from jaxpg.stats.comparison import improvement_interval, performance_profile, probability_of_improvement

__all__ = [
    "Interval",
    "improvement_interval",
    "interval",
    "iqm",
    "normalize",
    "optimality_gap",
    "performance_profile",
    "probability_of_improvement",
]
