"""REINFORCE: ascend the score-function gradient of whole episodes (Williams, 1992).

    θ ← θ + optimiser( 1/N Σ_i Σ_t ∇ log π_θ(a_t | s_t) (Ψ_t − b_t) )

With a critic, b_t = V_φ(s_t): a value function fitted to the returns of the episodes *before*, so that it is
independent of those it is subtracted from (Sutton et al., 2000).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxpg import _check, baselines, fitting, rollout, weights
from jaxpg._plan import require_max_steps
from jaxpg.algorithms.types import Algorithm
from jaxpg.baselines import Baseline
from jaxpg.envs.base import Environment
from jaxpg.policies.base import Critic, Policy
from jaxpg.stored import gradient_from
from jaxpg.weights import Weight

__all__ = ["ReinforceState", "reinforce"]


class ReinforceState(NamedTuple):
    """What REINFORCE carries from update to update; `update` counts them and names their random keys."""

    params: Any
    optimizer_state: Any
    critic_params: Any
    critic_optimizer_state: Any
    key: jax.Array
    update: jax.Array


def reinforce(
    env: Environment,
    policy: Policy,
    critic: Critic | None = None,
    *,
    num_episodes: int = 32,
    weight: Weight | None = None,
    baseline: Baseline | None = None,
    optimizer: Any = None,
    critic_optimizer: Any = None,
    critic_steps: int = 40,
    critic_batch_size: int = 256,
    num_lanes: int | None = None,
) -> Algorithm:
    """REINFORCE with any weight and baseline, or with a learned value baseline.

    Args:
      env: needs an episode limit.
      policy: without memory.
      critic: None, or V_φ for the baseline, fitted after each update to the rewards-to-go of the update's episodes.
      num_episodes: whole episodes of an update.
      weight: default `reward_to_go(discount=0.99, discount_states=False)`: without the factor γ^t, which would all but
        ignore late steps of long episodes.
      baseline: default `leave_one_out()`; give this or a critic.
      optimizer: an optax optimiser; default Adam with learning rate 0.01 and the gradient clipped to norm 10.
      critic_optimizer: default Adam with learning rate 0.003.
      critic_steps, critic_batch_size: gradient steps of the critic in an update, and the steps drawn for each.
      num_lanes: episodes played side by side.
    """
    require_max_steps(_check.instance("env", env, Environment))
    if _check.instance("policy", policy, Policy).initial_carry is not None:
        raise ValueError("policy has a memory (initial_carry); reinforce takes policies without one")
    _check.optional(_check.instance, "critic", critic, Critic)
    _check.optional(_check.instance, "weight", weight, Weight)
    _check.optional(_check.instance, "baseline", baseline, Baseline)
    _check.optional(_check.optimizer, "optimizer", optimizer)
    _check.optional(_check.optimizer, "critic_optimizer", critic_optimizer)
    if critic is not None and baseline is not None:
        raise ValueError("give a critic or a baseline, not both: the critic is the baseline")
    num_episodes = _check.count("num_episodes", num_episodes)
    critic_steps = _check.count("critic_steps", critic_steps, 0)
    critic_batch_size = _check.count("critic_batch_size", critic_batch_size)
    weight = weights.reward_to_go(0.99, discount_states=False) if weight is None else weight
    if critic is None and baseline is None:
        baseline = baselines.leave_one_out() if num_episodes > 1 else baselines.none()
    optimizer = optax.chain(optax.clip_by_global_norm(10.0), optax.adam(1e-2)) if optimizer is None else optimizer
    critic_optimizer = optax.adam(3e-3) if critic_optimizer is None else critic_optimizer

    def init(key: Any) -> ReinforceState:
        key = _check.key("key", key)
        policy_key, critic_key, sample_key = jax.random.split(key, 3)
        params = policy.init(policy_key)
        critic_params = None if critic is None else critic.init(critic_key)
        return ReinforceState(
            params=params,
            optimizer_state=optimizer.init(params),
            critic_params=critic_params,
            critic_optimizer_state=None if critic is None else critic_optimizer.init(critic_params),
            key=sample_key,
            update=jnp.zeros((), jnp.int32),
        )

    def step(state: ReinforceState) -> tuple[ReinforceState, dict[str, Any]]:
        sample_key, critic_key = jax.random.split(jax.random.fold_in(state.key, state.update))
        trajectory, episodes = rollout.collect(
            env,
            policy,
            state.params,
            sample_key,
            num_episodes=num_episodes,
            num_lanes=num_lanes,
            discount=weight.discount,
            final_rows=weight.value is not None,
        )
        b = baseline if critic is None else fitting.fitted(critic, state.critic_params)
        estimate = gradient_from(trajectory, policy, state.params, weight, b, num_episodes=num_episodes)
        # Gradients point uphill, optax's updates descend.
        updates, optimizer_state = optimizer.update(
            jax.tree.map(jnp.negative, estimate.gradient), state.optimizer_state, state.params
        )
        metrics = {
            "episode_return": estimate.episode_return,
            "episode_length": estimate.episode_length,
            "objective": estimate.objective,
            "objective_error": estimate.objective_error,
            "gradient_norm": estimate.gradient_norm,
            "snr": estimate.snr,
            "num_episodes": estimate.num_episodes,
            "env_steps": estimate.num_steps,
            "nonfinite_episodes": estimate.num_nonfinite,
        }
        state = state._replace(
            params=optax.apply_updates(state.params, updates), optimizer_state=optimizer_state, update=state.update + 1
        )
        if critic is not None:
            targets = weights.trajectory_weights(trajectory, weights.reward_to_go(weight.discount))
            critic_params, critic_state, loss = fitting.fit_steps(
                critic.apply,
                state.critic_params,
                state.critic_optimizer_state,
                critic_optimizer,
                trajectory,
                targets,
                critic_key,
                critic_steps,
                critic_batch_size,
            )
            state = state._replace(critic_params=critic_params, critic_optimizer_state=critic_state)
            metrics["value_loss"] = loss
        return state, metrics

    config = {
        "num_episodes": num_episodes,
        "critic": critic is not None,
        "critic_steps": critic_steps,
        "critic_batch_size": critic_batch_size,
    }
    return Algorithm(init=init, step=step, env=env, policy=policy, name="reinforce", config=config)
