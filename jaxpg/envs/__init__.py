"""Environments (s, a, r and P): two pure functions and two spaces, by name from a suite or your own."""

from jaxpg.envs import wrappers
from jaxpg.envs.base import Environment, Timestep
from jaxpg.envs.brax import from_brax
from jaxpg.envs.conformance import Conformance, Finding, check_env
from jaxpg.envs.craftax import from_craftax
from jaxpg.envs.gymnax import from_gymnax
from jaxpg.envs.jumanji import from_jumanji
from jaxpg.envs.mujoco_playground import from_mujoco_playground
from jaxpg.envs.navix import from_navix
from jaxpg.envs.pgx import from_pgx
from jaxpg.envs.registry import available, make
from jaxpg.envs.spaces import Box, Discrete, MultiDiscrete
from jaxpg.envs.to_gymnasium import to_gymnasium, to_gymnasium_vector
from jaxpg.envs.to_gymnax import to_gymnax
from jaxpg.envs.xminigrid import from_xminigrid

__all__ = [
    "Box",
    "Conformance",
    "Discrete",
    "Environment",
    "Finding",
    "MultiDiscrete",
    "Timestep",
    "available",
    "check_env",
    "from_brax",
    "from_craftax",
    "from_gymnax",
    "from_jumanji",
    "from_mujoco_playground",
    "from_navix",
    "from_pgx",
    "from_xminigrid",
    "make",
    "to_gymnasium",
    "to_gymnasium_vector",
    "to_gymnax",
    "wrappers",
]
