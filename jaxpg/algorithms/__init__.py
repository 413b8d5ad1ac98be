"""Algorithms: pairs of pure functions, a file each; `presets` has hyperparameters for named environments."""

from jaxpg.algorithms import presets as presets
