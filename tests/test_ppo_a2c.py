"""PPO and A2C: held against `policy_gradient`, against each other, and against transcriptions in plain numpy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxpg
from jaxpg import weights
from jaxpg.algorithms import _parts
from jaxpg.algorithms._batch import Batch
from jaxpg.envs import Box, Discrete, Environment, Timestep


def line(max_steps=5, **options):
    """A point on a line: every episode lasts `max_steps` steps; `ends` makes the last one a termination."""
    ends = options.pop("ends", False)

    def observe(state):
        position, time = state
        return jnp.stack([position, time / max_steps])

    def reset(key):
        state = (jax.random.normal(key), jnp.zeros(()))
        return state, observe(state)

    def step(key, state, action):
        position = state[0] + 0.3 * (action * 2 - 1) + 0.1 * jax.random.normal(key)
        state = (position, state[1] + 1)
        done = state[1] >= max_steps
        flags = (done, jnp.zeros((), bool)) if ends else (jnp.zeros((), bool), done)
        return state, Timestep(observe(state), -(position**2), *flags)

    return Environment(
        reset=reset, step=step, observation_space=Box(-10, 10, (2,)), action_space=Discrete(2), max_steps=max_steps
    )


def models(env, size=8):
    return jaxpg.policies.mlp(env, (size,), head_gain=1.0), jaxpg.policies.value_mlp(env, (size,))


def close(got, want, **tolerance):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, **(tolerance or {"rtol": 1e-5, "atol": 1e-7})), got, want
    )


def plain_step(algorithm, state):
    """The change of the policy's parameters in one update, by gradient descent with rate 1."""
    after, metrics = jax.jit(algorithm.step)(state)
    return jax.tree.map(jnp.subtract, after.params, state.params), metrics


@pytest.mark.parametrize("objective", ["clip", pytest.param("kl", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["ppo", pytest.param("a2c", marks=pytest.mark.slow)])
def test_the_first_gradient_is_the_policy_gradient(key, name, objective, x64):
    """Whole episodes of one length, γ^t off, no standardisation: per step, ∇L is ∇J of `gradient_from` over T."""
    env, num_envs, length = line(ends=True), 6, 5
    policy, critic = models(env)
    same = dict(num_envs=num_envs, num_steps=length, discount=0.9, lambda_=0.8, optimizer=optax.sgd(1.0),
                max_gradient_norm=None, value_coefficient=0.0)  # fmt: skip
    if name == "ppo":
        same |= dict(num_epochs=1, num_minibatches=1, normalize_advantages=None, objective=objective)
    elif objective == "kl":
        pytest.skip("A2C has one objective")
    algorithm = getattr(jaxpg, name)(env, policy, critic, **same)
    state = algorithm.init(key)
    change, metrics = plain_step(algorithm, state)

    _, played = jaxpg.segments.segment(env, policy, state.params, state.lanes, length, final_rows=False)
    trajectory = played.trajectory
    trajectory = trajectory._replace(episode=jnp.broadcast_to(jnp.arange(num_envs), (length, num_envs)))
    weight = weights.gae(0.9, 0.8, lambda o: critic.apply(state.critic_params, o), discount_states=False)
    estimate = jaxpg.gradient_from(trajectory, policy, state.params, weight, jaxpg.baselines.none())
    close(change, jax.tree.map(lambda g: g / length, estimate.gradient), rtol=1e-6, atol=1e-9)
    assert int(metrics["env_steps"]) == num_envs * length
    np.testing.assert_allclose(metrics["episode_return"], estimate.episode_return, rtol=1e-9)


@pytest.mark.parametrize(
    "limit", [pytest.param(3, id="inside"), pytest.param(4, id="at the end of the segment", marks=pytest.mark.slow)]
)
def test_a2c_is_ppo_with_one_epoch_and_one_batch(key, limit):
    env = line(limit)
    policy, critic = models(env)
    same = dict(num_envs=4, num_steps=7, discount=0.95, lambda_=0.9, entropy_coefficient=0.02, learning_rate=0.01,
                value_coefficient=0.7, scale_rewards=True)  # fmt: skip
    a = jaxpg.a2c(env, policy, critic, normalize_advantages=True, **same)
    p = jaxpg.ppo(env, policy, critic, num_epochs=1, num_minibatches=1, normalize_advantages="batch", **same)
    one, other = a.init(key), p.init(key)
    for _ in range(6):
        one, other = jax.jit(a.step)(one)[0], jax.jit(p.step)(other)[0]
    close((one.params, one.critic_params), (other.params, other.critic_params), rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_truncation_bootstraps_from_the_observation_before_the_reset(key):
    """γ = 1, λ = 0, V given: δ at a truncated step holds V of its final observation, at a terminated one 0."""
    env = line(3)
    policy, critic = models(env)
    seen = {}

    def advantages(batch, discount, lambda_):
        seen.update(batch=batch)
        return honest(batch, discount, lambda_)

    honest = _parts.advantages
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_parts, "advantages", advantages)
        algorithm = jaxpg.a2c(env, policy, critic, num_envs=2, num_steps=8)
        state = algorithm.init(key)
        algorithm.step(state)
    batch = seen["batch"]
    estimates, targets = honest(batch, 0.9, 0.7)
    trajectory = jaxpg.segments.segment(env, policy, state.params, state.lanes, 8)[1].trajectory
    for lane in range(2):  # Rows 0–2 are an episode, row 3 its final observation, rows 4–6 the next, 7 its last one's.
        values = [float(critic.apply(state.critic_params, o)) for o in trajectory.observation[:, lane]]
        for start in (0, 4):
            after = 0.0
            for t in reversed(range(start, start + 3)):
                delta = float(trajectory.reward[t, lane]) + 0.9 * values[t + 1] - values[t]
                after = delta + (0.9 * 0.7 * after if t < start + 2 else 0.0)
                np.testing.assert_allclose(estimates[t, lane], after, rtol=1e-4, atol=1e-5)
                np.testing.assert_allclose(targets[t, lane], after + values[t], rtol=1e-4, atol=1e-5)
    assert np.array_equal(np.asarray(batch.valid[:, 0]), [1, 1, 1, 0, 1, 1, 1, 0])


def test_what_lies_in_rows_without_a_step_is_not_looked_at(key):
    """An environment whose steps after the end give NaN: rows that hold a final observation are such steps."""
    good = line(3)

    def step(key, state, action):
        after, timestep = good.step(key, state, action)
        late = state[1] >= 3
        return after, timestep._replace(reward=jnp.where(late, jnp.nan, timestep.reward))

    env = dataclasses.replace(good, step=step)
    policy, critic = models(env)
    one, other = (
        jaxpg.ppo(e, policy, critic, num_envs=4, num_steps=8, num_minibatches=2, scale_rewards=True)
        for e in (good, env)
    )
    state = one.init(key)
    after, metrics = jax.jit(other.step)(state)
    assert int(metrics["nonfinite"]) == 0
    close(after.params, jax.jit(one.step)(state)[0].params)


@pytest.mark.slow
def test_the_loss_is_that_of_the_paper(key):
    """Clipped ratios, clipped values, entropy, written out step by step, where parameters have moved."""
    env = line(4)
    policy, critic = models(env)
    options = dict(num_envs=4, num_steps=6, num_epochs=2, num_minibatches=1, normalize_advantages=None)
    algorithm = jaxpg.ppo(env, policy, critic, **options, clip=0.05, value_clip=0.1, entropy_coefficient=0.3,
                          optimizer=optax.sgd(0.5), max_gradient_norm=None, discount=0.9, lambda_=0.8)  # fmt: skip
    state = algorithm.init(key)
    first = jaxpg.ppo(env, policy, critic, **{**options, "num_epochs": 1}, clip=0.05, value_clip=0.1,
                      entropy_coefficient=0.3, optimizer=optax.sgd(0.5), max_gradient_norm=None, discount=0.9,
                      lambda_=0.8)  # fmt: skip
    moved = jax.jit(first.step)(state)[0]
    got, _ = jax.jit(algorithm.step)(state)
    played = jaxpg.segments.segment(env, policy, state.params, state.lanes, 6)
    lanes, trajectory = played[0].lanes, played[1].trajectory
    value = jax.vmap(jax.vmap(lambda o: critic.apply(state.critic_params, o)))(trajectory.observation)
    last = jax.vmap(lambda o: critic.apply(state.critic_params, o))(lanes.observation)
    next_value = jnp.concatenate([value[1:], last[None]])
    reward = jnp.where(trajectory.valid, trajectory.reward, 0.0)
    advantage = weights.generalized_advantages(
        reward, value, next_value, trajectory.terminated, trajectory.truncated, 0.9, 0.8
    )
    rows = np.argwhere(np.asarray(trajectory.valid))

    def loss(pair):
        total = 0.0
        for t, lane in rows:
            o, a = trajectory.observation[t, lane], trajectory.action[t, lane]
            distribution, v = policy.apply(pair[0], o), critic.apply(pair[1], o)
            ratio = jnp.exp(distribution.log_prob(a) - trajectory.log_prob[t, lane])
            gain = advantage[t, lane]
            total -= jnp.minimum(ratio * gain, jnp.clip(ratio, 0.95, 1.05) * gain)
            target, v_old = advantage[t, lane] + value[t, lane], value[t, lane]
            far = v_old + jnp.clip(v - v_old, -0.1, 0.1)
            total += 0.5 * 0.5 * jnp.maximum((v - target) ** 2, (far - target) ** 2) - 0.3 * distribution.entropy()
        return total / len(rows)

    gradient = jax.jit(jax.grad(loss))((moved.params, moved.critic_params))
    want = jax.tree.map(lambda p, g: p - 0.5 * g, (moved.params, moved.critic_params), gradient)
    close((got.params, got.critic_params), want, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_divergence_above_the_bound_ends_the_update(key):
    env = line(5)
    policy, critic = models(env)
    options = dict(num_envs=4, num_steps=6, num_epochs=6, num_minibatches=2, optimizer=optax.sgd(3.0))
    bounded = jaxpg.ppo(env, policy, critic, max_kl=1e-3, **options)
    state = bounded.init(key)
    after, metrics = jax.jit(bounded.step)(state)
    steps = int(metrics["gradient_steps"])
    assert 0 < steps < 12
    _, without = jax.jit(jaxpg.ppo(env, policy, critic, **options).step)(state)
    assert int(without["gradient_steps"]) == 12 and float(without["kl"]) > float(metrics["kl"])
    # The optimiser's steps count, too: a schedule does not run on.
    schedule = jaxpg.ppo(env, policy, critic, max_kl=1e-3, **{**options, "optimizer": optax.sgd(lambda n: 3.0)})
    counted = jax.jit(schedule.step)(schedule.init(key))[0]
    counts = [int(x) for x in jax.tree.leaves(counted.learner.optimizer) if x.dtype == jnp.int32]
    assert counts == [steps]


@pytest.mark.slow
def test_the_penalty_follows_the_divergence(key):
    """β doubles after a large divergence, is halved after a small one, and stays in between."""
    env = line(5)
    policy, critic = models(env)

    def betas(rate, target, start=1.0):
        algorithm = jaxpg.ppo(env, policy, critic, num_envs=4, num_steps=6, num_epochs=2, num_minibatches=2,
                              objective="kl", kl_coefficient=start, kl_target=target,
                              optimizer=optax.sgd(rate))  # fmt: skip
        state, metrics = jax.jit(algorithm.step)(algorithm.init(key))
        return float(metrics["kl_coefficient"]), float(state.learner.kl_coefficient)

    assert betas(1e-6, 0.01) == (1.0, 0.5)
    assert betas(3.0, 1e-6) == (1.0, 2.0)
    assert betas(1e-6, None, 0.3) == (pytest.approx(0.3), pytest.approx(0.3))


def test_schedules_count_updates(key):
    env = line(5)
    policy, critic = models(env)
    rates = optax.piecewise_constant_schedule(0.1, {2: 0.0})  # 0.1 for two updates, then 0.
    algorithm = jaxpg.ppo(env, policy, critic, num_envs=2, num_steps=6, num_epochs=3, num_minibatches=2,
                          learning_rate=rates, clip=optax.linear_schedule(0.2, 0.1, 10))  # fmt: skip
    state, step = algorithm.init(key), jax.jit(algorithm.step)
    moves = []
    for _ in range(3):
        before, (state, _) = state.params, step(state)
        moves.append(max(float(jnp.abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, (before, state.params)))))
    assert moves[0] > 1e-3 and moves[1] > 1e-3 and moves[2] == 0


@pytest.mark.parametrize("clip, told", [(optax.linear_schedule(0.2, 0.1, 10), [0.2, 0.19, *6 * [0.1]]),
                                        (lambda count: 0.3, 8 * [0.3])])  # fmt: skip
def test_a_schedule_is_told_by_its_values(clip, told):
    """Of counts 0, 1, 10, 100 and so on: by these a run that goes on sees whether it is the same."""
    env = line(5)
    config = jaxpg.ppo(env, *models(env), num_envs=2, num_steps=6, num_minibatches=2, clip=clip).config
    assert config["clip"]["schedule"] == pytest.approx(told)


def test_a_schedule_does_not_lag_where_steps_are_left_out(key):
    """The first two updates leave out nearly all of their steps; the third has a rate of 0 nevertheless."""
    env = line(5)
    policy, critic = models(env)
    rates = optax.piecewise_constant_schedule(0.1, {2: 0.0})
    algorithm = jaxpg.ppo(env, policy, critic, num_envs=2, num_steps=6, num_epochs=3, num_minibatches=2, max_kl=1e-8,
                          learning_rate=rates)  # fmt: skip
    state, step = algorithm.init(key), jax.jit(algorithm.step)
    for _ in range(2):
        state, metrics = step(state)
        assert int(metrics["gradient_steps"]) < 6
    close(step(state)[0].params, state.params, rtol=0, atol=0)


@pytest.mark.slow
def test_a_minibatch_without_a_step_is_left_out(key):
    """Episodes of one step, cut: every other row holds a final observation, and so do whole minibatches of one row."""
    env = line(1)
    policy, critic = models(env)
    options = dict(num_envs=2, num_steps=4, num_epochs=2, num_minibatches=8)
    for algorithm in (
        jaxpg.ppo(env, policy, critic, normalize_advantages="batch", max_kl=10.0, **options),
        jaxpg.v_mpo(env, policy, critic, **options),
    ):
        state, metrics = jax.jit(algorithm.step)(algorithm.init(key))
        assert int(metrics["nonfinite"]) == 0 and int(metrics["env_steps"]) == 4
        assert all(np.isfinite(x) for name, x in metrics.items() if name != "explained_variance"), metrics


@pytest.mark.slow
def test_the_penalty_stays_within_bounds(key):
    env = line(5)
    policy, critic = models(env)
    algorithm = jaxpg.ppo(env, policy, critic, num_envs=4, num_steps=6, num_epochs=1, num_minibatches=2,
                          objective="kl", kl_coefficient=1e-6, optimizer=optax.sgd(1e-9))  # fmt: skip
    state, _ = jax.jit(algorithm.step)(algorithm.init(key))
    assert float(state.learner.kl_coefficient) == pytest.approx(1e-6)  # Halved it would be on its way to 0.


@pytest.mark.slow
def test_hyperparameters_may_be_traced(key):
    """One program for several: the k-th member is what a run with the k-th values alone gives."""
    env = line(5)
    policy, critic = models(env)

    def update(values):
        rate, clip, discount, lambda_, bonus, coefficient, value_clip, norm = values
        algorithm = jaxpg.ppo(env, policy, critic, num_envs=2, num_steps=6, num_epochs=2, num_minibatches=2,
                              learning_rate=rate, clip=clip, discount=discount, lambda_=lambda_,
                              entropy_coefficient=bonus, value_coefficient=coefficient, value_clip=value_clip,
                              max_gradient_norm=norm, max_kl=discount)  # fmt: skip
        return algorithm.step(algorithm.init(key))[0].params

    values = jnp.array([[1e-2, 0.2, 0.9, 0.95, 0.01, 0.5, 0.2, 0.5], [1e-3, 0.1, 0.99, 0.9, 0.0, 0.4, 0.1, 1.0]])
    together = jax.jit(jax.vmap(update))(values)
    for k in range(2):
        close(jax.tree.map(lambda x, k=k: x[k], together), update(list(map(float, values[k]))), rtol=1e-4, atol=1e-6)


def test_metrics_name_what_they_are(key):
    """`episode_return` is missing, not 0, before an episode has ended; then the mean of those that ended, unscaled."""
    env = line(9)
    policy, critic = models(env)
    algorithm = jaxpg.a2c(env, policy, critic, num_envs=3, num_steps=5, scale_rewards=True)
    state, metrics = jax.jit(algorithm.step)(algorithm.init(key))
    assert int(metrics["num_episodes"]) == 0 and np.isnan(metrics["episode_return"])
    before = algorithm.init(key)
    played = [jaxpg.segments.segment(env, policy, before.params, before.lanes, 5)]
    played.append(jaxpg.segments.segment(env, policy, state.params, played[0][0], 5))
    state, metrics = jax.jit(algorithm.step)(state)
    rewards = np.concatenate([np.where(p[1].trajectory.valid, p[1].trajectory.reward, 0) for p in played])
    assert int(metrics["num_episodes"]) == 3 and float(metrics["episode_length"]) == 9
    np.testing.assert_allclose(metrics["episode_return"], rewards[:9].sum(0).mean(), rtol=1e-5)


def batch_of(reward, ended, valid):
    reward = jnp.asarray(reward)
    none = jnp.zeros(reward.shape, bool)
    zeros = jnp.zeros(reward.shape)
    return Batch(None, None, zeros, reward, none, ended, valid, none, zeros, zeros[0], None, None)


def test_reward_scale_is_that_of_running_returns_and_stops_at_ends():
    rng = np.random.default_rng(0)
    rewards = 3 + 2 * rng.normal(size=(2, 40, 3)).astype(np.float32)
    ended, valid = rng.random((2, 40, 3)) < 0.2, rng.random((2, 40, 3)) < 0.9
    rewards = np.where(valid, rewards, 0)
    scale, running, seen = _parts.start_reward_scale(3), np.zeros(3), []
    for segment in range(2):
        scale, got = _parts.scaled_rewards(scale, *(jnp.asarray(x[segment]) for x in (rewards, ended, valid)), 0.9)
        for t in range(40):
            for lane in range(3):
                if valid[segment, t, lane]:
                    running[lane] = 0.9 * running[lane] + rewards[segment, t, lane]
                    seen.append(running[lane])
                    running[lane] *= not ended[segment, t, lane]
        np.testing.assert_allclose(got, rewards[segment] / np.std(seen), rtol=1e-4)
    np.testing.assert_allclose(scale.running, running, rtol=1e-5)


def test_standardising_leaves_out_rows_without_a_step():
    values, mask = jnp.array([1.0, 2.0, 100.0, 4.0]), jnp.array([True, True, False, True])
    got = _parts.standardized(values, mask)
    kept = np.array([1.0, 2.0, 4.0])
    np.testing.assert_allclose(got[np.array([0, 1, 3])], (kept - kept.mean()) / kept.std(), rtol=1e-5)
    assert float(got[2]) == 0


@pytest.mark.slow
def test_each_step_is_learnt_from_once_in_an_epoch(key):
    """Minibatches are a partition: with a rate so small that nothing moves, their gradients add up to the whole's."""
    env = line(5)
    policy, critic = models(env)
    options = dict(num_envs=4, num_steps=6, num_epochs=1, normalize_advantages="batch", optimizer=optax.sgd(1e-3),
                   max_gradient_norm=None)  # fmt: skip
    one, many = (jaxpg.ppo(env, policy, critic, num_minibatches=m, **options) for m in (1, 4))
    state = one.init(key)
    whole, parts = plain_step(one, state)[0], plain_step(many, state)[0]
    whole, parts = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)]) for tree in (whole, parts))
    assert np.linalg.norm(parts / 4 - whole) < 0.05 * np.linalg.norm(whole)


def poisoned(bad_lane_start=0.0):
    """A line on which an episode that starts above 0.8 gives a NaN reward at its second step."""
    good = line(4)

    def reset(key):
        state, observation = good.reset(key)
        return (*state, state[0] > 0.8), observation

    def step(key, state, action):
        after, timestep = good.step(key, state[:2], action)
        reward = jnp.where(state[2] & (state[1] == 1), jnp.nan, timestep.reward)
        return (*after, state[2]), timestep._replace(reward=reward)

    return dataclasses.replace(good, reset=reset, step=step)


def test_a_refused_update_leaves_no_running_return_behind(key):
    """Every lane's G is that of its own episode, whether its rewards were learnt from or not."""
    env = poisoned()
    policy, critic = models(env)
    algorithm = jaxpg.a2c(env, policy, critic, num_envs=4, num_steps=3, scale_rewards=True, discount=1.0)
    step, state = jax.jit(algorithm.step), algorithm.init(key)
    refused = 0
    for _ in range(8):
        before = state
        state, metrics = step(state)
        if metrics["nonfinite"]:
            refused += 1
            assert float(state.reward_scale.count) == float(before.reward_scale.count)
        lanes = state.lanes.lanes
        playing = ~np.asarray(lanes.final)  # The others wait with the return of the episode that has ended.
        np.testing.assert_allclose(state.reward_scale.running, lanes.returns * playing, rtol=1e-5, atol=1e-5)
    assert refused


@pytest.mark.slow
def test_a_memory_that_is_not_finite_is_left(key):
    """A memory that overflows at the third step: the lane is to blame, and begins anew."""
    env = line(9)
    mlp, critic = models(env)
    policy = jaxpg.Policy(init=mlp.init, apply=lambda p, o, c: (mlp.apply(p, o), c * 1e15), initial_carry=jnp.ones(()))
    algorithm = jaxpg.a2c(env, policy, critic, num_envs=2, num_steps=4)
    state, metrics = jax.jit(algorithm.step)(algorithm.init(key))
    assert int(metrics["nonfinite"]) == 2 and int(metrics["nonfinite_episode"]) == 0
    assert np.array_equal(state.lanes.lanes.episode, [1, 1]) and np.array_equal(state.lanes.lanes.carry, [1, 1])


@pytest.mark.parametrize("name", [pytest.param("ppo", marks=pytest.mark.slow), "a2c"])
def test_an_update_with_a_nan_is_counted_named_and_not_applied(key, name):
    env = poisoned()
    policy, critic = models(env)
    options = {"num_minibatches": 2} if name == "ppo" else {}
    algorithm = getattr(jaxpg, name)(env, policy, critic, num_envs=4, num_steps=3, **options)
    step, state = jax.jit(algorithm.step), algorithm.init(key)
    skipped = 0
    for _ in range(8):
        before = state
        state, metrics = step(state)
        if metrics["nonfinite"] == 0:
            continue
        skipped += 1
        close((state.params, state.critic_params, state.learner), (before.params, before.critic_params, before.learner))
        lane, episode = int(metrics["nonfinite_lane"]), int(metrics["nonfinite_episode"])
        episode_key = jax.random.fold_in(jax.random.fold_in(algorithm.episode_key(state), lane), episode)
        start, _ = env.reset(jax.random.fold_in(episode_key, 0))
        assert bool(start[2])  # It is to blame.
        assert int(state.lanes.lanes.episode[lane]) > episode  # And it is left.
    assert 0 < skipped < 8
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves((state.params, state.critic_params)))


@pytest.mark.slow
def test_a_seed_that_diverges_leaves_the_others_alone(key):
    env = line(5)
    policy, critic = models(env)

    def run(rate, key):
        algorithm = jaxpg.ppo(env, policy, critic, num_envs=2, num_steps=6, num_epochs=2, num_minibatches=2,
                              optimizer=optax.sgd(rate), max_gradient_norm=None)  # fmt: skip
        state, metrics = algorithm.step(algorithm.init(key))
        return algorithm.step(state)[0].params, metrics["nonfinite"]

    keys = jax.random.split(key, 2)
    params, bad = jax.jit(jax.vmap(run))(jnp.array([0.01, 1e38]), keys)
    alone, none = jax.jit(run)(0.01, keys[0])
    assert int(bad[1]) == 1 and int(bad[0]) == int(none) == 0
    close(jax.tree.map(lambda x: x[0], params), alone)
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(params))


BAD = {
    "minibatches that are not of one size": ("num_minibatches", "nearest are 4 and 6", dict(num_minibatches=5)),
    "minibatches of one step": ("num_minibatches", "one step", dict(num_minibatches=12)),
    "an unknown objective": ("objective", "'clip', 'kl'", dict(objective="trust")),
    "a rate and an optimiser": ("learning_rate", "both", dict(learning_rate=1e-3, optimizer=optax.sgd(1.0))),
    "a negative clip": ("clip", "(0, inf)", dict(clip=-0.2)),
    "an unknown standardisation": ("normalize_advantages", "'minibatch', 'batch'", dict(normalize_advantages="all")),
    "no environments": ("num_envs", "at least 1", dict(num_envs=0)),
    "a critic that is none": ("critic", "Critic", dict(critic=lambda o: 0.0)),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_named(case):
    argument, accepted, options = BAD[case]
    env = line(5)
    policy, critic = models(env)
    options = {"num_envs": 4, "num_steps": 3, "num_minibatches": 2, "critic": critic, **options}
    with pytest.raises((ValueError, TypeError), match=argument) as error:
        jaxpg.ppo(env, policy, **options)
    assert accepted in str(error.value)


def test_a_policy_of_ones_own_needs_a_critic():
    env = line(5)
    policy = jaxpg.Policy(init=lambda key: jnp.zeros(2), apply=lambda p, o: jaxpg.policies.Categorical(p))
    with pytest.raises(ValueError, match="critic must be given"):
        jaxpg.ppo(env, policy)
    assert jaxpg.ppo(env, policy, jaxpg.policies.value_mlp(env), num_envs=2, num_steps=8).name == "ppo"


@pytest.mark.slow
@pytest.mark.learning
@pytest.mark.parametrize("name", ["ppo", "a2c"])
def test_cartpole_is_learnt(name):
    env = jaxpg.make("CartPole-v1")
    policy, critic = jaxpg.policies.mlp(env), jaxpg.policies.value_mlp(env)
    budget = {"ppo": 100_000, "a2c": 300_000}[name]
    algorithm = getattr(jaxpg, name)(env, policy, critic, learning_rate=1e-3)
    result = jaxpg.train(algorithm, jax.random.key(1), num_env_steps=budget)
    scores = jaxpg.evaluate(jax.random.key(2), env, policy, result.params, num_episodes=64)
    assert float(scores.returns.mean()) > 400
