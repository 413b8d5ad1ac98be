"""What actor-critic algorithms share: play a segment on every lane, learn from it, and keep the books.

An algorithm is a `Learner`: what it keeps besides the parameters, and how these change with a `Batch`. Acting and
learning see the same parameters and the same statistics of the observations; those are renewed after learning. An
update in which anything was NaN or infinite is counted and not applied, and the lanes that it came from go on with new
episodes.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpg import _check, _mesh
from jaxpg.algorithms._batch import Batch
from jaxpg.algorithms._blocks import in_blocks, over_rows
from jaxpg.algorithms._parts import (
    Parameters,
    RewardScale,
    blame,
    critic_for,
    finite,
    mean_where,
    observe,
    scaled_rewards,
    start_reward_scale,
)
from jaxpg.algorithms.types import Algorithm
from jaxpg.envs.base import Environment
from jaxpg.envs.check import check_structure
from jaxpg.lanes import select
from jaxpg.policies.base import Critic, Policy
from jaxpg.policies.unroll import unroll
from jaxpg.segments import SegmentState, restart, segment, start_segments
from jaxpg.weights import one_number

__all__ = ["ActorCriticState", "Learner", "actor_critic", "forward", "outputs"]


class Learner(NamedTuple):
    """An algorithm's own part.

    Fields:
      init: parameters -> what is kept from update to update, optimiser states for example.
      update: (kept, parameters, batch, key, update index) -> (kept, parameters, metrics).
      acting: (kept, parameters) -> the policy's parameters that act.
    """

    init: Callable[[Parameters], Any]
    update: Callable[..., tuple[Any, Parameters, dict[str, jax.Array]]]
    acting: Callable[[Any, Parameters], Any] = lambda kept, parameters: parameters.policy


class ActorCriticState(NamedTuple):
    """What an actor-critic algorithm carries from update to update.

    Fields:
      params, critic_params: the policy's and the critic's; None for a critic that is part of the policy.
      learner: what the algorithm keeps: optimiser states and the like.
      lanes: where the environments stand; `critic_carry` [lane] is the critic's memory there.
      reward_scale: None, or the running scale of the rewards.
      episode_key: names the episodes, as `segments.start_segments` does.
      learner_key: with `update`, the number of updates done, names what learning draws.
    """

    params: Any
    critic_params: Any
    learner: Any
    lanes: SegmentState
    critic_carry: Any
    reward_scale: RewardScale | None
    episode_key: jax.Array
    learner_key: jax.Array
    update: jax.Array


def actor_critic(
    env: Environment,
    policy: Policy,
    critic: Critic | None,
    make_learner: Callable[[Critic | None], Learner],
    *,
    num_envs: int,
    num_steps: int,
    discount: Any,
    scale_rewards: bool,
    name: str,
    config: Mapping[str, Any],
) -> Algorithm:
    """The algorithm whose learning is that of `make_learner(critic)`.

    Args:
      critic: None: one like the policy (`Policy.critic`), or the policy's own value.
      num_envs, num_steps: lanes, and rows of a segment.
      discount: γ, of the scale of the rewards.
    """
    check_structure(_check.instance("env", env, Environment))
    critic = critic_for(env, policy, critic)
    num_envs, num_steps = _check.count("num_envs", num_envs), _check.count("num_steps", num_steps)
    _check.boolean("scale_rewards", scale_rewards)
    learner = make_learner(critic)

    def init(key: Any) -> ActorCriticState:
        policy_key, critic_key, episode_key, learner_key = jax.random.split(_check.key("key", key), 4)
        parameters = Parameters(policy.init(policy_key), None if critic is None else critic.init(critic_key))
        _check.params("params", parameters.policy)
        _check.params("critic_params", parameters.critic)
        memory = None if critic is None else critic.initial_carry
        return ActorCriticState(
            params=parameters.policy,
            critic_params=parameters.critic,
            learner=learner.init(parameters),
            lanes=start_segments(env, policy, episode_key, num_envs),
            critic_carry=jax.tree.map(lambda x: jnp.broadcast_to(x, (num_envs, *jnp.shape(x))), memory),
            reward_scale=start_reward_scale(num_envs) if scale_rewards else None,
            episode_key=episode_key,
            learner_key=learner_key,
            update=jnp.zeros((), jnp.int32),
        )

    def step(state: ActorCriticState) -> tuple[ActorCriticState, dict[str, Any]]:
        _check.instance("state", state, ActorCriticState)
        before = Parameters(state.params, state.critic_params)
        acting = learner.acting(state.learner, before)
        lanes, played = segment(env, policy, acting, state.lanes, num_steps)
        trajectory = played.trajectory
        value, last_value, critic_carry = _values(policy, critic, state, lanes, trajectory)
        rewards = jnp.where(trajectory.valid, trajectory.reward, 0.0)
        reward_scale = state.reward_scale
        if reward_scale is not None:
            ended = trajectory.terminated | trajectory.truncated
            reward_scale, rewards = scaled_rewards(reward_scale, rewards, ended, trajectory.valid, discount)
        batch = Batch(
            observation=trajectory.observation,
            action=trajectory.action,
            log_prob=trajectory.log_prob,
            reward=rewards,
            terminated=trajectory.terminated,
            truncated=trajectory.truncated,
            valid=trajectory.valid,
            starts=trajectory.time == 0,
            value=value,
            last_value=last_value,
            policy_carry=state.lanes.lanes.carry,
            critic_carry=state.critic_carry,
        )
        learn_key = jax.random.fold_in(state.learner_key, state.update)
        kept, after, metrics = learner.update(state.learner, before, batch, learn_key, state.update)
        after = observe(policy, critic, after, trajectory.observation, trajectory.valid)

        bad, episode = blame(trajectory, lanes.lanes, (lanes.lanes.carry, critic_carry))
        is_finite = finite((after, kept, metrics["gradient_norm"]))
        applied = is_finite & ~jnp.any(bad)
        lanes, critic_carry = _without_bad(env, policy, critic, lanes, critic_carry, bad)
        ended = played.finished
        state = ActorCriticState(
            *_if(applied, (*after, kept), (*before, state.learner)),
            lanes=lanes,
            critic_carry=critic_carry,
            reward_scale=_kept_scale(applied, reward_scale, state.reward_scale, bad),
            episode_key=state.episode_key,
            learner_key=state.learner_key,
            update=state.update + 1,
        )
        return lay_out(state), {
            "episode_return": mean_where(ended, played.statistics.returns),
            "episode_length": mean_where(ended, played.statistics.length),
            "num_episodes": jnp.sum(ended, dtype=jnp.int32),
            "env_steps": jnp.sum(trajectory.valid, dtype=jnp.int32),
            **metrics,
            "nonfinite": jnp.sum(bad, dtype=jnp.int32) + ~is_finite,
            "nonfinite_lane": episode[0],
            "nonfinite_episode": episode[1],
        }

    return Algorithm(
        init=init,
        step=step,
        lay_out=lay_out,
        env=env,
        policy=policy,
        name=name,
        config={
            **config,
            "num_envs": num_envs,
            "num_steps": num_steps,
            "scale_rewards": scale_rewards,
            "critic": None if critic is None else critic.description,
            "policy": policy.description,
        },
        episode_key=lambda state: state.episode_key,
    )


def lay_out(state: ActorCriticState) -> ActorCriticState:
    """The state with its lanes over the devices of the mesh."""
    scale = state.reward_scale
    if scale is not None:
        scale = scale._replace(running=_mesh.constrain(scale.running, 0))
    lanes, critic_carry = _mesh.constrain((state.lanes, state.critic_carry), 0)
    return state._replace(lanes=lanes, critic_carry=critic_carry, reward_scale=scale)


def forward(
    model: Policy | Critic, params: Any, batch: Any, carry: Any, measure: Callable = lambda x: x, *extra: Any
) -> Any:
    """`measure(output, *extra)` of every row of a batch, [step, lane]: the model unrolled along the lanes."""
    if model.initial_carry is None:
        return over_rows(lambda o, *x: measure(model.apply(params, o), *x), batch.observation, *extra)

    def lane(observation, starts, carry, *extra):
        return unroll(model, params, observation, starts, carry, measure, *extra)[0]

    axes = (1, 1, 0, *[1 for _ in extra])
    return jax.vmap(lane, in_axes=axes, out_axes=1)(batch.observation, batch.starts, carry, *extra)


def outputs(
    policy: Policy, critic: Critic | None, parameters: Parameters, batch: Batch, measure: Callable, *extra: Any
) -> tuple[Any, jax.Array]:
    """(`measure(distribution, action, *extra)`, V) of every row of a batch, [step, lane]."""
    if critic is None:  # One pass through the torso gives both.

        def both(distribution, *x):
            return measure(distribution, *x), distribution.value

        return forward(policy, parameters.policy, batch, batch.policy_carry, both, batch.action, *extra)
    measured = forward(policy, parameters.policy, batch, batch.policy_carry, measure, batch.action, *extra)
    return measured, forward(critic, parameters.critic, batch, batch.critic_carry)


def _values(
    policy: Policy, critic: Critic | None, state: ActorCriticState, lanes: SegmentState, trajectory: Any
) -> tuple[jax.Array, jax.Array, Any]:
    """V of the rows and of the observations behind them, and the critic's memory there."""
    observations, last, starts = trajectory.observation, lanes.lanes.observation, trajectory.time == 0
    if critic is None:
        model, params, carry = policy, state.params, state.lanes.lanes.carry
        value_of = lambda distribution: distribution.value  # noqa: E731
    else:
        model, params, carry = critic, state.critic_params, state.critic_carry
        value_of = lambda value: value  # noqa: E731
    if model.initial_carry is None:

        def one(observation):
            value = value_of(model.apply(params, observation))
            return one_number("critic" if critic is not None else "the policy's value", value)

        return in_blocks(lambda rows: over_rows(one, rows), observations), jax.vmap(one)(last), None

    def lane(observations, starts, carry, last, last_start):
        values, carry = unroll(model, params, observations, starts, carry, value_of)
        row = jax.tree.map(lambda x: x[None], (last, last_start))
        return values, unroll(model, params, *row, carry, value_of)[0][0], carry

    values, last_value, carry = jax.vmap(lane, in_axes=(1, 1, 0, 0, 0), out_axes=(1, 0, 0))(
        observations, starts, carry, last, lanes.lanes.time == 0
    )
    return values, last_value, None if critic is None else carry


def _without_bad(
    env: Environment, policy: Policy, critic: Critic | None, lanes: SegmentState, critic_carry: Any, bad: jax.Array
) -> tuple[SegmentState, Any]:
    """The lanes with new episodes on those that met something NaN or infinite."""
    lanes = restart(env, policy, lanes, bad)
    if critic is None or critic.initial_carry is None:
        return lanes, critic_carry
    fresh = jax.tree.map(lambda x, c: jnp.broadcast_to(x, c.shape).astype(c.dtype), critic.initial_carry, critic_carry)
    return lanes, select(bad, fresh, critic_carry)


def _kept_scale(applied: jax.Array, new: RewardScale | None, old: RewardScale | None, bad: jax.Array) -> Any:
    """The new scale, or of a refused update the old statistics; what the lanes are at is theirs in any case."""
    if new is None or old is None:
        return None
    running = jnp.where(bad | ~jnp.isfinite(new.running), 0.0, new.running)
    return _if(applied, new, old)._replace(running=running)


def _if(condition: jax.Array, new: Any, old: Any) -> Any:
    # Not `where`, which is compiled for every leaf.
    return jax.lax.cond(condition, lambda new, old: new, lambda new, old: old, new, old)
