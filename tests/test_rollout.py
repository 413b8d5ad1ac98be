"""Whole episodes packed on lanes, and segments: which steps are played, in which order, by which keys."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpg
from jaxpg import lanes, rollout, segments
from jaxpg.envs import Box, Discrete, Environment, Timestep


def countdown(max_steps=None, terminate=True):
    """Starts at a random number 3 … 9 and counts down; ends at 0 if `terminate`. The reward is the number."""

    def reset(key):
        start = jax.random.randint(key, (), 3, 10)
        return {"left": start}, start.astype(jnp.float32)[None]

    def step(key, state, action):
        left = state["left"] - 1
        noise = jax.random.uniform(key)
        observation = left.astype(jnp.float32)[None]
        return {"left": left}, Timestep(observation, left + noise, terminate & (left <= 0), jnp.zeros((), bool))

    return Environment(
        reset=reset,
        step=step,
        observation_space=Box(-jnp.inf, jnp.inf, (1,)),
        max_steps=max_steps,
        action_space=Discrete(2),
        name="countdown",
    )


def by_hand(env, policy, params, key, episode):
    """One episode by the documented keys, in a Python loop: [(observation, action, reward, terminated, truncated)]."""
    episode_key = jax.random.fold_in(key, episode)
    state, observation = env.reset(jax.random.fold_in(episode_key, 0))
    steps, time = [], 0
    while True:
        step_key = jax.random.fold_in(episode_key, time + 1)
        action = policy.apply(params, observation).sample(step_key)
        state, timestep = env.step(jax.random.fold_in(step_key, np.uint32(2**32 - 1)), state, action)
        time += 1
        terminated = bool(timestep.terminated)
        truncated = not terminated and (bool(timestep.truncated) or time == env.max_steps)
        steps.append((np.asarray(observation), np.asarray(action), float(timestep.reward), terminated, truncated))
        observation = timestep.observation
        if terminated or truncated:
            return steps, np.asarray(observation)


def steps_by_name(trajectory, fields=("observation", "action", "reward", "terminated", "truncated")):
    """{(episode, time): values} of all valid steps."""
    valid = np.asarray(trajectory.valid)
    out = {}
    arrays = {f: np.asarray(getattr(trajectory, f)) for f in fields}
    for row, lane in np.argwhere(valid):
        name = (int(trajectory.episode[row, lane]), int(trajectory.time[row, lane]))
        assert name not in out, f"step {name} was played twice"
        out[name] = tuple(arrays[f][row, lane] for f in fields)
    return out


def finite_mdp(horizon=6):
    rng = np.random.default_rng(3)
    return jaxpg.exact.FiniteMDP(
        rng.dirichlet(np.ones(5), (5, 3)),
        rng.normal(size=(5, 3)),
        np.array([0.4, 0.3, 0.3, 0.0, 0.0]),
        discount=0.9,
        horizon=horizon,
        terminal=np.arange(5) == 4,
    )


ENVIRONMENTS = {
    "countdown": lambda: countdown(20),
    "countdown cut at 5": lambda: countdown(5),
    "CartPole-v1": lambda: jaxpg.make("CartPole-v1", max_steps=60),
    "finite MDP": lambda: finite_mdp().environment(),
}


@pytest.mark.parametrize("name", ENVIRONMENTS)
@pytest.mark.parametrize("num_lanes", [1, 4, pytest.param(13, marks=pytest.mark.slow)])
def test_episodes_are_those_played_by_hand(name, num_lanes, key):
    env = ENVIRONMENTS[name]()
    policy = jaxpg.policies.tabular(env) if name == "finite MDP" else jaxpg.policies.mlp(env, (8,))
    params = policy.init(jax.random.key(1))
    trajectory, statistics = jax.jit(
        lambda k: rollout.collect(env, policy, params, k, num_episodes=13, num_lanes=num_lanes)
    )(key)
    found = steps_by_name(trajectory)
    count = 0
    for episode in range(13):
        steps, _ = by_hand(env, policy, params, key, episode)
        assert int(statistics.length[episode]) == len(steps)
        np.testing.assert_allclose(statistics.returns[episode], sum(s[2] for s in steps), rtol=1e-5)
        for time, step in enumerate(steps):
            for have, want in zip(found[episode, time], step, strict=True):
                np.testing.assert_allclose(have, want, rtol=1e-4, atol=1e-5)
        count += len(steps)
    assert len(found) == count


def test_finite_mdp_episodes_are_the_same_bit_for_bit_on_any_lanes(key):
    env = finite_mdp().environment()
    policy = jaxpg.policies.tabular(env)
    params = jax.random.normal(jax.random.key(1), (5, 3))
    reference = None
    for num_lanes in (1, 7, 64):
        trajectory, _ = rollout.collect(env, policy, params, key, num_episodes=64, num_lanes=num_lanes)
        found = steps_by_name(trajectory, ("observation", "action", "reward", "terminated"))
        reference = reference or found
        assert found == reference


def test_a_truncated_episode_is_followed_by_its_final_observation(key):
    env = countdown(5)
    policy = jaxpg.policies.mlp(env, (4,))
    params = policy.init(key)
    trajectory, _ = rollout.collect(env, policy, params, key, num_episodes=20, num_lanes=3)
    seen = 0
    for row, lane in np.argwhere(np.asarray(trajectory.valid & trajectory.truncated)):
        steps, final = by_hand(env, policy, params, key, int(trajectory.episode[row, lane]))
        assert not trajectory.valid[row + 1, lane]
        np.testing.assert_array_equal(trajectory.observation[row + 1, lane], final)
        assert len(steps) == 5 and steps[-1][4]
        seen += 1
    assert seen > 5
    both = np.asarray(trajectory.terminated & trajectory.truncated & trajectory.valid)
    assert not both.any()


def test_no_row_is_spent_on_final_observations_nobody_asked_for(key):
    env = countdown(5, terminate=False)
    policy = jaxpg.policies.mlp(env, (4,))
    trajectory, _ = rollout.collect(env, policy, policy.init(key), key, num_episodes=8, num_lanes=2, final_rows=False)
    assert bool(trajectory.valid[:20].all()) and not bool(trajectory.valid[20:].any())


@pytest.mark.slow
def test_unfinished_episodes_are_played_again_whole(key):
    """With room for a few rows only, every episode still comes out once, by its own key."""
    env = countdown(10)
    policy = jaxpg.policies.mlp(env, (4,))
    params = policy.init(key)
    full, _ = rollout.collect(env, policy, params, key, num_episodes=40, num_lanes=4)
    reference = steps_by_name(full)
    example = jax.tree.map(lambda x: jnp.zeros((12, *x.shape[1:]), x.dtype), full)
    queue, player = rollout.Queue.of(0, 0, 4), lanes.Player(env=env, policy=policy, final_rows=True)
    found, rounds, left = {}, 0, 40
    while left:
        queue = queue._replace(num_slots=queue.num_pending + 40 - queue.next_id)
        buffer, _, statistics, rest = rollout.episodes(player, params, key, queue, example, num_rows=12, max_slots=40)
        slots = jnp.arange(40)
        done = {int(s): int(queue.ids(s)) for s in slots[statistics.length > 0]}
        for (slot, time), step in steps_by_name(buffer).items():
            if slot in done:
                assert (done[slot], time) not in found
                found[done[slot], time] = step
        queue, rounds = rest, rounds + 1
        left = int(rest.num_pending + 40 - rest.next_id)
        assert rounds < 40
    assert rounds > 3
    assert found.keys() == reference.keys()
    for name, step in found.items():
        np.testing.assert_allclose(np.hstack(step), np.hstack(reference[name]), rtol=1e-5)


def test_dead_lanes_cost_the_tail_only(key):
    env = countdown(20)
    policy = jaxpg.policies.mlp(env, (4,))
    estimate = jaxpg.policy_gradient(env, policy, num_episodes=4000, num_lanes=16)(key, policy.init(key))
    assert estimate.utilization > 0.99


# --- Segments ---------------------------------------------------------------------------------------------------------


def play_segments(env, policy, params, key, lengths, num_lanes=3, value=None):
    state = segments.start_segments(env, policy, key, num_lanes)
    parts = []
    for length in lengths:
        state, part = segments.segment(env, policy, params, state, length, value=value)
        parts.append(part)
    return state, jax.tree.map(lambda *x: jnp.concatenate(x), *[p._replace(last_value=None) for p in parts]), parts


@pytest.mark.slow
@pytest.mark.parametrize("name", ["countdown", "countdown cut at 5", "finite MDP"])
def test_segments_play_the_named_episodes_wherever_they_are_cut(name, key):
    env = ENVIRONMENTS[name]()
    policy = jaxpg.policies.tabular(env) if name == "finite MDP" else jaxpg.policies.mlp(env, (8,))
    params = policy.init(jax.random.key(1))
    _, whole, _ = play_segments(env, policy, params, key, [60])
    _, parts, _ = play_segments(env, policy, params, key, [7, 20, 1, 32])
    jax.tree.map(np.testing.assert_array_equal, whole, parts)
    wide = play_segments(env, policy, params, key, [60], num_lanes=5)[1]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[:, :3], rtol=1e-5), whole.trajectory, wide.trajectory)
    for lane in range(3):
        lane_key, row = jax.random.fold_in(key, lane), 0
        for episode in range(4):
            steps, final = by_hand(env, policy, params, lane_key, episode)
            for step in steps:
                t = whole.trajectory
                have = (
                    t.observation[row, lane],
                    t.action[row, lane],
                    t.reward[row, lane],
                    t.terminated[row, lane],
                    t.truncated[row, lane],
                )
                for x, y in zip(have, step, strict=True):
                    np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
                assert t.valid[row, lane] and t.episode[row, lane] == episode
                row += 1
            assert whole.finished[row - 1, lane] and whole.statistics.length[row - 1, lane] == len(steps)
            if steps[-1][4]:
                np.testing.assert_array_equal(t.observation[row, lane], final)
                assert not t.valid[row, lane]
                row += 1


def test_segment_values_bootstrap_from_the_observation_before_the_reset(key):
    """V(s) = the observation: next values must be what the step led to, at truncations and at the segment's end."""
    env = countdown(5, terminate=False)
    policy = jaxpg.policies.mlp(env, (4,))
    value = lambda observation, time: observation[0] * 1.0  # noqa: E731
    for length in (5, 6, 7, 23):
        _, _, (part,) = play_segments(env, policy, policy.init(key), key, [length], value=value)
        t = part.trajectory
        next_value = np.concatenate([t.value[1:], part.last_value[None]])
        valid = np.asarray(t.valid)
        np.testing.assert_array_equal(next_value[valid], np.asarray(t.value)[valid] - 1)
        assert (~valid).sum() <= np.asarray(t.truncated & t.valid).sum()  # One extra row for each truncation.


# --- Transformations --------------------------------------------------------------------------------------------------


def test_loops_keep_scalar_predicates_under_vmap(key):
    """Under vmap, buffers are written by slice updates, not by scatters, and resets stay conditional."""
    env = dataclasses.replace(countdown(9))
    policy = jaxpg.policies.mlp(env, (4,))
    params = policy.init(key)

    def play(key):
        return rollout.collect(env, policy, params, key, num_episodes=6, num_lanes=2)

    def primitives(jaxpr, inside_while=False):
        for equation in jaxpr.eqns:
            yield equation.primitive.name, equation
            for parameter in equation.params.values():
                for sub in jax.tree.leaves(parameter, is_leaf=lambda x: hasattr(x, "jaxpr") or hasattr(x, "eqns")):
                    if hasattr(sub, "jaxpr"):
                        yield from primitives(sub.jaxpr)
                    elif hasattr(sub, "eqns"):
                        yield from primitives(sub)

    plain = [name for name, _ in primitives(jax.make_jaxpr(play)(key).jaxpr)]
    mapped = [name for name, _ in primitives(jax.make_jaxpr(jax.vmap(play))(jax.random.split(key, 3)).jaxpr)]
    for name in ("dynamic_update_slice", "cond", "while"):
        assert plain.count(name) == mapped.count(name) > 0, name
    assert plain.count("scatter") == mapped.count("scatter")


def test_a_key_is_not_used_up_by_playing():
    """A rollout folds numbers into its key: a loop may play with the same key, one round after the other."""
    env = countdown(9)
    policy = jaxpg.policies.mlp(env, (4,))
    params = policy.init(jax.random.key(1))

    def play(key):
        return rollout.collect(env, policy, params, key, num_episodes=6, num_lanes=2)[1].returns

    with jax.debug_key_reuse(True):
        key = jax.random.key(0)
        twice = jax.jit(lambda key: jax.lax.fori_loop(0, 2, lambda _, total: total + play(key), jnp.zeros(6)))(key)
        assert (twice == 2 * play(key)).all()


@pytest.mark.parametrize("levels", [1, 2])
def test_vmap_batches_the_loop_over_episodes_no_more_often_than_it_must(levels, key):
    """Once to see what is mapped and once for the program, at each level; from zeros, it would take a pass a step."""
    passes = []

    @jax.custom_batching.custom_vmap
    def counted(x):
        return x

    @counted.def_vmap
    def _(axis_size, in_batched, x):
        passes.append(axis_size)
        return counted(x), in_batched[0]

    env = countdown(9)
    policy = dataclasses.replace(
        jaxpg.policies.mlp(env, (4,)), apply=lambda params, x: jaxpg.policies.mlp(env, (4,)).apply(params, counted(x))
    )
    params = policy.init(key)

    def play(key):
        return rollout.collect(env, policy, params, key, num_episodes=6, num_lanes=2)[1]

    jax.make_jaxpr(play)(key)
    inside = len(passes)  # Rows of lanes are a vmap, too.
    passes.clear()
    keys = key
    for _ in range(levels):
        play, keys = jax.vmap(play), jnp.stack([keys, keys])
    jax.make_jaxpr(play)(keys)
    assert len(passes) == inside + 2 * levels
