"""The host's side of runs: train, evaluate, save, log, replay."""

from jaxpg.training import checkpoints as checkpoints
from jaxpg.training import loggers as loggers
