"""Value functions fitted by regression on returns: V_φ ≈ E[Q̂_t | s_t], for baselines and critics."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxpg import _check, baselines, rollout, weights
from jaxpg._keywords import hinted
from jaxpg.baselines import Baseline
from jaxpg.envs.base import Environment
from jaxpg.lanes import Trajectory
from jaxpg.policies.base import Critic, Policy
from jaxpg.weights import one_number, value_function

__all__ = ["fit_steps", "fit_value", "fitted"]


@hinted
def fit_value(
    key: Any,
    env: Environment,
    policy: Policy,
    params: Any,
    critic: Critic,
    *,
    num_episodes: int = 256,
    discount: Any = 0.99,
    optimizer: Any = None,
    num_steps: int = 1000,
    batch_size: int = 256,
    critic_params: Any = None,
    num_lanes: int | None = None,
) -> Any:
    """Params of a critic fitted to the policy's rewards-to-go: argmin_φ E[(V_φ(s_t) − Q̂_t)²].

    The episodes are those of `key`. Use another key for the estimate that the value function is a baseline of: it is
    then independent of those episodes, and the estimate stays unbiased (Sutton et al., 2000),

        baseline = jaxpg.fitting.fitted(critic, jaxpg.fit_value(key, env, policy, params, critic)).

    Args:
      critic: V_φ, without memory.
      num_episodes: whole episodes, kept in memory.
      discount: γ of the rewards-to-go.
      optimizer: an optax optimiser; default Adam with a learning rate that falls from 0.01 to 0.
      num_steps, batch_size: gradient steps, and the played steps drawn for each.
      critic_params: where to start; default `critic.init`.
    Raises:
      ValueError, TypeError: for arguments out of range, and as `rollout.collect`.
    """
    key = _check.key("key", key)
    if _check.instance("critic", critic, Critic).initial_carry is not None:
        raise ValueError("critic has a memory (initial_carry); fit_value takes critics without one")
    discount = _check.unit("discount", discount)
    num_steps, batch_size = _check.count("num_steps", num_steps), _check.count("batch_size", batch_size)
    _check.optional(_check.optimizer, "optimizer", optimizer)
    optimizer = optax.adam(optax.linear_schedule(1e-2, 0.0, num_steps)) if optimizer is None else optimizer
    sample_key, init_key, fit_key = jax.random.split(key, 3)
    critic_params = critic.init(init_key) if critic_params is None else critic_params
    trajectory, _ = rollout.collect(
        env, policy, params, sample_key, num_episodes=num_episodes, num_lanes=num_lanes, final_rows=False
    )
    targets = weights.trajectory_weights(trajectory, weights.reward_to_go(discount))
    state = optimizer.init(critic_params)
    return fit_steps(
        critic.apply, critic_params, state, optimizer, trajectory, targets, fit_key, num_steps, batch_size
    )[0]


def fitted(critic: Critic, params: Any) -> Baseline:
    """The baseline b_t = V_φ(s_t) of a fitted critic."""
    _check.instance("critic", critic, Critic)
    return baselines.value(lambda observation: one_number("critic", critic.apply(params, observation)))


def fit_steps(
    apply_critic: Callable,
    params: Any,
    optimizer_state: Any,
    optimizer: Any,
    trajectory: Trajectory,
    targets: jax.Array,
    key: jax.Array,
    num_steps: int,
    batch_size: int,
) -> tuple[Any, Any, jax.Array]:
    """Gradient steps on E[(V_φ(s_t) − target_t)²] / 2 over valid steps, drawn uniformly with replacement.

    Returns:
      (params, optimiser state, mean loss).
    """
    valid = trajectory.valid.reshape(-1)
    observations = jax.tree.map(lambda x: x.reshape((-1, *x.shape[2:])), trajectory.observation)
    flat_targets = targets.reshape(-1)
    apply = value_function("critic", lambda observation, params: apply_critic(params, observation))
    order = jnp.cumsum(valid, dtype=jnp.int32)  # The k-th valid step is where the count reaches k.

    def loss_of(params, batch):
        values = jax.vmap(lambda o: apply(o, params))(jax.tree.map(lambda x: x[batch], observations))
        return 0.5 * jnp.mean((values - flat_targets[batch]) ** 2)

    def fit_step(carry, key):
        params, optimizer_state = carry
        ranks = jax.random.randint(key, (batch_size,), 1, order[-1] + 1)
        loss, gradient = jax.value_and_grad(loss_of)(params, jnp.searchsorted(order, ranks))
        updates, optimizer_state = optimizer.update(gradient, optimizer_state, params)
        return (optax.apply_updates(params, updates), optimizer_state), loss

    (params, optimizer_state), losses = jax.lax.scan(
        fit_step, (params, optimizer_state), jax.random.split(key, num_steps)
    )
    return params, optimizer_state, jnp.mean(losses) if num_steps else jnp.full((), jnp.nan)
