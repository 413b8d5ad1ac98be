"""Estimators of one gradient side by side: their bias, variance, time and memory, each with its error.

    E‖ĝ − ∇J‖²  =  ‖E ĝ − ∇J‖²  +  tr Cov(ĝ)        (mean squared error = bias² + variance)

`jaxpg.compare` measures the three from replicates, `table` and `plot` show them.
"""

from jaxpg.comparison.contest import compare
from jaxpg.comparison.moments import GradientMoments, Truth, gradient_moments
from jaxpg.comparison.text import table
from jaxpg.plot.comparisons import plot

__all__ = ["GradientMoments", "Truth", "compare", "gradient_moments", "plot", "table"]
