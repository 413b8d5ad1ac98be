"""Environments (s, a, r and P): two pure functions and two spaces, by name from gymnax or your own."""

from jaxpg.envs.base import Environment, Timestep
from jaxpg.envs.gymnax import from_gymnax
from jaxpg.envs.registry import available, make
from jaxpg.envs.spaces import Box, Discrete, MultiDiscrete

__all__ = ["Box", "Discrete", "Environment", "MultiDiscrete", "Timestep", "available", "from_gymnax", "make"]
