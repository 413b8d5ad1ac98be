"""REINFORCE: ascend the score-function gradient of whole episodes (Williams, 1992).

    θ ← θ + optimiser( 1/N Σ_i Σ_t ∇ log π_θ(a_t | s_t) (Ψ_t − b_t) )

With a critic, b_t = V_φ(s_t): a value function fitted to the returns of the episodes *before*, so that it is
independent of those it is subtracted from (Sutton et al., 2000).
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxpg import _check, baselines, fitting, rollout, weights
from jaxpg._keywords import hinted
from jaxpg._plan import require_max_steps
from jaxpg.algorithms import _parts
from jaxpg.algorithms._parts import Parameters
from jaxpg.algorithms.types import Algorithm
from jaxpg.baselines import Baseline
from jaxpg.envs.base import Environment
from jaxpg.lanes import Trajectory
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


@hinted
def reinforce(
    env: Environment,
    policy: Policy,
    critic: Critic | None = None,
    *,
    num_episodes: int = 32,
    weight: Weight | None = None,
    baseline: Baseline | None = None,
    learning_rate: Any = None,
    optimizer: Any = None,
    max_gradient_norm: Any = 10.0,
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
      learning_rate: of Adam; a number, or a function of the number of updates. Default 0.01.
      optimizer: an optax optimiser in the place of Adam and the learning rate.
      max_gradient_norm: the gradient is clipped to this global norm; None: not at all.
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
    _parts.check_optimizer(optimizer, learning_rate, max_gradient_norm)
    _check.optional(_check.optimizer, "critic_optimizer", critic_optimizer)
    if critic is not None and critic.initial_carry is not None:
        raise ValueError("critic has a memory (initial_carry); reinforce takes critics without one")
    if critic is not None and baseline is not None:
        raise ValueError("give a critic or a baseline, not both: the critic is the baseline")
    num_episodes = _check.count("num_episodes", num_episodes)
    critic_steps = _check.count("critic_steps", critic_steps, 0)
    critic_batch_size = _check.count("critic_batch_size", critic_batch_size)
    weight = weights.reward_to_go(0.99, discount_states=False) if weight is None else weight
    if critic is None and baseline is None:
        baseline = baselines.leave_one_out() if num_episodes > 1 else baselines.none()
    rate = 1e-2 if learning_rate is None else learning_rate
    descent = _parts.make_descent(optimizer, rate, max_gradient_norm, policy.trainable, eps=1e-8)
    critic_trainable = None if critic is None else critic.trainable
    optimize_critic = _parts.make_descent(critic_optimizer or optax.adam(3e-3), None, None, critic_trainable).optimizer

    def sample_key_of(state: ReinforceState, update: Any) -> tuple[jax.Array, jax.Array]:
        """The keys of an update's episodes and of what its critic draws."""
        return tuple(jax.random.split(jax.random.fold_in(state.key, update)))

    def init(key: Any) -> ReinforceState:
        key = _check.key("key", key)
        policy_key, critic_key, sample_key = jax.random.split(key, 3)
        params = _check.params("params", policy.init(policy_key))
        critic_params: Any = None if critic is None else critic.init(critic_key)
        return ReinforceState(
            params=params,
            optimizer_state=descent.init(params),
            critic_params=critic_params,
            critic_optimizer_state=None if critic is None else optimize_critic.init(critic_params),
            key=sample_key,
            update=jnp.zeros((), jnp.int32),
        )

    def step(state: ReinforceState) -> tuple[ReinforceState, dict[str, Any]]:
        _check.instance("state", state, ReinforceState)
        sample_key, critic_key = sample_key_of(state, state.update)
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
        downhill = jax.tree.map(jnp.negative, estimate.gradient)
        params, optimizer_state = descent.step(downhill, state.optimizer_state, state.params, state.update)
        critic_params, critic_state, value_loss = state.critic_params, state.critic_optimizer_state, {}
        if critic is not None:
            targets = weights.trajectory_weights(trajectory, weights.reward_to_go(weight.discount))
            critic_params, critic_state, loss = fitting.fit_steps(
                critic.apply,
                state.critic_params,
                state.critic_optimizer_state,
                optimize_critic,
                trajectory,
                targets,
                critic_key,
                critic_steps,
                critic_batch_size,
            )
            value_loss = {"value_loss": loss}
        after = Parameters(params, critic_params)
        after = _parts.observe(policy, critic, after, trajectory.observation, trajectory.valid)

        bad = _bad_episodes(trajectory, episodes.returns)
        is_finite = _parts.finite((after, optimizer_state, critic_state, estimate.gradient_norm))
        applied = is_finite & ~jnp.any(bad)
        new = (after.policy, optimizer_state, after.critic, critic_state)
        state = ReinforceState(
            *jax.tree.map(lambda new, old: jnp.where(applied, new, old), new, tuple(state[:4])),
            key=state.key,
            update=state.update + 1,
        )
        return state, {
            "episode_return": estimate.episode_return,
            "episode_length": estimate.episode_length,
            "num_episodes": estimate.num_episodes,
            "env_steps": estimate.num_steps,
            "objective": estimate.objective,
            "objective_error": estimate.objective_error,
            "gradient_norm": estimate.gradient_norm,
            "snr": estimate.snr,
            **value_loss,
            "nonfinite": jnp.sum(bad, dtype=jnp.int32) + ~is_finite,
            "nonfinite_lane": jnp.int32(-1),
            "nonfinite_episode": jnp.where(jnp.any(bad), jnp.argmax(bad), -1).astype(jnp.int32),
        }

    return Algorithm(
        init=init,
        step=step,
        env=env,
        policy=policy,
        name="reinforce",
        config={
            **_parts.plain(
                num_episodes=num_episodes,
                learning_rate=rate,
                optimizer=optimizer,
                max_gradient_norm=max_gradient_norm,
                critic_optimizer=critic_optimizer,
                critic_steps=critic_steps,
                critic_batch_size=critic_batch_size,
            ),
            "weight": _as_plain_weight(weight),
            "baseline": None if baseline is None else _as_plain_baseline(baseline),
            "critic": None if critic is None else critic.description,
            "policy": policy.description,
        },
        episode_key=lambda state: sample_key_of(state, state.update - 1)[0],
    )


def _bad_episodes(trajectory: Trajectory, returns: jax.Array) -> jax.Array:
    """[episode] whether a reward or an observation was NaN or infinite."""
    # Rows that are no steps hold final observations, which weights with a value bootstrap from, or zeros.
    bad_rows = ~_parts.rows_finite(trajectory.observation, 2)
    slots = jnp.where(bad_rows, trajectory.episode, returns.shape[0])
    return (~jnp.isfinite(returns)).at[slots].set(True, mode="drop")


def _as_plain_weight(weight: Weight) -> dict[str, Any]:
    """A weight told by its numbers: its fields, and what its functions make of one step."""
    no, one, half, quarter = jnp.zeros((), bool), *map(jnp.asarray, (1.0, 0.5, 0.25))
    step = weights.StepValues(one, half, quarter, no, no, half)
    names = ("increment", "decay", "direct", "carry")
    functions = {name: getattr(weight, name) for name in names if getattr(weight, name) is not None}
    return _parts.plain(
        discount=weight.discount,
        state_discount=weight.state_discount,
        whole_episode=weight.whole_episode,
        lookahead=weight.lookahead,
        value=weight.value is not None,
        action_value=weight.action_value is not None,
        **{name: function(step) for name, function in functions.items()},
    )


def _as_plain_baseline(baseline: Baseline) -> dict[str, Any]:
    """A baseline told by its fields; of functions, whether they are there."""
    fields = {field.name: getattr(baseline, field.name) for field in dataclasses.fields(baseline)}
    return _parts.plain(**{name: value is not None if callable(value) else value for name, value in fields.items()})
