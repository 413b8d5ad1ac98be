"""How many lanes, rows and episodes a packed rollout holds at once: the static sizes of its buffers."""

from typing import Any, NamedTuple

import jax
import numpy as np

from jaxpg.envs.base import Environment

__all__ = ["Plan", "default", "make_plan", "require_max_steps", "row_bytes", "worst_rows"]

# Per backend: lanes (about what keeps one row of activations in the cache, or fills the chip), steps of a block of the
# backward pass, rows of a minibatch whose gradient is taken at once, bytes of the step buffers, and the same where
# whole groups of episodes must be held. Within `least_bytes` all of a CPU's step buffers stay in its second cache; more
# is taken where full lanes need it.
DEFAULTS = {
    "cpu": {
        "num_lanes": 256,
        "block_size": 256,
        "minibatch_rows": 1024,
        "least_bytes": 6 * 2**20,
        "buffer_bytes": 24 * 2**20,
        "group_bytes": 256 * 2**20,
    },
    "gpu": {
        "num_lanes": 32_768,
        "block_size": 65_536,
        "minibatch_rows": 2**31,
        "least_bytes": 4 * 2**30,
        "buffer_bytes": 4 * 2**30,
        "group_bytes": 4 * 2**30,
    },
    "tpu": {
        "num_lanes": 16_384,
        "block_size": 32_768,
        "minibatch_rows": 2**31,
        "least_bytes": 2 * 2**30,
        "buffer_bytes": 2 * 2**30,
        "group_bytes": 2 * 2**30,
    },
}
MAX_SLOTS = 65_536  # Episodes of one buffer where nothing asks for fewer; each costs 16 bytes of statistics.


class Plan(NamedTuple):
    """Static sizes.

    Fields:
      num_lanes: episodes played side by side.
      num_rows: rows of the step buffers.
      max_slots: most episodes started in one buffer.
      chunk: where baselines need whole groups in the buffer: the episodes of one, else None.
      block_size: steps of one block of the backward pass.
    """

    num_lanes: int
    num_rows: int
    max_slots: int
    chunk: int | None
    block_size: int


def default(option: str) -> int:
    """The backend's default for `option`."""
    return DEFAULTS.get(jax.default_backend(), DEFAULTS["gpu"])[option]


def row_bytes(row: Any) -> int:
    """Bytes that one lane's row takes in the buffers: `row` as shapes and dtypes, and the weight and packed index."""
    return 8 + sum(int(np.prod(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(row))


def require_max_steps(env: Environment) -> int:
    """The episode limit, or an error that says how to give one."""
    if env.max_steps is None:
        raise ValueError(
            f"env ({env.name}) has no episode limit: whole episodes cannot be played for sure. Give it one, "
            f"dataclasses.replace(env, max_steps=…) or jaxpg.make(name, max_steps=…)"
        )
    return env.max_steps


def make_plan(
    env: Environment,
    *,
    num_episodes: int,
    bytes_per_row: int,
    final_rows: bool,
    group_size: int | None,
    whole_groups: bool,
    chunk_size: int | None,
    num_lanes: int | None,
    block_size: int | None,
    buffer_bytes: int | None,
) -> Plan:
    """The sizes for `num_episodes` episodes.

    The buffers hold at most `buffer_bytes` (at least one longest episode). Episodes that they cut short are played
    again from their keys in the next buffer, so nothing is lost and rows for the worst case are not needed, unless
    `whole_groups`: then all episodes of a chunk have to be there at once.
    """
    longest = require_max_steps(env) + final_rows
    if whole_groups:
        budget = buffer_bytes or default("group_bytes")
    else:
        full_lanes = (num_lanes or default("num_lanes")) * longest * bytes_per_row
        budget = buffer_bytes or min(max(full_lanes, default("least_bytes")), default("buffer_bytes"))
    rows_in_budget = max(budget // bytes_per_row, 1)  # Of one lane.
    if rows_in_budget < longest:
        needed = longest * bytes_per_row
        raise ValueError(f"buffer_bytes must hold one longest episode of {env.name}, {needed:,} bytes; got {budget:,}")
    wanted_lanes = num_lanes or default("num_lanes")
    lanes = max(min(wanted_lanes, num_episodes, chunk_size or num_episodes, rows_in_budget // longest), 1)

    if not whole_groups:
        slots = min(chunk_size or MAX_SLOTS, num_episodes)
        slots = max(slots, lanes)
        rows = min(worst_rows(slots, lanes, longest), rows_in_budget // lanes // longest * longest)
        return Plan(lanes, rows, slots, None, min(block_size or default("block_size"), rows * lanes))

    chunk = chunk_size or _largest_chunk(num_episodes, lanes, longest, rows_in_budget, group_size)
    if group_size is not None:
        chunk = max(chunk // group_size, 1) * group_size
    slots = min(chunk + 1, num_episodes)  # A remainder of one episode joins the last chunk.
    lanes = min(lanes, slots)
    rows = worst_rows(slots, lanes, longest)
    if rows * lanes * bytes_per_row > budget and slots > 1:
        raise ValueError(
            f"{'group_size' if group_size else 'chunk_size'}: this baseline is made of a group's other episodes, which "
            f"must be in memory together; {slots} episodes of {env.name} take up to {rows * lanes * bytes_per_row:,} "
            f"bytes, buffer_bytes is {budget:,}. Give a smaller group_size or chunk_size, or a larger buffer_bytes"
        )
    return Plan(lanes, rows, slots, min(chunk, num_episodes), min(block_size or default("block_size"), rows * lanes))


def worst_rows(slots: int, lanes: int, longest: int) -> int:
    """Rows that `slots` episodes fill at most: the last one starts when all lanes have been busy with the others."""
    if slots % lanes == 0 and slots // lanes == 1:
        return longest
    return (slots - 1) * longest // lanes + longest


def _largest_chunk(num_episodes: int, lanes: int, longest: int, rows_in_budget: int, group_size: int | None) -> int:
    """Up to 4,096 episodes, or as many as the budget holds whatever their lengths."""
    chunk = min(num_episodes, max(group_size or 0, 4096))
    while chunk > 2 and worst_rows(chunk + 1, min(lanes, chunk + 1), longest) * min(lanes, chunk + 1) > rows_in_budget:
        chunk = chunk // 2
    return max(chunk, group_size or 1)
