"""The truth to hold estimators against: problems whose return, gradient and estimator covariances are known exactly."""

from jaxpg.exact.finite_mdp import FiniteMDP
from jaxpg.exact.lqr import LQR
from jaxpg.exact.quadratic import Quadratic
from jaxpg.exact.recursion import Coefficients, Recursion, generic

__all__ = ["Coefficients", "FiniteMDP", "LQR", "Quadratic", "Recursion", "generic"]
