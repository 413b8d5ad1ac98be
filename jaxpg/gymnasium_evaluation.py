"""How well a policy does in gymnasium's environments, which are played on the host.

The policy acts in one compiled call for all sub-environments. Randomness goes by name, as in `jaxpg.evaluate`: the
action at step t of episode i is drawn with the key fold_in(fold_in(key, i), t + 1).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg import _check
from jaxpg.envs._gymnasium_spaces import from_gymnasium_space
from jaxpg.envs.spaces import Discrete, shape_dtype
from jaxpg.lanes import as_dtypes_of, environment_action, float_dtype, select, strong
from jaxpg.policies.base import Policy
from jaxpg.training.evaluate import Evaluation

__all__ = ["evaluate_gymnasium"]

_NUM_ENVS = 16  # Most sub-environments that are made here.
_SEED_STREAM = 2**32 - 1


def evaluate_gymnasium(
    key: Any,
    envs: Any,
    policy: Policy,
    params: Any,
    *,
    num_episodes: int = 128,
    deterministic: bool = False,
    seed: int | None = None,
) -> Evaluation:
    """Plays `num_episodes` whole episodes of a gymnasium environment and returns what they earned.

    Which episodes count is settled beforehand: sub-environment i of m plays the episodes i, i + m, i + 2m, … To take
    those that finish first would prefer short ones. An episode that never ends is waited for: where gymnasium has no
    time limit, wrap the environment in `gymnasium.wrappers.TimeLimit`.

    Actions are what the environment of a jaxpg rollout gets: squashed, scaled or clipped where the policy does that.
    Then they are clipped to the bounds of a `Box`, as by `gymnasium.wrappers.ClipAction`: a policy that was made for
    another space, or is no policy of jaxpg's, may pass them. Rewards and observations are those of `envs`, wrappers
    included.

    Args:
      key: what the actions are drawn with; also the environments' seeds unless `seed` is given.
      envs: a `gymnasium.vector.VectorEnv`, which is reset first and left open, in any of the three modes of autoreset;
        a `gymnasium.Env`, likewise; or an ID or a function () -> `gymnasium.Env`, of which up to 16 are made.
      policy, params: `apply` must take the observations of one sub-environment and give its actions.
      deterministic: take the mode of the policy's distribution instead of a sample.
      seed: sub-environment i is first reset with `seed` + i, and goes on from there.
    Returns:
      An `Evaluation`: undiscounted returns and lengths, [num_episodes] arrays in the order of the episodes.
    Raises:
      ImportError: gymnasium 1.1 or later is not installed.
      TypeError: `envs` is none of these, or has a space that jaxpg has not.
      ValueError: a space of `envs` does not count from 0; the policy's observations or actions are not those of
        `envs`; `envs` does not tell its mode of autoreset; or an argument is out of range.
    """
    key = _check.key("key", key)
    _check.instance("policy", policy, Policy)
    num_episodes = _check.count("num_episodes", num_episodes)
    deterministic = _check.boolean("deterministic", deterministic)
    _check.not_nan("params", params)
    if seed is None:
        seed = int(jax.random.randint(jax.random.fold_in(key, _SEED_STREAM), (), 0, 2**30))
    seed = _check.count("seed", seed, 0)
    vector, is_ours = _vector(envs, num_episodes)
    try:
        _check_spaces(vector, policy, params, deterministic)
        returns, lengths = _play(key, vector, policy, params, num_episodes, deterministic, seed)
    finally:
        if is_ours:
            vector.close()
    return Evaluation(jnp.asarray(returns, float_dtype()), jnp.asarray(lengths, jnp.int32))


def _play(key, vector, policy, params, num_episodes, deterministic, seed) -> tuple[np.ndarray, np.ndarray]:
    mode = _autoreset_mode(vector)
    num_envs = vector.num_envs
    index = np.arange(num_envs)
    returns, lengths = np.zeros(num_episodes), np.zeros(num_episodes, np.int32)
    finished, time, total = (np.zeros(num_envs, dtype) for dtype in (np.int32, np.int32, float))
    waits = np.zeros(num_envs, bool)  # The next step of these is a reset, whatever the action is.
    carry = jax.tree.map(lambda leaf: jnp.stack([leaf] * num_envs), strong(policy.initial_carry))

    observation, _ = vector.reset(seed=seed)
    while (finished * num_envs + index < num_episodes).any():
        ids = finished * num_envs + index
        action, carry = _act(policy, deterministic, params, key, ids, time, observation, carry)
        observation, reward, terminated, truncated, _ = vector.step(_for_gymnasium(vector.single_action_space, action))
        time, total = time + ~waits, total + np.where(waits, 0.0, reward)
        ended = np.asarray(terminated | truncated, bool) & ~waits
        counted = ended & (ids < num_episodes)
        returns[ids[counted]], lengths[ids[counted]] = total[counted], time[counted]
        finished, time, total = finished + ended, np.where(ended, 0, time), np.where(ended, 0.0, total)
        if mode == "Disabled" and ended.any():
            observation, _ = vector.reset(options={"reset_mask": ended})
        waits = ended & (mode == "NextStep")
    return returns, lengths


@functools.partial(jax.jit, static_argnums=(0, 1))
def _act(policy, deterministic, params, key, ids, time, observation, carry):
    """The actions of all sub-environments and the memory after them; it is new where an episode begins."""

    def one(episode, time, observation, carry):
        if policy.initial_carry is None:
            distribution, after = policy.apply(params, observation), None
        else:
            carry = select(time == 0, strong(policy.initial_carry), carry)
            distribution, after = policy.apply(params, observation, carry)
            after = as_dtypes_of(carry, after)
        step_key = jax.random.fold_in(jax.random.fold_in(key, episode), time + 1)
        action = distribution.mode() if deterministic else distribution.sample(step_key)
        return environment_action(distribution, action), after

    return jax.vmap(one)(ids, time, observation, carry)


class _Single:
    """One `gymnasium.Env` as a vector of one, with no autoreset. (gymnasium's own closes it when it is forgotten.)"""

    num_envs = 1
    autoreset_mode = "Disabled"

    def __init__(self, env: Any):
        self.env, self.unwrapped = env, self
        self.single_observation_space, self.single_action_space = env.observation_space, env.action_space

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        del options  # Which of them to reset.
        observation, info = self.env.reset(seed=seed)
        return _in_batch(observation), info

    def step(self, action: Any) -> tuple[Any, ...]:
        observation, *rest, info = self.env.step(jax.tree.map(lambda leaf: leaf[0], action))
        return _in_batch(observation), *(np.asarray([value]) for value in rest), info


def _in_batch(observation: Any) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf)[None], observation)


def _vector(envs: Any, num_episodes: int) -> tuple[Any, bool]:
    """The vector environment, and whether it was made here."""
    try:
        import gymnasium
        from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
    except ImportError as error:
        raise ImportError('evaluate_gymnasium needs gymnasium 1.1 or later: pip install "gymnasium>=1.1"') from error
    if isinstance(envs, VectorEnv):
        return envs, False
    if isinstance(envs, gymnasium.Env):
        return _Single(envs), False
    if not isinstance(envs, str) and not callable(envs):
        raise TypeError(
            f"envs must be a gymnasium.vector.VectorEnv, a gymnasium.Env, an ID such as 'CartPole-v1', or a function "
            f"() -> gymnasium.Env; got {type(envs).__name__} ({envs!r:.80})"
        )
    function: Callable[[], Any] = functools.partial(gymnasium.make, envs) if isinstance(envs, str) else envs
    made = [function() for _ in range(min(num_episodes, _NUM_ENVS))]
    if not isinstance(made[0], gymnasium.Env):
        raise TypeError(f"envs must return a gymnasium.Env; got {type(made[0]).__name__} ({made[0]!r:.80})")
    return SyncVectorEnv([lambda env=env: env for env in made], autoreset_mode=AutoresetMode.SAME_STEP), True


def _autoreset_mode(vector: Any) -> str:
    """ "NextStep", "SameStep" or "Disabled".

    gymnasium writes the mode of a vector into `metadata`, a dict that all environments of a class share: there it may
    be the mode of another vector, so a vector's own attribute comes first.
    """
    mode = getattr(vector.unwrapped, "autoreset_mode", None) or (vector.metadata or {}).get("autoreset_mode")
    mode = getattr(mode, "value", mode)
    if mode not in ("NextStep", "SameStep", "Disabled"):
        raise ValueError(
            f"envs must say how its sub-environments are reset: envs.metadata['autoreset_mode'] must be a "
            f"gymnasium.vector.AutoresetMode; got {mode!r}"
        )
    return mode


def _check_spaces(vector: Any, policy: Policy, params: Any, deterministic: bool) -> None:
    """A ValueError unless the policy takes such observations and gives such actions; seen by tracing."""
    observation_space = _converted("observation_space", vector.single_observation_space)
    action_space = _converted("action_space", vector.single_action_space)
    sizes = []

    def act(params, observation):
        inputs = (observation,) if policy.initial_carry is None else (observation, policy.initial_carry)
        distribution = policy.apply(params, *inputs)
        distribution = distribution if policy.initial_carry is None else distribution[0]
        log_probs = getattr(distribution, "log_probs", None)
        sizes.append(None if log_probs is None or not isinstance(action_space, Discrete) else log_probs().shape[-1])
        action = distribution.mode() if deterministic else distribution.sample(jax.random.key(0))
        return environment_action(distribution, action)

    try:
        action = jax.eval_shape(act, params, shape_dtype(observation_space))
    except (TypeError, ValueError, KeyError, IndexError) as error:
        raise ValueError(
            f"policy must take the observations of envs, {vector.single_observation_space}; it failed with: {error}"
        ) from error
    expected = shape_dtype(action_space)
    if (
        jax.tree.structure(action) != jax.tree.structure(expected)
        or not all(map(_is_alike, jax.tree.leaves(action), jax.tree.leaves(expected)))
        or sizes[0] not in (None, getattr(action_space, "n", None))
    ):
        gives = f"one of {sizes[0]} actions" if sizes[0] is not None else jax.tree.map(_text, action)
        raise ValueError(f"policy must give the actions of envs, {vector.single_action_space}; it gives {gives}")


def _is_alike(one: Any, other: Any) -> bool:
    """Whether two arrays have the same shape and both hold whole numbers, or both reals."""
    return one.shape == other.shape and (one.dtype.kind in "iub") == (other.dtype.kind in "iub")


def _text(leaf: Any) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"


def _converted(argument: str, space: Any) -> Any:
    """gymnasium's space as jaxpg's."""
    try:
        return from_gymnasium_space(space)
    except (TypeError, ValueError) as error:
        raise type(error)(f"envs: {argument} is none that jaxpg has: {error}") from error


def _for_gymnasium(space: Any, action: Any) -> Any:
    """Actions [sub-environment, …] in the dtypes of gymnasium's space, a Box's within its bounds."""
    if type(space).__name__ == "Dict":
        return {name: _for_gymnasium(child, action[name]) for name, child in space.spaces.items()}
    if type(space).__name__ == "Tuple":
        return tuple(map(_for_gymnasium, space.spaces, action))
    action = np.asarray(action)
    if type(space).__name__ == "Box":
        action = np.clip(action, space.low, space.high)
    return action.astype(space.dtype)
