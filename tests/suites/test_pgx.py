"""pgx's games for one player, held against pgx's own loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pgx = pytest.importorskip("pgx")

import jaxpg  # noqa: E402
from jaxpg.envs import spaces  # noqa: E402
from jaxpg.envs.pgx import available, from_pgx, make  # noqa: E402

GAMES = ("2048", "minatar-asterix", "minatar-breakout", "minatar-freeway", "minatar-seaquest", "minatar-space_invaders")
LANES = 8


def own_loop(game, key, num_steps):
    """pgx's states and random legal actions, [step, lane]: the state at first and after each step."""

    def step(state, key):
        action = jax.random.categorical(key, jnp.log(state.legal_action_mask)).astype(jnp.int32)
        after = game.step(state, action, jax.random.fold_in(key, 1))
        return after, (after, action)

    def lane(key):
        state = game.init(jax.random.fold_in(key, 0))
        return state, jax.lax.scan(step, state, jax.random.split(key, num_steps))[1]

    return jax.jit(jax.vmap(lane, out_axes=(0, 1)))(jax.random.split(key, LANES))


def our_loop(env, key, actions):
    """The same through the adapter: the first observation, and timesteps [step, lane]."""

    def lane(key, actions):
        def step(state, inputs):
            key, action = inputs
            return env.step(jax.random.fold_in(key, 1), state, action)

        state, observation = env.reset(jax.random.fold_in(key, 0))
        return observation, jax.lax.scan(step, state, (jax.random.split(key, len(actions)), actions))[1]

    return jax.jit(jax.vmap(lane, in_axes=(0, 1), out_axes=(0, 1)))(jax.random.split(key, LANES), actions)


def until_end(ended):
    """Which steps [step, lane] belong to the first episode of a lane, the last one included."""
    ended = np.asarray(ended)
    return np.cumsum(ended, axis=0) - ended == 0


def picture(observation):
    return observation["observation"] if isinstance(observation, dict) else observation


def test_all_games_for_one_player_are_offered():
    assert available() == GAMES
    assert [f"pgx/{name}" for name in GAMES] == jaxpg.envs.available("pgx")
    assert pgx.make("tic_tac_toe").num_players == 2  # As the others that are refused; some take seconds to build.


def compare(name, first, states, observation, steps, lived):
    np.testing.assert_array_equal(picture(observation), first.observation)
    np.testing.assert_array_equal(picture(steps.observation)[lived], states.observation[lived])
    np.testing.assert_array_equal(steps.reward[lived], states.rewards[..., 0][lived])
    assert steps.reward[lived].any(), name


@pytest.mark.parametrize("name", [name for name in GAMES if name != "minatar-freeway"])
def test_episodes_are_those_of_pgx(name, key):
    game, env = pgx.make(name), make(name, 10**6, {})
    first, (states, actions) = own_loop(game, key, 300)
    observation, steps = our_loop(env, key, actions)
    lived = until_end(states.terminated)
    assert (np.asarray(states.terminated) & lived).any(axis=0).all()  # Every lane has played a whole episode.

    compare(name, first, states, observation, steps, lived)
    np.testing.assert_array_equal(steps.terminated[lived], states.terminated[lived])
    assert not steps.truncated[lived].any()
    if name == "2048":
        np.testing.assert_array_equal(steps.observation["action_mask"][lived], states.legal_action_mask[lived])
        assert not steps.observation["action_mask"][lived].all()
    else:
        assert not isinstance(observation, dict)
        assert states.legal_action_mask[lived].all()
    assert jax.vmap(jax.vmap(lambda value: spaces.contains(env.observation_space, value)))(steps.observation).all()


def test_freeway_ends_by_its_limit_alone(key):
    """pgx ends it by a timer after 2,501 steps; here the limit may be longer."""
    game, env = pgx.make("minatar-freeway"), make("minatar-freeway", 2_510, {})
    assert make("minatar-freeway", None, {}).max_steps == 2_501
    first, (states, actions) = own_loop(game, key, 2_512)
    observation, steps = our_loop(env, key, actions)
    compare("freeway", first, states, observation, steps, until_end(states.terminated))
    assert not states.terminated[2_499].any() and states.terminated[2_500].all()
    assert not steps.terminated.any()
    assert not steps.truncated[:2_509].any() and steps.truncated[2_509].all()
    # It is played on, not frozen as pgx's own game is after its end.
    assert (steps.observation[2_501:2_510] != steps.observation[2_500]).any(axis=(0, 2, 3, 4)).all()


def test_the_limit_truncates(key):
    """Another limit, and one at the very step of a natural end: there both flags are set."""
    game = pgx.make("minatar-breakout")
    _, (states, actions) = own_loop(game, key, 100)
    lengths = np.argmax(states.terminated, axis=0) + 1
    lane, length = int(lengths.argmax()), int(lengths.max())
    for limit in (length - 2, length):
        env = jaxpg.make("pgx/minatar-breakout", max_steps=limit)
        assert env.max_steps == limit
        _, steps = our_loop(env, key, actions)
        flags = np.stack([steps.terminated[:limit, lane], steps.truncated[:limit, lane]])
        assert not flags[:, :-1].any()
        np.testing.assert_array_equal(flags[:, -1], [limit == length, True])


def test_limits_by_default():
    limits = {name: make(name, None, {}).max_steps for name in GAMES}
    assert limits == {**dict.fromkeys(GAMES, 1_000), "2048": 10_000, "minatar-freeway": 2_501}


def test_an_illegal_move_ends_2048(key):
    env = jaxpg.make("pgx/2048")
    states, observations = jax.jit(jax.vmap(env.reset))(jax.random.split(key, 32))
    lane = int(np.argmin(observations["action_mask"].all(axis=1)))
    action = jnp.argmin(observations["action_mask"][lane])
    _, timestep = jax.jit(env.step)(key, jax.tree.map(lambda leaf: leaf[lane], states), action)
    assert bool(timestep.terminated) and float(timestep.reward) == -1.0


def test_initial_states_are_fresh(key):
    for name in ("2048", "minatar-breakout", "minatar-freeway"):
        env = make(name, None, {})
        observations = picture(jax.jit(jax.vmap(env.reset))(jax.random.split(key, 32))[1])
        assert len({np.asarray(each).tobytes() for each in observations}) >= 2, name


def test_sticky_actions_are_a_parameter(key):
    """With probability 0 the action is always taken, with probability 1 the last one is, which is none at first."""

    def positions(**parameters):
        env = jaxpg.make("pgx/minatar-breakout", **parameters)
        state, _ = jax.jit(env.reset)(key)
        step = jax.jit(env.step)
        right = env.action_space.n - 1 if "use_minimal_action_set" not in parameters else 3
        states = [state]
        for t in range(4):
            state, _ = step(jax.random.fold_in(key, t), state, right)
            states.append(state)
        return [int(state._pos) for state in states]

    assert positions(sticky_action_prob=0.0) == [4, 5, 6, 7, 8]
    assert positions(sticky_action_prob=1.0) == [4] * 5
    assert positions(sticky_action_prob=0.0, use_minimal_action_set=False) == [4, 5, 6, 7, 8]
    assert jaxpg.make("pgx/minatar-breakout", use_minimal_action_set=False).action_space.n == 6

    @jax.jit
    def position(probability):
        env = jaxpg.make("pgx/minatar-breakout", sticky_action_prob=probability)
        return env.step(key, env.reset(key)[0], 2)[0]._pos

    assert [int(position(probability)) for probability in (0.0, 1.0)] == [5, 4]


def test_a_policy_plays_by_the_mask(key):
    """As jaxpg sees it: whole games of 2048, whose reward is positive unless an illegal move was made at once."""
    env = jaxpg.make("pgx/2048")
    policy = jaxpg.policies.mlp(env, hidden_sizes=(8,))
    scores = jaxpg.evaluate(key, env, policy, policy.init(key), num_episodes=8)
    assert (scores.lengths > 30).all() and (scores.returns > 100).all()


def test_64_bits(run_in_subprocess):
    """In a process of its own: Freeway's module holds an array that is made when it is imported."""
    code = """
        import jax, jax.numpy as jnp, jaxpg
        for name in ("2048", "minatar-freeway"):
            env = jaxpg.make(f"pgx/{name}")
            state, _ = jax.jit(env.reset)(jax.random.key(0))
            _, timestep = jax.jit(env.step)(jax.random.key(0), state, 0)
            print(timestep.reward.dtype, state.rewards.dtype, state._step_count.dtype)
    """
    printed = run_in_subprocess(code, env={"JAX_ENABLE_X64": "1"})
    assert printed.split("\n")[:2] == ["float64 float32 int32"] * 2


def test_errors():
    with pytest.raises(ValueError, match=r"name must be one of 'pgx/2048', .*got 'pgx/minatar-brekout'; did you mean"):
        jaxpg.make("pgx/minatar-brekout")
    with pytest.raises(ValueError, match="'pgx/chess' is not offered: it has several players"):
        jaxpg.make("pgx/chess")
    with pytest.raises(
        ValueError, match="has no parameter 'sticky'; it has use_minimal_action_set, sticky_action_prob; did you mean"
    ):
        jaxpg.make("pgx/minatar-breakout", sticky=0.1)
    with pytest.raises(ValueError, match="pgx/2048 has no parameter 'size'; it has none"):
        jaxpg.make("pgx/2048", size=5)
    with pytest.raises(ValueError, match=r"sticky_action_prob must be a finite real number in \[0, 1\]; got 1.5"):
        jaxpg.make("pgx/minatar-breakout", sticky_action_prob=1.5)
    with pytest.raises(TypeError, match="use_minimal_action_set must be True or False; got int"):
        jaxpg.make("pgx/minatar-breakout", use_minimal_action_set=1)
    with pytest.raises(ValueError, match="must be a game for one player; tic_tac_toe has 2 players"):
        from_pgx(pgx.make("tic_tac_toe"))
    with pytest.raises(TypeError, match="pgx_env must be an environment of pgx; got 'minatar-breakout', which lacks"):
        from_pgx("minatar-breakout")
    with pytest.raises(TypeError, match="got the class Play2048"):
        from_pgx(type(pgx.make("2048")))
    with pytest.raises(ValueError, match="max_steps must be an integer of at least 1; got 0"):
        jaxpg.make("pgx/2048", max_steps=0)
