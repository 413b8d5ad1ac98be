"""Small parts of algorithms: optimisers, schedules, masked means, advantages, the scale of rewards, the guard."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxpg import _check, _compile
from jaxpg.envs.base import Environment
from jaxpg.lanes import Lanes, Trajectory, float_dtype
from jaxpg.policies.base import Critic, Policy
from jaxpg.policies.distributions.with_value import without_value
from jaxpg.returns import generalized_advantages

__all__ = ["Parameters", "RewardScale"]


class Parameters(NamedTuple):
    """All that optimisers change: the policy's parameters and the critic's, None where the policy holds its value."""

    policy: Any
    critic: Any


class RewardScale(NamedTuple):
    """The running scale of rewards: `running` [lane] is each lane's G ← γ G + r, 0 where an episode begins.

    `count`, `mean` and `m2` (the summed squared deviations) are of all G so far.
    """

    running: jax.Array
    count: jax.Array
    mean: jax.Array
    m2: jax.Array


MOST_COUNTED = 1e7  # Beyond it a float32 count would stall; the newest then weigh as much as if there had been so many.


def critic_for(env: Environment, policy: Policy, critic: Critic | None) -> Critic | None:
    """The critic given, or one like the policy, or None where the policy's own distributions hold the value."""
    _check.instance("policy", policy, Policy)
    if critic is not None:
        if policy.has_value:
            raise ValueError(
                "policy has a value of its own (shared_value=True); leave out the critic, or take another policy"
            )
        return _check.instance("critic", critic, Critic)
    if policy.has_value:
        return None
    if policy.critic is None:
        raise ValueError(
            "critic must be given with a policy of your own, for example critic=jaxpg.policies.value_mlp(env)"
        )
    return policy.critic()


class Descent(NamedTuple):
    """An optimiser and its learning rate: the change of the parameters is the optimiser's, times −rate(update).

    Fields:
      optimizer: an optax optimiser.
      rate: None: the optimiser has its own and its updates descend; else a function of the number of updates. It counts
        updates whatever happened in them: a schedule does not lag where gradient steps are left out or refused.
    """

    optimizer: Any
    rate: Callable[[jax.Array], Any] | None

    def init(self, parameters: Any) -> Any:
        """The optimiser's state."""
        return self.optimizer.init(parameters)

    def step(self, gradient: Any, state: Any, parameters: Any, update: jax.Array) -> tuple[Any, Any]:
        """(parameters, optimiser state) after one step down the gradient of a loss, in the update of this number."""
        changes, state = self.optimizer.update(gradient, state, parameters)
        if self.rate is not None:
            rate = self.rate(update)
            changes = jax.tree.map(lambda x: (-rate * x).astype(x.dtype), changes)
        return optax.apply_updates(parameters, changes), state


def make_descent(
    optimizer: Any,
    learning_rate: Any,
    max_gradient_norm: Any,
    trainable: Callable[[Any], Any] | None,
    eps: float = 1e-5,
) -> Descent:
    """An algorithm's way down: gradients are clipped by their global norm, then comes `optimizer`.

    Args:
      optimizer: an optax optimiser with a learning rate of its own; None: Adam.
      learning_rate: Adam's: a number, or a function of the number of updates (not of gradient steps).
      max_gradient_norm: None: no clipping.
      trainable: None, or params -> pytree of booleans, what may change.
      eps: Adam's.
    """
    rate = None
    if optimizer is None:
        optimizer, rate = optax.scale_by_adam(eps=eps), schedule("learning_rate", learning_rate)
    if max_gradient_norm is not None:
        optimizer = optax.chain(optax.clip_by_global_norm(max_gradient_norm), optimizer)
    if trainable is None:
        return Descent(optimizer, rate)
    # `masked` passes on the gradients of what it leaves out: they are set to 0, or they would be added to it.
    rest = optax.masked(optax.set_to_zero(), lambda params: jax.tree.map(lambda x: not x, trainable(params)))
    return Descent(optax.chain(optax.masked(optimizer, trainable), rest), rate)


def check_optimizer(optimizer: Any, learning_rate: Any, max_gradient_norm: Any) -> None:
    """Raises where these do not go together or are out of range."""
    _check.optional(_check.optimizer, "optimizer", optimizer)
    if optimizer is not None and learning_rate is not None:
        raise ValueError("give learning_rate or an optimizer, which has a learning rate of its own; got both")
    if learning_rate is not None:
        schedule("learning_rate", learning_rate)
    _check.optional(_check.positive, "max_gradient_norm", max_gradient_norm)


def schedule(argument: str, value: Any) -> Callable[[jax.Array], Any]:
    """`value`, a positive number or a function of the number of updates such as `optax.linear_schedule(…)`."""
    if callable(value):
        return value
    number = _check.positive(argument, value)
    return lambda update: number


def trainable_parameters(policy: Policy, critic: Critic | None) -> Callable[[Any], Any] | None:
    """`Parameters` -> pytree of booleans, or None where everything may change."""
    if policy.trainable is None and (critic is None or critic.trainable is None):
        return None

    def of(model: Policy | Critic | None, params: Any) -> Any:
        if model is None or model.trainable is None:
            return jax.tree.map(lambda _: True, params)
        return model.trainable(params)

    return lambda parameters: Parameters(of(policy, parameters.policy), of(critic, parameters.critic))


def observe(
    policy: Policy, critic: Critic | None, parameters: Parameters, observations: Any, valid: jax.Array
) -> Parameters:
    """The parameters with these observations counted into their statistics."""

    def of(model: Policy | Critic | None, params: Any) -> Any:
        return params if model is None or model.observe is None else model.observe(params, observations, valid)

    return Parameters(of(policy, parameters.policy), of(critic, parameters.critic))


def advantages(batch: Any, discount: Any, lambda_: Any) -> tuple[jax.Array, jax.Array]:
    """(A_t, V(s_t) + A_t): generalized advantages and the critic's targets, 0 and V in rows that are no steps."""
    estimates = generalized_advantages(
        batch.reward, batch.value, batch.next_value, batch.terminated, batch.truncated, discount, lambda_
    )
    estimates = jnp.where(batch.valid, estimates, 0.0)
    return estimates, batch.value + estimates


def global_norm(tree: Any) -> jax.Array:
    """√Σ x² over all leaves."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(tree)))


def sum_where(mask: jax.Array, values: jax.Array) -> jax.Array:
    """The sum over entries for which `mask` holds."""
    return jnp.sum(jnp.where(mask, values, 0))


def mean_where(mask: jax.Array, values: jax.Array) -> jax.Array:
    """The mean over entries for which `mask` holds; NaN if there are none, with a gradient of 0."""
    count = jnp.sum(mask)
    mean = sum_where(mask, values) / jnp.maximum(count, 1)
    return jnp.where(count > 0, mean, jnp.nan)


def moments(values: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(mean, standard deviation) over the entries for which `mask` holds, 0 if there are none."""
    count = jnp.maximum(jnp.sum(mask), 1)
    mean = sum_where(mask, values) / count
    return mean, jnp.sqrt(sum_where(mask, (values - mean) ** 2) / count)


def standardized(values: jax.Array, mask: jax.Array, of: tuple[jax.Array, jax.Array] | None = None) -> jax.Array:
    """(x − mean) / std over the entries for which `mask` holds, 0 elsewhere; the moments may be `of` more entries."""
    mean, deviation = moments(values, mask) if of is None else of
    return jnp.where(mask, values - mean, 0.0) / (deviation + 1e-8)


def explained_variance(targets: jax.Array, values: jax.Array, mask: jax.Array) -> jax.Array:
    """1 − Var(target − V) / Var(target): 1 for a critic that knows all that can be known, 0 for a constant."""

    def variance(x):
        return mean_where(mask, (x - mean_where(mask, x)) ** 2)

    spread = variance(targets)
    return jnp.where(spread > 0, 1 - variance(targets - values) / jnp.where(spread > 0, spread, 1), jnp.nan)


def of_distribution(env: Environment, policy: Policy, look: Callable[[Any], Any]) -> Any:
    """What `look` says of the policy's distribution over actions (its kind, what it can do), without computing it."""
    seen = []

    def at_first(key: jax.Array) -> None:
        _, observation = env.reset(key)
        memory = () if policy.initial_carry is None else (policy.initial_carry,)
        output = policy.apply(policy.init(key), observation, *memory)
        seen.append(look(without_value(output[0] if memory else output)))

    jax.eval_shape(at_first, jax.eval_shape(lambda: jax.random.key(0)))
    return seen[0]


def entropy_of(distribution: Any, coefficient: Any) -> jax.Array:
    """The entropy of a distribution; NaN where it cannot tell and no bonus needs it."""
    if hasattr(distribution, "entropy"):
        return distribution.entropy()
    if not is_zero(coefficient):
        raise TypeError(
            f"entropy_coefficient needs distributions with an entropy; {type(distribution).__name__} has none: set it "
            f"to 0"
        )
    return jnp.full((), jnp.nan)


def is_zero(coefficient: Any) -> bool:
    """Whether the coefficient is known to be 0 while tracing: what it multiplies may then be left out."""
    return _check.is_concrete(coefficient) and float(coefficient) == 0


def weighted(coefficient: Any, value: jax.Array) -> jax.Array:
    """coefficient · value, 0 for a coefficient of 0 whatever the value."""
    return jnp.zeros_like(value) if is_zero(coefficient) else coefficient * value


def plain(**hyperparameters: Any) -> dict[str, Any]:
    """Hyperparameters as plain data, for records: numbers, strings, None; what is neither is named by its kind."""

    def of(value: Any) -> Any:
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if not _check.is_concrete(value):
            return "traced"
        if hasattr(value, "item") and getattr(value, "size", 0) == 1:
            return value.item()
        if isinstance(value, (tuple, list)):
            return [of(x) for x in value]
        if callable(value) and not hasattr(value, "update"):
            return _as_schedule(value)
        return f"<{getattr(value, '__name__', type(value).__name__)}>"

    return {name: of(value) for name, value in hyperparameters.items()}


def _as_schedule(function: Callable[[Any], Any]) -> Any:
    """A function of the number of updates, told by some of its values."""
    try:
        counts = jnp.asarray((0, 1, 10, 100, 1_000, 10_000, 100_000, 1_000_000))
        values = _compile.quickly(functools.partial(jax.lax.map, function))(counts)
        return {"schedule": np.asarray(values).tolist()}
    except Exception:  # Another function, or one of traced numbers.
        return f"<{getattr(function, '__name__', type(function).__name__)}>"


def start_reward_scale(num_envs: int) -> RewardScale:
    """No reward seen yet."""
    zero = jnp.zeros((), float_dtype())
    return RewardScale(jnp.zeros(num_envs, float_dtype()), zero, zero, zero)


def scaled_rewards(
    scale: RewardScale, rewards: jax.Array, ended: jax.Array, valid: jax.Array, discount: Any
) -> tuple[RewardScale, jax.Array]:
    """(scale with these rewards counted in, rewards divided by the standard deviation of the running returns).

    G is set to 0 where an episode ends: nothing passes into the next. The mean is not subtracted from rewards, which
    would change what is best. Source: Engstrom et al. (2020), section 2.
    """

    def forward(running, row):
        reward, ended, valid = row
        total = (discount * running + reward).astype(running.dtype)
        running = jnp.where(valid, total, running)
        return jnp.where(valid & ended, 0.0, running), running

    last, running = jax.lax.scan(forward, scale.running, (rewards, ended, valid))
    count = jnp.sum(valid, dtype=scale.count.dtype)
    mean = sum_where(valid, running) / jnp.maximum(count, 1)
    m2 = sum_where(valid, (running - mean) ** 2)
    total, shift = scale.count + count, mean - scale.mean
    share = count / jnp.maximum(total, 1)
    new_mean, new_m2 = scale.mean + shift * share, scale.m2 + m2 + shift**2 * scale.count * share
    kept = jnp.minimum(1, MOST_COUNTED / jnp.maximum(total, 1))
    scale = RewardScale(last, total * kept, new_mean, new_m2 * kept)
    std = jnp.sqrt(scale.m2 / jnp.maximum(scale.count, 1))
    return scale, (rewards / jnp.where(std > 0, std + 1e-8, 1)).astype(rewards.dtype)


def finite(tree: Any) -> jax.Array:
    """Whether every float in `tree` is finite."""
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(jnp.asarray(x).dtype, jnp.inexact)]
    # As one vector: a loop for every leaf would be a tenth of all that is compiled.
    return jnp.all(jnp.isfinite(jnp.concatenate([jnp.ravel(x) for x in leaves]))) if leaves else jnp.ones((), bool)


def rows_finite(observation: Any, axes: int) -> jax.Array:
    """Whether each observation is finite, over its axes behind the first `axes`; a scalar where none has floats."""
    leaves = [x for x in jax.tree.leaves(observation) if jnp.issubdtype(x.dtype, jnp.inexact)]
    parts = [jnp.all(jnp.isfinite(x), axis=tuple(range(axes, x.ndim))) for x in leaves]
    return jnp.all(jnp.stack(parts), axis=0) if parts else jnp.ones((), bool)


def blame(trajectory: Trajectory, lanes: Lanes, memories: Any = None) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """(lanes with anything that is not finite, (lane, episode) of the first row with such a thing or (−1, −1)).

    Looked at are the rewards, the observations, and `memories`, [lane] arrays that the lanes go on with.
    """
    bad = trajectory.valid & ~jnp.isfinite(trajectory.reward)
    bad |= ~rows_finite(trajectory.observation, 2)
    behind = jnp.broadcast_to(~rows_finite((lanes.observation, memories), 1), lanes.episode.shape)
    rows = jnp.concatenate([bad, behind[None]])
    episodes = jnp.concatenate([trajectory.episode, lanes.episode[None]])
    none = jnp.int32(-1)

    def find() -> tuple[jax.Array, jax.Array]:
        first = jnp.argmax(rows.reshape(-1))
        return (first % rows.shape[1]).astype(jnp.int32), episodes.reshape(-1)[first]

    # On a mesh the first row takes the lanes of all devices: it is looked for only where there is one.
    return jnp.any(rows, axis=0), jax.lax.cond(jnp.any(rows), find, lambda: (none, none))
