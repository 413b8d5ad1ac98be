"""Bad input: each case gives one clear error that names what is wrong."""

import dataclasses
import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxpg
from jaxpg import baselines, exact, natural, render, rollout, sampling, segments, stats, sweeps, weights
from jaxpg._keywords import _ALSO_CALLED
from jaxpg.envs import Box, Discrete, Environment, Timestep
from jaxpg.returns import backward_recursion

FLAG = jnp.bool_(False)


def line(**changes):
    """A walk on the line, with some of its parts replaced."""

    def step(key, state, action):
        state = state + action
        return state, Timestep(state, jnp.float32(1), FLAG, FLAG)

    parts = {
        "reset": lambda key: (jnp.zeros((2,)), jnp.zeros((2,))),
        "step": step,
        "max_steps": 5,
        "name": "line",
        "observation_space": Box(-9, 9, (2,)),
        "action_space": Box(-1, 1, (2,)),
    }
    return Environment(**(parts | changes))


def stepping(timestep):
    """An environment whose step gives `timestep`."""
    return line(step=lambda key, state, action: (state, timestep(state)))


def key():
    return jax.random.key(0)


def policy(env=None):
    return jaxpg.policies.mlp(env or line(), (4,))


def estimate(env=None, params=None, the_key=None, **options):
    env = env or line()
    options = {"num_episodes": 4} | options
    chosen = options.pop("policy", None) or policy(line(action_space=env.action_space))
    params = chosen.init(key()) if params is None else params
    return jaxpg.policy_gradient(env, chosen, **options)(key() if the_key is None else the_key, params)


def discrete(**changes):
    return line(action_space=Discrete(2), **changes)


def stored(**changes):
    trajectory, _ = rollout.collect(
        discrete(), policy(discrete()), policy(discrete()).init(key()), key(), num_episodes=3
    )
    options = changes.pop("options", {})
    return jaxpg.gradient_from(
        trajectory._replace(**{k: v(trajectory) for k, v in changes.items()}),
        policy(discrete()),
        policy(discrete()).init(key()),
        **options,
    )


def stored_without_final_rows():
    env = discrete()
    chosen = policy(env)
    params = chosen.init(key())
    trajectory, _ = rollout.collect(env, chosen, params, key(), num_episodes=3, final_rows=False)
    return jaxpg.gradient_from(trajectory, chosen, params, weights.gae(0.9, 0.9, value=VALUE))


def mapped_count():
    return jax.vmap(lambda n: estimate(num_episodes=n).objective)(jnp.arange(2, 4))


def nonfinite_reward():
    return stepping(lambda s: Timestep(s, jnp.float32(jnp.nan), FLAG, FLAG))


def behavior(env=None):
    """A pair that acts in the place of the policy."""
    other = policy(env)
    return other, other.init(key())


def nan_params():
    params = policy().init(key())
    return {**params, "head": {**params["head"], "bias": jnp.full(2, jnp.nan)}}


def impossible_actions():
    """Stored episodes of a policy that could not have taken their actions."""
    return stored(log_prob=lambda t: t.log_prob - jnp.inf, options={"importance_sampling": "trajectory"})


def all_actions(distribution, **options):
    weight = weights.all_action(0.9, lambda o, a: 0.0, **options)
    return estimate(params={}, policy=jaxpg.Policy(init=lambda k: {}, apply=lambda p, o: distribution), weight=weight)


def gymnasium_env():
    return pytest.importorskip("gymnasium").make("CartPole-v1")


def on(env, chosen):
    return jaxpg.policy_gradient(env, chosen, num_episodes=2)(key(), chosen.init(key()))


def one_update(algorithm):
    return jax.eval_shape(algorithm.step, jax.eval_shape(algorithm.init, key()))


AUTO = {"num_episodes": "auto", "target_snr": 3.0}
VALUE = jnp.sum
CASES = {
    # names
    "an unknown public name": (AttributeError, "policy_gradient", lambda: jaxpg.policy_gradints),
    "an unknown environment": (ValueError, "CartPole-v1", lambda: jaxpg.make("Cartpole-v1")),
    "an unknown suite": (ValueError, "gymnax", lambda: jaxpg.make("gymnaxx/CartPole-v1")),
    "an unknown parameter": (ValueError, "gravity", lambda: jaxpg.make("CartPole-v1", gravitiy=9.0)),
    "an unknown activation": (ValueError, "tanh", lambda: jaxpg.policies.mlp(line(), activation="tan")),
    # counts
    "no episodes": (ValueError, "num_episodes", lambda: estimate(num_episodes=0)),
    "fewer than no episodes": (ValueError, "num_episodes", lambda: estimate(num_episodes=-3)),
    "half an episode": (TypeError, "num_episodes", lambda: estimate(num_episodes=0.5)),
    "episodes in a string": (TypeError, "num_episodes", lambda: estimate(num_episodes="4")),
    "a true number of episodes": (TypeError, "num_episodes", lambda: estimate(num_episodes=True)),
    "a traced number of episodes": (TypeError, "num_episodes", mapped_count),
    "no chunk": (ValueError, "chunk_size", lambda: estimate(chunk_size=0)),
    "no groups": (ValueError, "num_groups", lambda: estimate(num_groups=0)),
    "no lanes": (ValueError, "num_lanes", lambda: estimate(num_lanes=0)),
    "no blocks": (ValueError, "block_size", lambda: estimate(block_size=0)),
    "no room for an episode": (ValueError, "buffer_bytes", lambda: estimate(buffer_bytes=10)),
    "no room for a group": (
        ValueError, "group_size",
        lambda: estimate(num_episodes=1000, buffer_bytes=1000, baseline=baselines.leave_one_out(group_size=500)),
    ),
    "one episode without others": (ValueError, "num_episodes", lambda: estimate(num_episodes=1,
                                                                                 baseline=baselines.leave_one_out())),
    "an empty n-step": (ValueError, "n ", lambda: weights.n_step(n=0, value=VALUE)),
    "a group of one": (ValueError, "group_size", lambda: baselines.leave_one_out(group_size=1)),
    "no steps of an environment": (ValueError, "max_steps", lambda: line(max_steps=0)),
    # ranges
    "a discount above 1": (ValueError, "discount", lambda: weights.reward_to_go(1.5)),
    "a negative discount": (ValueError, "discount", lambda: weights.total_return(-0.1)),
    "a NaN discount": (ValueError, "discount", lambda: weights.reward_to_go(math.nan)),
    "a discount in words": (TypeError, "discount", lambda: weights.reward_to_go("0.9")),
    "a lambda above 1": (ValueError, "lambda_", lambda: weights.gae(0.9, 2.0, value=VALUE)),
    "an infinite constant": (ValueError, "c must", lambda: baselines.constant(math.inf)),
    "a vector for a constant": (TypeError, "c must", lambda: baselines.constant(np.ones(3))),
    "a NaN time baseline": (ValueError, "values", lambda: baselines.time([0.0, math.nan])),
    "a matrix for a time baseline": (ValueError, "values", lambda: baselines.time(np.ones((2, 2)))),
    "an infinite environment parameter": (ValueError, "gravity", lambda: jaxpg.make("CartPole-v1", gravity=math.inf)),
    # things of the wrong kind
    "a name for an environment": (TypeError, "env", lambda: jaxpg.policy_gradient("CartPole-v1", policy(),
                                                                                  num_episodes=2)),
    "a function for a policy": (TypeError, "policy", lambda: jaxpg.policy_gradient(line(), lambda: 0, num_episodes=2)),
    "a number for a weight": (TypeError, "weight", lambda: estimate(weight=0.99)),
    "a number for a baseline": (TypeError, "baseline", lambda: estimate(baseline=0.0)),
    "a list for a mesh": (TypeError, "mesh", lambda: estimate(mesh=jax.devices())),
    "no value function": (TypeError, "value", lambda: weights.gae(0.9, 0.9)),
    "a value function of three": (TypeError, "value", lambda: weights.td_residual(0.9, value=lambda a, b, c: 0)),
    "a number for a value baseline": (TypeError, "function", lambda: baselines.value(3.0)),
    "a seed for a key": (TypeError, "jax.random.key", lambda: estimate(the_key=0)),
    "many keys": (ValueError, "key", lambda: estimate(the_key=jax.random.split(key(), 2))),
    "discount_states in words": (TypeError, "discount_states", lambda: weights.reward_to_go(discount_states="no")),
    # policies and params
    "params of another policy": (ValueError, "params",
                                 lambda: estimate(params=jaxpg.policies.mlp(line(observation_space=Box(0, 1, (7,))),
                                                                            (4,)).init(key()))),
    "integer params": (TypeError, "params", lambda: estimate(params=jnp.zeros(3, jnp.int32))),
    "a tabular policy on a line": (Exception, "Discrete", lambda: jaxpg.policies.tabular(line())),
    "a log-probability for each dimension": (
        ValueError, "log_prob",
        lambda: estimate(params={}, policy=jaxpg.Policy(init=lambda k: {}, apply=lambda p, o: _Vector())),
    ),
    # environments
    "no episode limit": (ValueError, "limit", lambda: estimate(line(max_steps=None))),
    "reset gives no pair": (Exception, "reset", lambda: estimate(line(reset=lambda key: jnp.zeros(2)))),
    "step gives a tuple": (TypeError, "Timestep", lambda: estimate(line(step=lambda k, s, a: (s, s, 0.0, FLAG)))),
    "an observation of another shape": (
        ValueError, "observation", lambda: estimate(stepping(lambda s: Timestep(s[:1], jnp.float32(0), FLAG, FLAG)))),
    "a vector of rewards": (Exception, "reward",
                            lambda: estimate(stepping(lambda s: Timestep(s, jnp.zeros(2), FLAG, FLAG)))),
    "a float flag": (Exception, "terminated",
                     lambda: estimate(stepping(lambda s: Timestep(s, jnp.float32(0), jnp.float32(0), FLAG)))),
    "a state that grows": (
        ValueError, "state", lambda: estimate(line(step=lambda k, s, a: (
            jnp.append(s, 0.0), Timestep(s, jnp.float32(0), FLAG, FLAG))))),
    "a reward that is not finite": (ValueError, "reward", lambda: estimate(nonfinite_reward())),
    "a space that is none": (TypeError, "action_space", lambda: line(action_space=3)),
    "a reset that is none": (TypeError, "reset", lambda: line(reset=None)),
    # stored episodes
    "an episode without an end": (ValueError, "whole", lambda: stored(truncated=lambda t: t.truncated & False)),
    "too few probabilities": (ValueError, "probabilities",
                              lambda: stored(options={"probabilities": np.ones(2), "num_episodes": 3})),
    "a flat trajectory": (ValueError, "trajectory", lambda: stored(reward=lambda t: t.reward[:, 0])),
    # plain functions
    "returns of nothing": (ValueError, "rewards", lambda: weights.discounted_returns(jnp.zeros(0), 0.9)),
    "returns and discounts of two lengths": (ValueError, "discounts",
                                             lambda: weights.discounted_returns(jnp.zeros(3), jnp.ones(2))),
    "advantages with float flags": (
        TypeError, "terminated",
        lambda: weights.generalized_advantages(*[jnp.zeros(3)] * 5, 0.9, 0.9)),
    "advantages of two lengths": (
        ValueError, "values",
        lambda: weights.generalized_advantages(jnp.zeros(3), jnp.zeros(4), *[jnp.zeros(3)], *[jnp.zeros(3, bool)] * 2,
                                               0.9, 0.9)),
    "an episode with a step missing": (
        ValueError, "whole", lambda: stored(valid=lambda t: t.valid & ~((t.time == 0) & (t.episode == 1)))),
    "no final observations for a value": (
        ValueError, "final observation", lambda: stored_without_final_rows()),
    "fewer episodes than there are": (ValueError, "ids up to", lambda: stored(options={"num_episodes": 2})),
    "a block of negative steps": (ValueError, "block_size", lambda: stored(options={"block_size": -1})),
    "a value with an axis of one": (
        ValueError, "scalar", lambda: estimate(baseline=baselines.value(lambda o: o[:1]))),
    "a gae value with an axis of one": (
        ValueError, "scalar", lambda: estimate(weight=weights.gae(0.9, 0.9, value=lambda o: o[:1]))),
    "more episodes than ids": (ValueError, "num_episodes", lambda: estimate(num_episodes=2**31)),
    "params of nothing": (ValueError, "params", lambda: estimate(params={})),
    # algorithms and training
    "a name for an environment to train on": (TypeError, "env", lambda: jaxpg.reinforce("CartPole-v1", policy())),
    "a learning rate for an optimiser": (TypeError, "optimizer",
                                         lambda: jaxpg.reinforce(line(), policy(), optimizer=1e-3)),
    "a discount for a weight": (TypeError, "weight", lambda: jaxpg.reinforce(line(), policy(), weight=0.99)),
    "training without a limit": (ValueError, "limit", lambda: jaxpg.reinforce(line(max_steps=None), policy())),
    "a name for an environment to evaluate": (
        TypeError, "env", lambda: jaxpg.evaluate(key(), "CartPole-v1", policy(), {})),
    "more steps than memory": (
        ValueError, "num_episodes",
        lambda: rollout.collect(line(), policy(), policy().init(key()), key(), num_episodes=10**9)),
    "a critic and a baseline": (
        ValueError, "baseline",
        lambda: jaxpg.reinforce(line(), policy(), jaxpg.policies.value_mlp(line()), baseline=baselines.none())),
    "no episodes of an update": (ValueError, "num_episodes", lambda: jaxpg.reinforce(line(), policy(), num_episodes=0)),
    "a critic with a memory": (
        ValueError, "critic",
        lambda: jaxpg.reinforce(line(), policy(), jaxpg.policies.value_recurrent(line(), "gru", 4, (4,)))),
    "a rate and an optimiser": (
        ValueError, "learning_rate",
        lambda: jaxpg.reinforce(line(), policy(), learning_rate=0.1, optimizer=optax.sgd(0.1))),
    "no such reaction": (
        ValueError, "nonfinite",
        lambda: jaxpg.train(jaxpg.reinforce(line(), policy()), key(), num_env_steps=1, nonfinite="ignore")),
    "a word for whether to compile quickly": (
        TypeError, "quick_compile",
        lambda: jaxpg.train(jaxpg.reinforce(line(), policy()), key(), num_env_steps=1, quick_compile="yes")),
    "training a function": (TypeError, "algorithm", lambda: jaxpg.train(lambda s: s, key(), num_env_steps=1)),
    "no budget": (ValueError, "num_env_steps",
                  lambda: jaxpg.train(jaxpg.reinforce(line(), policy()), key(), num_env_steps=0)),
    "neither key nor state": (TypeError, "key",
                              lambda: jaxpg.train(jaxpg.reinforce(line(), policy()), num_env_steps=1)),
    "a NaN target": (ValueError, "target_return", lambda: jaxpg.train(jaxpg.reinforce(line(), policy()), key(),
                                                                      num_env_steps=1, target_return=math.nan)),
    "no episodes to evaluate": (ValueError, "num_episodes",
                                lambda: jaxpg.evaluate(key(), line(), policy(), policy().init(key()), num_episodes=0)),
    "evaluation without a limit": (
        ValueError, "limit", lambda: jaxpg.evaluate(key(), line(max_steps=None), policy(), policy().init(key()))),
    # another policy that acts, terms of the objective
    "params alone for a behavior": (TypeError, "behavior", lambda: estimate(behavior=policy().init(key()))),
    "a behavior's params of another policy": (
        ValueError, "behavior's params", lambda: estimate(behavior=(policy(), {"weight": jnp.ones(2)}))),
    "an unknown correction": (
        ValueError, "importance_sampling", lambda: estimate(behavior=behavior(), importance_sampling="per_desicion")),
    "an unknown correction of nothing": (
        ValueError, "importance_sampling", lambda: estimate(importance_sampling="per_desicion")),
    "a behavior with leave-one-out": (
        ValueError, "baseline", lambda: estimate(behavior=behavior(), baseline=baselines.leave_one_out())),
    "a behavior with a temperature": (
        ValueError, "temperature", lambda: estimate(behavior=behavior(), temperature=0.1)),
    "a negative temperature": (ValueError, "temperature", lambda: estimate(temperature=-0.1)),
    "a negative entropy bonus": (ValueError, "entropy_coefficient", lambda: estimate(entropy_coefficient=-0.1)),
    "single episodes in words": (TypeError, "per_episode", lambda: estimate(per_episode="yes")),
    "stored actions that were impossible": (ValueError, "log_prob", impossible_actions),
    "stored episodes of others with leave-one-out": (
        ValueError, "baseline",
        lambda: stored(options={"importance_sampling": "trajectory", "baseline": baselines.leave_one_out()})),
    "probabilities, self-normalised": (
        ValueError, "probabilities",
        lambda: stored(options={"importance_sampling": "self_normalized", "probabilities": np.ones(3) / 3})),
    "probabilities with the others' mean": (
        ValueError, "probabilities",
        lambda: stored(options={"baseline": baselines.leave_one_out(), "probabilities": np.ones(3) / 3})),
    # baselines
    "the optimal constant of one episode": (
        ValueError, "num_episodes", lambda: estimate(num_episodes=1, baseline=baselines.optimal())),
    "the optimal constant of one group": (
        ValueError, "num_groups", lambda: estimate(num_groups=1, baseline=baselines.optimal())),
    "the optimal constant of one pair": (
        ValueError, "groups",
        lambda: estimate(num_episodes=2, sampling=sampling.antithetic(), baseline=baselines.optimal())),
    "the optimal constant of one stored group": (
        ValueError, "num_groups", lambda: stored(options={"baseline": baselines.optimal(), "num_groups": 1})),
    "an optimal constant for V-trace": (
        ValueError, "baseline",
        lambda: estimate(behavior=behavior(), baseline=baselines.optimal(),
                         weight=weights.v_trace(0.9, value=VALUE))),
    "per_coordinate in words": (TypeError, "per_coordinate", lambda: baselines.optimal("each")),
    "one fold": (ValueError, "folds", lambda: baselines.linear(folds=1)),
    "a negative ridge": (ValueError, "ridge", lambda: baselines.linear(ridge=-1.0)),
    "one number for features": (
        ValueError, "features", lambda: estimate(baseline=baselines.linear(lambda o: jnp.sum(o)))),
    # the sum over all actions
    "no action value": (TypeError, "action_value", lambda: weights.all_action(0.9)),
    "an action value of the state": (TypeError, "action_value", lambda: weights.all_action(0.9, lambda o: 0.0)),
    "all actions at a temperature": (
        ValueError, "temperature",
        lambda: estimate(weight=weights.all_action(0.9, lambda o, a: 0.0), temperature=0.1)),
    "all actions less the others' mean": (
        ValueError, "baseline",
        lambda: estimate(weight=weights.all_action(0.9, lambda o, a: 0.0), baseline=baselines.leave_one_out())),
    "all actions of a Beta": (
        TypeError, "Beta", lambda: all_actions(jaxpg.policies.Beta(jnp.ones(2), jnp.ones(2), -1.0, 1.0))),
    "too many nodes": (
        ValueError, "quadrature_points",
        lambda: all_actions(jaxpg.policies.DiagonalNormal(jnp.zeros(2), jnp.zeros(2)), quadrature_points=300)),
    "a clip of nothing": (ValueError, "clip_rho", lambda: weights.v_trace(0.9, value=VALUE, clip_rho=0.0)),
    # sampling schemes
    "half a pair": (ValueError, "multiple of 2", lambda: estimate(num_episodes=5, sampling=sampling.antithetic())),
    "pairs with leave-one-out": (
        ValueError, "antithetic",
        lambda: estimate(sampling=sampling.antithetic(), baseline=baselines.leave_one_out())),
    "pairs with a fit": (
        ValueError, "antithetic", lambda: estimate(sampling=sampling.antithetic(), baseline=baselines.linear())),
    "a name for a scheme": (TypeError, "sampling", lambda: estimate(sampling="antithetic")),
    # num_episodes="auto"
    "as many as it takes": (TypeError, "auto", lambda: estimate(num_episodes="automatic", target_snr=3.0)),
    "no target": (ValueError, "target_snr", lambda: estimate(num_episodes="auto")),
    "a target for so many episodes": (ValueError, "auto", lambda: estimate(target_error=0.1)),
    "a target of nothing": (ValueError, "target_error", lambda: estimate(num_episodes="auto", target_error=0.0)),
    "fewer than the first episodes": (ValueError, "max_episodes", lambda: estimate(**AUTO, max_episodes=100)),
    "groups that do not divide": (ValueError, "num_groups", lambda: estimate(**AUTO, num_groups=7)),
    "groups smaller than a net": (
        ValueError, "num_groups", lambda: estimate(**AUTO, sampling=sampling.quasi_monte_carlo(16))),
    "groups smaller than the baseline's": (
        ValueError, "num_groups", lambda: estimate(**AUTO, baseline=baselines.leave_one_out(10))),
    "a segment of no steps": (
        ValueError, "num_steps",
        lambda: segments.segment(line(), policy(), policy().init(key()),
                                 segments.start_segments(line(), policy(), key(), 2), 0)),
    # what was meant
    "a name where jaxpg.make is wanted": (TypeError, "jaxpg.make('CartPole-v1') makes one",
                                          lambda: jaxpg.a2c("CartPole-v1", policy())),
    "an environment's class": (TypeError, "class Environment itself", lambda: jaxpg.ppo(Environment, policy())),
    "an environment of gymnasium": (TypeError, "cannot be traced", lambda: jaxpg.ppo(gymnasium_env(), policy())),
    "a space of gymnasium": (TypeError, "of gymnasium", lambda: line(action_space=gymnasium_env().action_space)),
    "a policy before the environment": (TypeError, "got a jaxpg Policy", lambda: jaxpg.a2c(policy(), line())),
    "a weight that was not called": (TypeError, "call it, gae(…)", lambda: estimate(weight=weights.gae)),
    "a baseline that was not called": (TypeError, "call it", lambda: estimate(baseline=baselines.leave_one_out)),
    "a scheme that was not called": (TypeError, "call it", lambda: estimate(sampling=sampling.antithetic)),
    "an algorithm that was not built": (TypeError, "call it, ppo(…)",
                                        lambda: jaxpg.train(jaxpg.ppo, key(), num_env_steps=1)),
    "params before the key": (TypeError, "order of the arguments",
                              lambda: jaxpg.policy_gradient(line(), policy(), num_episodes=2)(
                                  policy().init(key()), key())),
    "an array for a key": (TypeError, "shape (2,) and dtype int64", lambda: estimate(the_key=np.array([0, 1]))),
    "a numpy seed": (TypeError, "jax.random.key(3)", lambda: estimate(the_key=np.int64(3))),
    "a million as a float": (TypeError, "write 1_000_000", lambda: estimate(num_episodes=1e6)),
    "a home of its own": (AttributeError, "jaxpg.weights.gae", lambda: jaxpg.gae),
    "a class of another library": (AttributeError, "jaxpg.ppo", lambda: jaxpg.PPO),
    # keywords of other libraries
    "lr": (TypeError, "'learning_rate'", lambda: jaxpg.ppo(line(), policy(), lr=1e-3)),
    "gamma": (TypeError, "'discount'", lambda: jaxpg.ppo(line(), policy(), gamma=0.9)),
    "gamma of a weight": (TypeError, "reward_to_go", lambda: estimate(gamma=0.9)),
    "n_envs": (TypeError, "'num_envs'", lambda: jaxpg.a2c(line(), policy(), n_envs=4)),
    "total_timesteps": (TypeError, "'num_env_steps'",
                        lambda: jaxpg.train(jaxpg.reinforce(line(), policy()), key(), total_timesteps=1)),
    "a typing slip": (TypeError, "'num_minibatches'", lambda: jaxpg.ppo(line(), policy(), num_minibatchs=4)),
    "hidden_dims": (TypeError, "'hidden_sizes'", lambda: jaxpg.policies.mlp(line(), hidden_dims=(4,))),
    "a keyword of nothing": (TypeError, "xyzzy", lambda: jaxpg.ppo(line(), policy(), xyzzy=4)),
    # a policy for another action space
    "a discrete policy on a line": (ValueError, "action_space", lambda: on(line(), policy(discrete()))),
    "a continuous policy for two actions": (ValueError, "action_space", lambda: on(discrete(), policy())),
    "a discrete policy that collects on a line": (
        ValueError, "action_space",
        lambda: rollout.collect(line(), policy(discrete()), policy(discrete()).init(key()), key(), num_episodes=2)),
    "a discrete policy that learns on a line": (
        ValueError, "action_space", lambda: one_update(jaxpg.a2c(line(), policy(discrete())))),
    "another policy's stored actions": (
        ValueError, "action", lambda: jax.eval_shape(lambda key: jaxpg.gradient_from(
            rollout.collect(discrete(), policy(discrete()), policy(discrete()).init(key), key, num_episodes=2)[0],
            policy(), policy().init(key), num_episodes=2), key())),
    "an array for a distribution": (
        ValueError, "distribution",
        lambda: estimate(params=jnp.zeros(2), policy=jaxpg.Policy(init=lambda k: jnp.zeros(2), apply=lambda p, o: p))),
    "a policy that learns without a distribution": (
        TypeError, "distribution",
        lambda: one_update(jaxpg.a2c(line(), jaxpg.Policy(init=lambda k: jnp.zeros(2), apply=lambda p, o: p),
                                     jaxpg.policies.value_mlp(line())))),
    "a mode that there is not": (
        TypeError, "mode()",
        lambda: jaxpg.evaluate(key(), line(), jaxpg.Policy(init=lambda k: {}, apply=lambda p, o: _Vector()), {},
                               deterministic=True)),
    # params
    "a policy for params": (TypeError, "got a jaxpg Policy", lambda: estimate(params=policy())),
    "a string for params": (TypeError, "str ('x')", lambda: estimate(params="x")),
    "params that are not finite": (
        ValueError, "['bias'] must be finite",
        lambda: estimate(params=jax.tree.map(lambda x: x * jnp.nan, policy().init(key())))),
    "NaN in params to evaluate": (
        ValueError, "params['head']['bias'] must be numbers",
        lambda: jaxpg.evaluate(key(), line(), policy(), nan_params(), num_episodes=2)),
    "NaN in params to evaluate by many keys": (
        ValueError, "params['head']['bias'] must be numbers",
        lambda: jax.vmap(lambda k: jaxpg.evaluate(k, line(), policy(), nan_params(), num_episodes=2))(
            jax.random.split(key()))),
    "NaN in params for gymnasium": (
        ValueError, "params['head']['bias'] must be numbers",
        lambda: jaxpg.evaluate_gymnasium(key(), gymnasium_env(), policy(), nan_params(), num_episodes=2)),
    "a value that is not finite": (
        ValueError, "gradient: its norm", lambda: estimate(weight=weights.gae(0.9, 0.9, value=lambda o: jnp.nan))),
    "integer params to learn": (
        TypeError, "dtype int32",
        lambda: one_update(jaxpg.a2c(line(), jaxpg.Policy(init=lambda k: jnp.zeros(2, jnp.int32),
                                                          apply=lambda p, o: _Vector()),
                                     jaxpg.policies.value_mlp(line())))),
    "params for the state of an algorithm": (
        TypeError, "ActorCriticState", lambda: jaxpg.ppo(line(), policy()).step(policy().init(key()))),
    "params for the state of reinforce": (
        TypeError, "ReinforceState", lambda: jaxpg.reinforce(line(), policy()).step(policy().init(key()))),
    "params for the state of a run": (
        TypeError, "field params",
        lambda: jaxpg.train(jaxpg.reinforce(line(), policy()), state=policy().init(key()), num_env_steps=1)),
    # value functions
    "a critic for a value": (TypeError, "critic.apply(critic_params",
                             lambda: weights.gae(0.9, 0.9, jaxpg.policies.value_mlp(line()))),
    "a critic's apply for a value": (TypeError, "critic.apply(critic_params",
                                     lambda: baselines.value(jaxpg.policies.value_mlp(line()).apply)),
    "a value of nothing": (TypeError, "what value gives",
                           lambda: estimate(weight=weights.gae(0.9, 0.9, value=lambda o: None))),
    "a critic of nothing": (
        TypeError, "what critic gives",
        lambda: one_update(jaxpg.a2c(line(), policy(), jaxpg.Critic(init=lambda k: jnp.zeros(2),
                                                                    apply=lambda p, o: None)))),
    "a critic with a vector": (
        ValueError, "critic must give a scalar",
        lambda: one_update(jaxpg.ppo(line(), policy(), jaxpg.Critic(init=lambda k: jnp.zeros(2),
                                                                    apply=lambda p, o: o)))),
    "a number for a segment's value": (
        TypeError, "value",
        lambda: segments.segment(line(), policy(), policy().init(key()),
                                 segments.start_segments(line(), policy(), key(), 2), 1, value=3.0)),
    "params for the state of segments": (
        TypeError, "SegmentState", lambda: segments.segment(line(), policy(), policy().init(key()), key(), 1)),
    "a lane's number for lanes": (
        ValueError, "lanes",
        lambda: segments.restart(line(), policy(), segments.start_segments(line(), policy(), key(), 2), 0)),
    "final_rows in words": (
        TypeError, "final_rows",
        lambda: rollout.collect(line(), policy(), policy().init(key()), key(), num_episodes=2, final_rows="no")),
    "a percentage for a discount": (
        ValueError, "discount",
        lambda: rollout.collect(line(), policy(), policy().init(key()), key(), num_episodes=2, discount=99)),
    "checkpoints to nowhere": (
        ValueError, "directory",
        lambda: jaxpg.train(jaxpg.reinforce(line(), policy()), key(), num_env_steps=1, checkpoint_every=1)),
    "progress in words": (
        TypeError, "progress",
        lambda: jaxpg.train(jaxpg.reinforce(line(), policy()), key(), num_env_steps=1, progress="yes")),
    "an algorithm of numbers": (TypeError, "init", lambda: jaxpg.Algorithm(init=1, step=2)),
    # distributions
    "one number for logits": (ValueError, "logits", lambda: jaxpg.policies.Categorical(0.3).sample(key())),
    "a mask for more actions": (
        ValueError, "mask", lambda: jaxpg.policies.Categorical(jnp.zeros(2), jnp.ones(3, bool)).log_probs()),
    "a seed to sample with": (TypeError, "jax.random.key(0)",
                              lambda: jaxpg.policies.Categorical(jnp.zeros(2)).sample(0)),
    "a log_std for more components": (
        ValueError, "log_std", lambda: jaxpg.policies.DiagonalNormal(jnp.zeros(2), jnp.zeros(3)).sample(key())),
    "one number for an action of two": (
        ValueError, "action", lambda: jaxpg.policies.DiagonalNormal(jnp.zeros(2), jnp.zeros(2)).log_prob(0.0)),
    # arrays and functions
    "words for rewards": (TypeError, "rewards", lambda: weights.discounted_returns("abc", 0.9)),
    "decays of another length": (ValueError, "decays", lambda: backward_recursion(jnp.zeros(3), jnp.zeros(2))),
    "a pair for a trajectory": (TypeError, "collect",
                                lambda: weights.trajectory_weights((1, 2), weights.reward_to_go())),
    "numbers for a recursion": (
        TypeError, "increment", lambda: weights.Weight(increment=1.0, decay=1.0, discount=1.0, state_discount=1.0)),
    "a number for a baseline's function": (TypeError, "function", lambda: baselines.Baseline(function=3)),
    "words for a time baseline": (TypeError, "values", lambda: baselines.time(["a"])),
    "an activation that sums": (
        ValueError, "activation", lambda: jaxpg.policies.mlp(line(), activation=lambda x: jnp.sum(x))),
    "no observation": (TypeError, "observation", lambda: policy().apply(policy().init(key()), None)),
    "words for a bound": (TypeError, "low", lambda: Box("a", 1)),
    "bounds without a shape": (ValueError, "shape=(3,)", lambda: Box(np.zeros(3), np.ones(3))),
    "a dtype that is none": (TypeError, "f33", lambda: Box(-1, 1, (2,), "f33")),
    "a product of another shape": (
        ValueError, "matrix_vector_product", lambda: natural.solve(lambda v: 3.0, jnp.ones(2))),
    "an environment for an MDP": (TypeError, "FiniteMDP",
                                  lambda: exact.trajectories(exact.chain(3, horizon=4).environment())),
    "params for a policy of an MDP": (
        TypeError, "policy", lambda: exact.chain(3, horizon=4).objective(jnp.zeros((3, 2)), policy())),
    "a table of another MDP": (
        ValueError, "(3, 2)",
        lambda: exact.chain(3, horizon=4).objective(
            jaxpg.policies.tabular(exact.chain(5, horizon=4).environment()), jnp.zeros((5, 2)))),
    "squashed choices": (
        ValueError, "squash='tanh' is for actions that are real numbers",
        lambda: jaxpg.policies.mlp(discrete(), squash=True)),
    "squashed choices of another network": (
        ValueError, "squash='beta'",
        lambda: jaxpg.policies.from_network(discrete(), (lambda k: {}, lambda p, o: o), squash="beta")),
    "deviations of choices": (
        ValueError, "state_dependent_std=True",
        lambda: jaxpg.policies.recurrent(discrete(), state_dependent_std=True)),
    "a log_std of choices": (
        ValueError, "log_std_init=-1.0", lambda: jaxpg.policies.mlp(discrete(), log_std_init=-1.0)),
    "scores upside down": (
        ValueError, "low must be below high", lambda: stats.normalize([1.0, 2.0], 500.0, 20.0)),
    "words for a bandit": (TypeError, "means", lambda: exact.bandit("a")),
    "half an integer": (TypeError, "low", lambda: sweeps.integers(0.5, 3)),
    "one setting for a list": (TypeError, "settings", lambda: sweeps.samples({"a": 1})),
    "words for thresholds": (TypeError, "thresholds", lambda: stats.performance_profile([1.0, 2.0, 3.0], "a")),
    "a name to draw": (TypeError, "env", lambda: render.drawing("CartPole-v1")),
}  # fmt: skip


class _Vector:
    def sample(self, key):
        return jnp.zeros(2)

    def log_prob(self, action):
        return jnp.zeros(2)


def test_the_good_environment_is_good():
    assert math.isfinite(estimate().objective)
    assert math.isfinite(stored().objective)
    assert dataclasses.is_dataclass(line())


@pytest.mark.parametrize("case", CASES)
def test_bad_input_gives_one_clear_error(case):
    kind, word, call = CASES[case]
    with pytest.raises(kind) as caught:
        call()
    assert isinstance(caught.value, (ValueError, TypeError, AttributeError)), repr(caught.value)
    assert word in str(caught.value), str(caught.value)
    assert len(str(caught.value)) < 1000


def test_hints_leave_signatures_alone():
    found = inspect.signature(jaxpg.ppo).parameters
    assert list(found)[:3] == ["env", "policy", "critic"] and found["discount"].default == 0.99
    assert jaxpg.ppo.__doc__.startswith("PPO with generalized advantages")
    assert inspect.getsource(jaxpg.weights.gae).startswith("@hinted\ndef gae(")


def test_what_is_also_called_something_exists():
    functions = (jaxpg.ppo, jaxpg.train, jaxpg.sweep, jaxpg.evaluate, jaxpg.policies.mlp)
    names = set().union(*(inspect.signature(function).parameters for function in functions))
    assert set(_ALSO_CALLED) - {"out"} <= names  # An option of the command line alone.


def test_there_are_many_cases():
    assert len(CASES) >= 40


def test_nonfinite_rewards_are_counted_where_no_error_can_be_raised():
    env = nonfinite_reward()
    chosen = policy()
    found = jax.jit(jaxpg.policy_gradient(env, chosen, num_episodes=4))(key(), chosen.init(key()))
    assert int(found.num_nonfinite) == 4
