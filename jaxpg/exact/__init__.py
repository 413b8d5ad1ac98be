"""The truth to hold estimators against: problems whose return, gradient and estimator covariances are known exactly."""

from jaxpg.exact.finite_mdp import FiniteMDP
from jaxpg.exact.recursion import Coefficients, Recursion, generic

__all__ = ["Coefficients", "FiniteMDP", "Recursion", "generic"]
