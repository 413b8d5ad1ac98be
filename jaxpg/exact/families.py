"""Families of finite MDPs: random ones to average over, and the small classics."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg import _check
from jaxpg.exact.checks import float_array
from jaxpg.exact.finite_mdp import FiniteMDP

__all__ = ["bandit", "chain", "cliff", "gridworld", "random_mdp"]


def random_mdp(
    key: jax.Array,
    num_states: int,
    num_actions: int,
    *,
    discount: Any = 0.9,
    horizon: int | None = None,
    branching: int | None = None,
    num_terminal: int = 0,
) -> FiniteMDP:
    """A random MDP: rows of P and the initial distribution ~ Dirichlet(1, …, 1), rewards r(s, a) ~ N(0, 1).

    Args:
      key: a random key; map over keys with `jax.vmap` for many MDPs at once.
      branching: number of states that can follow each (s, a), drawn without replacement (the Garnet family of Archibald
        et al., 1995); None: all of them.
      num_terminal: the last so many states are terminal; the initial distribution is over the others.
    """
    key = _check.key("key", key)
    num_states, num_actions = _check.count("num_states", num_states), _check.count("num_actions", num_actions)
    num_terminal = _check.count("num_terminal", num_terminal, 0)
    branching = num_states if branching is None else _check.count("branching", branching)
    if branching > num_states:
        raise ValueError(f"branching must be at most num_states={num_states}; got {branching}")
    if num_terminal >= num_states:
        raise ValueError(f"num_terminal must be below num_states={num_states}; got {num_terminal}")
    dtype = jnp.result_type(float)
    mass_key, order_key, reward_key, initial_key = (jax.random.fold_in(key, i) for i in range(4))
    shape = (num_states, num_actions, num_states)
    # Dirichlet(1, …, 1) is a normalised vector of exponentials; a random order picks the states that can follow.
    mass = jax.random.exponential(mass_key, shape, dtype)
    rank = jnp.argsort(jnp.argsort(jax.random.uniform(order_key, shape), -1), -1)
    mass = jnp.where(rank < branching, mass, 0.0)
    terminal = np.arange(num_states) >= num_states - num_terminal
    initial = jnp.where(terminal, 0.0, jax.random.exponential(initial_key, (num_states,), dtype))
    return FiniteMDP(
        mass / jnp.sum(mass, -1, keepdims=True),
        jax.random.normal(reward_key, shape[:2], dtype),
        initial / jnp.sum(initial),
        discount=discount,
        horizon=horizon,
        terminal=terminal if num_terminal else None,
    )


def gridworld(
    layout: Sequence[str] = ("S...", ".H.H", "...H", "H..G"),
    *,
    slip: Any = 0.0,
    goal_reward: Any = 1.0,
    hole_reward: Any = 0.0,
    step_reward: Any = 0.0,
    discount: Any = 0.99,
    horizon: int | None = None,
) -> FiniteMDP:
    """A gridworld from text: S start, G goal and H hole (both terminal), # wall, . free.

    The states are the cells that are not walls, row by row. Actions 0, 1, 2, 3 move up, right, down, left; a move into
    a wall or off the grid stays. Several S are equally likely. The reward is that of the cell entered.

    Args:
      layout: rows of equal length.
      slip: probability that the move goes to one of the two sides instead, each half of it.
    """
    rows = tuple(layout)
    if not rows or len(set(map(len, rows))) != 1 or not rows[0]:
        raise ValueError(f"layout must hold rows of one length; got {layout!r}")
    unknown = set("".join(rows)) - set("SGH#.")
    if unknown or "S" not in "".join(rows):
        raise ValueError(f"layout must hold the characters S G H # . and at least one S; got {layout!r}")
    slip = _check.unit("slip", slip)
    cells = {(i, j): tile for i, row in enumerate(rows) for j, tile in enumerate(row) if tile != "#"}
    index = {cell: number for number, cell in enumerate(cells)}
    tiles = np.array(list(cells.values()))
    moves = np.zeros((len(cells), 4, len(cells)))
    for (i, j), state in index.items():
        for action, (down, right) in enumerate(((-1, 0), (0, 1), (1, 0), (0, -1))):
            moves[state, action, index.get((i + down, j + right), state)] = 1.0
    sideways = 0.5 * (np.roll(moves, 1, axis=1) + np.roll(moves, -1, axis=1))
    entered = jnp.where(tiles == "G", goal_reward, jnp.where(tiles == "H", hole_reward, step_reward))
    start, terminal = tiles == "S", np.isin(tiles, ["G", "H"])
    return FiniteMDP(
        (1.0 - slip) * moves + slip * sideways,
        jnp.broadcast_to(entered, moves.shape),
        start / start.sum(),
        discount=discount,
        horizon=horizon,
        terminal=terminal if terminal.any() else None,
    )


def chain(
    num_states: int = 5,
    *,
    slip: Any = 0.2,
    small: Any = 2.0,
    large: Any = 10.0,
    discount: Any = 0.99,
    horizon: int | None = None,
) -> FiniteMDP:
    """The chain of Strens (2000): action 0 goes one state on, action 1 back to the first.

    Going on from the last state stays there and earns `large`; going back earns `small`; all else nothing. With
    probability `slip` the other action's move and reward happen.
    """
    num_states, slip = _check.count("num_states", num_states, 2), _check.unit("slip", slip)
    states = np.arange(num_states)
    moves = np.zeros((num_states, 2, num_states))
    moves[states, 0, np.minimum(states + 1, num_states - 1)] = 1.0
    moves[states, 1, 0] = 1.0
    # The move that happens is known from the state entered, so the reward is one of (s, s').
    reward = jnp.where(states[None, :] == 0, small, jnp.where(states[:, None] == num_states - 1, large, 0.0))
    return FiniteMDP(
        (1.0 - slip) * moves + slip * moves[:, ::-1],
        jnp.broadcast_to(reward[:, None, :], moves.shape),
        1.0 * (states == 0),
        discount=discount,
        horizon=horizon,
    )


def cliff(height: int = 4, width: int = 12, *, discount: Any = 0.99, horizon: int | None = None) -> FiniteMDP:
    """The cliff walk of Sutton & Barto (2018, example 6.6): −1 a step, −100 and back to the start for the cliff.

    States are cells row by row; the start is the last row's first cell, the goal its last, terminal, the cliff between
    them. Actions 0, 1, 2, 3 move up, right, down, left.
    """
    height, width = _check.count("height", height, 2), _check.count("width", width, 3)
    num_states, start = height * width, (height - 1) * width
    transition, reward = np.zeros((num_states, 4, num_states)), np.full((num_states, 4), -1.0)
    for state in range(num_states):
        for action, (down, right) in enumerate(((-1, 0), (0, 1), (1, 0), (0, -1))):
            row = min(max(state // width + down, 0), height - 1)
            column = min(max(state % width + right, 0), width - 1)
            following = row * width + column
            if start < following < num_states - 1:
                following, reward[state, action] = start, -100.0
            transition[state, action, following] = 1.0
    states = np.arange(num_states)
    return FiniteMDP(
        transition,
        reward,
        1.0 * (states == start),
        discount=discount,
        horizon=horizon,
        terminal=states == num_states - 1,
    )


def bandit(means: Any, *, bernoulli: bool = False) -> FiniteMDP:
    """A bandit: one state, one step, reward means[a].

    Args:
      means: [A].
      bernoulli: the reward is 1 with probability means[a], else 0; the states are then 0, and the terminal 1 (lost) and
        2 (won).
    """
    means = float_array("means", means, jnp.result_type(float))
    if means.ndim != 1 or not means.shape[0]:
        raise ValueError(f"means must have shape [A]; got {means.shape}")
    if not bernoulli:
        return FiniteMDP(jnp.ones((1, means.shape[0], 1)), means[None], jnp.ones(1), discount=1.0, horizon=1)
    if _check.is_concrete(means) and not ((np.asarray(means) >= 0) & (np.asarray(means) <= 1)).all():
        raise ValueError(f"means must be probabilities where bernoulli is True; got {means}")
    row = jnp.stack([jnp.zeros_like(means), 1.0 - means, means], -1)
    won = jnp.broadcast_to(jnp.array([0.0, 0.0, 1.0]), (3, means.shape[0], 3))
    return FiniteMDP(
        jnp.broadcast_to(row, won.shape),
        won,
        np.array([1.0, 0.0, 0.0]),
        discount=1.0,
        horizon=1,
        terminal=np.array([False, True, True]),
    )
