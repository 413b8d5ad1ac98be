"""The truth to hold estimators against: problems whose return, gradient and estimator covariances are known exactly."""

from jaxpg.exact.enumeration import Trajectories, trajectories
from jaxpg.exact.families import bandit, chain, cliff, gridworld, random_mdp
from jaxpg.exact.finite_mdp import FiniteMDP
from jaxpg.exact.from_environment import enumerate_states, from_environment
from jaxpg.exact.lqr import LQR
from jaxpg.exact.optimal_baselines import optimal_baseline
from jaxpg.exact.quadratic import Quadratic
from jaxpg.exact.recursion import Coefficients, Recursion, generic
from jaxpg.exact.stored_episodes import every_episode

__all__ = [
    "LQR",
    "Coefficients",
    "FiniteMDP",
    "Quadratic",
    "Recursion",
    "Trajectories",
    "bandit",
    "chain",
    "cliff",
    "enumerate_states",
    "every_episode",
    "from_environment",
    "generic",
    "gridworld",
    "optimal_baseline",
    "random_mdp",
    "trajectories",
]
