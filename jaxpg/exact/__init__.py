"""The truth to hold estimators against: problems whose return, gradient and estimator covariances are known exactly."""

from jaxpg.exact.finite_mdp import FiniteMDP

__all__ = ["FiniteMDP"]
