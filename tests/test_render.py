"""Pictures: films of episodes and figures of learning curves."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageColor

import jaxpg
from jaxpg import plot, render, render_classic, rollout
from jaxpg.envs.spaces import Box, Discrete
from jaxpg.render_canvas import COLORS
from jaxpg.render_grid import channel_colors, grid_drawing

# --- the episode -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cart_pole():
    env = jaxpg.make("CartPole-v1", max_steps=40)
    policy = jaxpg.policies.mlp(env, (8,))
    return env, policy, policy.init(jax.random.key(1))


@pytest.mark.parametrize("deterministic", [False, True])
def test_the_film_shows_the_episode_that_evaluate_plays(cart_pole, key, deterministic):
    scores = jaxpg.evaluate(key, *cart_pole, num_episodes=4, deterministic=deterministic)
    for episode in (0, 3):
        frames = render.play_episode(*cart_pole, key, episode=episode, deterministic=deterministic)
        assert len(frames) == scores.lengths[episode] + 1
        assert frames[-1].episode_return == scores.returns[episode]
        assert [frame.step for frame in frames] == list(range(len(frames)))


def test_frames_hold_what_the_rollout_saw_and_did(cart_pole, key):
    env, policy, params = cart_pole
    frames = render.play_episode(env, policy, params, key)
    trajectory, _ = rollout.collect(env, policy, params, key, num_episodes=1, num_lanes=1)
    steps = len(frames) - 1
    assert int(trajectory.valid.sum()) == steps
    observations = np.stack([frame.observation for frame in frames[:-1]])
    np.testing.assert_allclose(observations, trajectory.observation[:steps, 0], rtol=1e-6, atol=1e-7)
    assert [int(frame.action) for frame in frames[:-1]] == trajectory.action[:steps, 0].tolist()
    assert frames[-1].action is None
    # The last frame is where the last step led, with the pole down or the cart out.
    last = frames[-1].observation
    assert abs(last[2]) > 12 * np.pi / 180 or abs(last[0]) > 2.4 or steps == 40
    assert float(frames[-1].state.theta) == last[2]


def test_actions_are_what_the_environment_got(key):
    env = jaxpg.make("Pendulum-v1", max_steps=6)
    policy = jaxpg.policies.mlp(env, (8,), squash=True, log_std_init=1.0)
    frames = render.play_episode(env, policy, policy.init(key), key)
    actions = np.array([frame.action for frame in frames[:-1]])
    assert (np.abs(actions) <= 2).all() and (np.abs(actions) > 1).any()


def test_policies_with_memory_and_states_with_keys(key):
    """The policy counts steps in its carry; the environment's state is a random key and a counter."""

    def step(key, state, action):
        state = (jax.random.split(state[0])[0], state[1] + 1)
        timestep = jaxpg.Timestep(jnp.float32(state[1])[None], 1.0 * action, state[1] >= 3, jnp.asarray(False))
        return state, timestep

    env = jaxpg.Environment(
        reset=lambda k: ((k, jnp.int32(0)), jnp.zeros(1)),
        step=step,
        observation_space=Box(0, 9, (1,)),
        action_space=Discrete(4),
        max_steps=9,
    )
    policy = jaxpg.Policy(
        init=lambda k: jnp.zeros(4),
        initial_carry=jnp.int32(0),
        apply=lambda p, o, c: (jaxpg.policies.Categorical(p + 50.0 * jax.nn.one_hot(c, 4)), c + 1),
    )
    frames = render.play_episode(env, policy, jnp.zeros(4), key)
    assert [frame.action for frame in frames] == [0, 1, 2, None]
    assert frames[-1].episode_return == 3.0


# --- the film --------------------------------------------------------------------------------------------------------


def test_gif_has_a_frame_for_every_step(cart_pole, key, tmp_path):
    path = render.render_episode(*cart_pole, key, tmp_path / "new folder" / "film.gif")
    frames = render.play_episode(*cart_pole, key)
    with Image.open(path) as film:
        assert film.format == "GIF" and film.size == (480, 270) and film.info["loop"] == 0
        assert film.n_frames == len(frames) > 5
        assert film.info["duration"] == 20  # Real time: CartPole's step is 0.02 s.


def test_long_episodes_are_thinned_and_keep_their_end(cart_pole, key, tmp_path):
    seen = []

    def draw(frame):
        seen.append(frame.step)
        return np.full((4, 6, 3), 5 * frame.step, np.uint8)

    path = render.render_episode(*cart_pole, key, tmp_path / "film.gif", max_frames=5, draw=draw)
    length = len(render.play_episode(*cart_pole, key)) - 1
    assert seen[0] == 0 and seen[-1] == length and len(seen) <= 5
    assert len(set(np.diff(seen)[:-1])) == 1
    with Image.open(path) as film:
        assert film.n_frames == len(seen) and film.size == (6, 4)


@pytest.mark.parametrize("name", ["Acrobot-v1", "MountainCarContinuous-v0", "Breakout-MinAtar"])
def test_other_environments_make_films(name, key, tmp_path):
    env = jaxpg.make(name, max_steps=3)
    policy = jaxpg.policies.mlp(env, (4,))
    path = render.render_episode(env, policy, policy.init(key), key, tmp_path / "film.gif")
    with Image.open(path) as film:
        assert film.n_frames == 4
        assert min(film.size) >= 270


def test_what_has_no_drawing_is_refused_before_anything_is_played(key, tmp_path):
    env = jaxpg.make("PointRobot-misc", max_steps=3)
    policy = jaxpg.policies.mlp(env, (4,))
    assert not render.can_render(env) and render.can_render(jaxpg.make("CartPole-v1"))
    with pytest.raises(ValueError, match="no drawing for PointRobot-misc.*CartPole-v1.*grids.*draw="):
        render.render_episode(env, policy, None, key, tmp_path / "film.gif")
    assert not (tmp_path / "film.gif").exists()


@pytest.mark.parametrize(("options", "error", "words"), [
    ({"max_frames": 1}, ValueError, "max_frames must be an integer of at least 2"),
    ({"episode": -1}, ValueError, "episode must be an integer of at least 0"),
    ({"deterministic": 1}, TypeError, "deterministic must be True or False"),
    ({"draw": 3}, TypeError, "draw must be a function"),
    ({"draw": lambda frame: np.zeros((4, 4))}, ValueError, "draw must return"),
    ({"draw": lambda frame: np.zeros((4 + frame.step, 4, 3), np.uint8)}, ValueError, "images of one size"),
])  # fmt: skip
def test_bad_arguments(cart_pole, key, tmp_path, options, error, words):
    with pytest.raises(error, match=words):
        render.render_episode(*cart_pole, key, tmp_path / "film.gif", **options)


def test_an_episode_needs_a_limit(cart_pole, key):
    env, policy, params = cart_pole
    with pytest.raises(ValueError, match="no episode limit"):
        render.play_episode(dataclasses.replace(env, max_steps=None), policy, params, key)


# --- the drawings ----------------------------------------------------------------------------------------------------


def found(canvas, color):
    """Where a colour is: the mean (x, y) of its pixels, y upward from the lower edge; and how many there are."""
    pixels = np.asarray(canvas.picture())
    rows, columns = np.nonzero((np.abs(pixels.astype(int) - ImageColor.getrgb(COLORS[color])) < 12).all(axis=2))
    return columns.mean(), pixels.shape[0] - rows.mean(), len(rows)


def test_cart_pole_leans_and_moves_as_it_should():
    upright, right = (render_classic.cart_pole(np.array([0.0, 0, theta, 0]), None) for theta in (0.0, 0.4))
    assert found(upright, "orange")[0] == pytest.approx(240, abs=1)
    x, y, _ = found(right, "orange")
    assert x > 250 and y < found(upright, "orange")[1]
    moved = render_classic.cart_pole(np.array([1.0, 0, 0, 0]), None)
    assert found(moved, "orange")[0] == pytest.approx(240 + 480 / 5.4, abs=1)
    for action, sign in ((0, -1), (1, 1)):
        pushed = render_classic.cart_pole(np.array([0.0, 0, 0, 0]), np.int32(action))
        assert sign * (found(pushed, "blue")[0] - 240) > 30


@pytest.mark.parametrize(("theta", "side", "above"), [(0.0, 0, 1), (np.pi, 0, -1), (np.pi / 2, -1, 0)])
def test_pendulum_hangs_where_its_angle_says(theta, side, above):
    observation = np.array([np.cos(theta), np.sin(theta), 0.0])
    x, y, _ = found(render_classic.pendulum(observation, None), "vermillion")
    pivot = 1.6 * 480 / 4.5
    assert (x - 240) / 53 == pytest.approx(side, abs=0.2)
    assert (y - pivot) / 53 == pytest.approx(above, abs=0.2)


def test_pendulum_shows_the_torque():
    def arc(torque):
        return found(render_classic.pendulum(np.array([-1.0, 0.0, 0.0]), np.array([torque])), "blue")

    assert arc(2.0)[0] < 240 < arc(-2.0)[0]  # A positive torque turns counterclockwise: from the top to the left.
    assert arc(2.0)[2] > 1.5 * arc(0.8)[2]


def test_acrobot_links_follow_each_other():
    def ends(first, second):
        observation = np.array([np.cos(first), np.sin(first), np.cos(second), np.sin(second), 0, 0])
        canvas = render_classic.acrobot(observation, None)
        return found(canvas, "blue"), found(canvas, "sky")

    upper, lower = ends(0.0, 0.0)
    assert upper[0] == pytest.approx(240, abs=1) and lower[1] < upper[1]
    upper, lower = ends(np.pi / 2, np.pi / 2)  # To the right, then straight up.
    assert upper[0] > 260 and lower[0] > upper[0] and lower[1] > upper[1]


def test_the_car_climbs_and_is_pushed():
    x, y, _ = found(render_classic.mountain_car(np.array([-np.pi / 6, 0]), np.int32(1)), "vermillion")
    higher = found(render_classic.mountain_car(np.array([0.3, 0]), np.int32(1)), "vermillion")
    assert higher[0] > x and higher[1] > y + 50
    for draw, left, right in (
        (render_classic.mountain_car, 0, 2),
        (render_classic.mountain_car_continuous, [-0.9], [0.9]),
    ):
        here = np.array([-np.pi / 6, 0])
        assert found(draw(here, np.array(left)), "blue")[0] < x < found(draw(here, np.array(right)), "blue")[0]


def test_grid_cells_have_their_channels_colour():
    space = Box(0, 1, (3, 4, 2))
    grid = np.zeros((3, 4, 2), np.float32)
    grid[0, 1, 0], grid[2, 3, 1], grid[2, 3, 0] = 1.0, 1.0, 1.0
    colors = channel_colors(grid, space)
    assert tuple(colors[0, 1]) == ImageColor.getrgb(COLORS["sky"])
    assert tuple(colors[2, 3]) == ImageColor.getrgb(COLORS["orange"])  # The later channel is on top.
    empty = tuple(colors[0, 0])
    assert (colors == empty).all(axis=2).sum() == 10
    picture = np.asarray(grid_drawing(space)(grid, None).picture())
    x, y = np.argwhere((picture == ImageColor.getrgb(COLORS["sky"])).all(axis=2)).mean(axis=0)[::-1]
    cell = 320 // 4
    assert (x - 16) / cell == pytest.approx(1.5, abs=0.05)
    assert (picture.shape[0] - 16 - y) / cell == pytest.approx(2.5, abs=0.05)


def test_grid_values_mix_colours_and_pictures_stay_as_they_are():
    half = channel_colors(np.array([[0.0, 5.0], [10.0, 0.0]]), Box(0, 10, (2, 2))).astype(float)
    np.testing.assert_allclose(half[0, 1], (half[0, 0] + half[1, 0]) / 2, atol=1)
    unbounded = channel_colors(np.array([[0.0, -3.0], [9.0, 0.0]]), Box(-np.inf, np.inf, (2, 2)))
    assert tuple(unbounded[0, 1]) == tuple(unbounded[1, 0]) == ImageColor.getrgb(COLORS["sky"])
    many = channel_colors(np.eye(12)[None], Box(0, 1, (1, 12, 12)))
    assert len({tuple(color) for color in many[0]}) == 12

    space = Box(0, 255, (40, 40, 3), np.uint8)
    image = np.zeros((40, 40, 3), np.uint8)
    image[:20] = (200, 30, 60)
    picture = np.asarray(grid_drawing(space)(image, None).picture())
    assert ((picture == (200, 30, 60)).all(axis=2)).sum() == pytest.approx(320 * 160, rel=0.02)


@pytest.mark.parametrize("space", [Box(0, 1, (4,)), Discrete(3), Box(0, 1, (1, 5)), Box(0, 1, (4, 4, 4, 4)),
                                   {"grid": Box(0, 1, (5, 5))}])  # fmt: skip
def test_other_spaces_are_no_grids(space):
    assert grid_drawing(space) is None


# --- learning curves -------------------------------------------------------------------------------------------------


def test_the_band_is_students_interval():
    """t_{0.975, 3} = 3.18245 and t_{0.95, 3} = 2.35336 from tables; the curves' deviations are 1 and 0."""
    curves = np.array([[1.0, 5.0], [2.0, 5.0], [2.0, 5.0], [3.0, 5.0]])
    deviation = np.sqrt(2 / 3)
    mean, low, high = plot.mean_and_interval(curves)
    np.testing.assert_allclose(mean, [2.0, 5.0])
    np.testing.assert_allclose(high - mean, [3.182446 * deviation / 2, 0.0], rtol=1e-6)
    np.testing.assert_allclose(mean - low, high - mean)
    _, _, high = plot.mean_and_interval(curves, confidence=0.9)
    np.testing.assert_allclose(high - mean, [2.353363 * deviation / 2, 0.0], rtol=1e-6)
    mean, low, high = plot.mean_and_interval(curves[:1])
    assert mean.tolist() == [1.0, 5.0] and np.isnan(low).all() and np.isnan(high).all()


def test_the_band_covers_the_mean_as_often_as_it_says():
    curves = np.random.default_rng(0).normal(size=(5, 20_000))
    _, low, high = plot.mean_and_interval(curves, confidence=0.8)
    assert np.mean((low < 0) & (high > 0)) == pytest.approx(0.8, abs=0.01)


def test_common_steps_are_where_every_seed_has_data():
    steps = [np.array([1, 3, 9]), np.array([2, 4, 6, 8])]
    returns = [np.array([1.0, 3.0, 9.0]), np.array([np.nan, 40.0, 60.0, 80.0])]
    grid, curves = plot.on_common_steps(steps, returns, num_points=5)
    np.testing.assert_allclose(grid, [4, 5, 6, 7, 8])  # The second seed has no return before step 4.
    np.testing.assert_allclose(curves, [[4, 5, 6, 7, 8], [40, 50, 60, 70, 80]])


def test_learning_curves_draw_seeds_mean_and_band():
    _, ax = plot.paper_figure()
    steps = np.array([[10, 20, 30], [12, 20, 40], [8, 20, 30]])
    returns = np.array([[1.0, 2.0, 3.0], [1.0, 3.0, 3.0], [1.0, 7.0, 3.0]])
    assert plot.learning_curves(steps, returns, ax=ax, num_points=19, target=2.5) is ax
    lines = {line.get_label(): line for line in ax.get_lines()}
    assert set(lines) >= {"mean of 3 seeds", "3 seeds", "target 2.5"} and len(ax.get_lines()) == 5
    grid, mean = lines["mean of 3 seeds"].get_data()
    assert (grid[0], grid[-1]) == (12, 30)
    assert mean[grid == 20] == 4.0
    (band,) = ax.collections
    edges = band.get_paths()[0].vertices
    low, high = edges[edges[:, 0] == 20][:, 1].min(), edges[edges[:, 0] == 20][:, 1].max()
    half = 4.302653 * np.std([2, 3, 7], ddof=1) / np.sqrt(3)  # t_{0.975, 2}
    np.testing.assert_allclose([low, high], [4 - half, 4 + half], rtol=1e-5)
    assert ax.get_xlabel() == "environment steps" and ax.get_ylabel() == "episode return"


def test_one_seed_has_no_band_and_axes_are_made_where_none_are_given():
    import matplotlib

    matplotlib.use("Agg")
    ax = plot.learning_curves([[1, 2, 3, 9]], [[0.0, 1.0, np.nan, 2.0]], label="PPO", color="black", num_points=2)
    (line,) = ax.get_lines()
    assert not ax.collections and line.get_label() == "PPO"
    np.testing.assert_array_equal(line.get_xydata(), [[1, 0], [2, 1], [9, 2]])
    matplotlib.pyplot.close(ax.figure)


@pytest.mark.parametrize(("steps", "returns", "words"), [
    ([], [], "one entry for each seed"),
    (3.0, 3.0, "one entry for each seed"),
    ([[1, 2]], [[1, 2], [1, 2]], "got 1 and 2"),
    ([[1, 2, 3]], [[1, 2]], r"steps\[0\] and returns\[0\] must be vectors of one length"),
    ([[1, 1]], [[1, 2]], r"steps\[0\] must hold at least two rising"),
    ([[1, 2]], [[1, np.nan]], r"steps\[0\] must hold at least two rising"),
    ([[1, 2], [3, 4]], [[1, 2], [1, 2]], "no stretch in common"),
])  # fmt: skip
def test_curves_that_cannot_be_drawn(steps, returns, words):
    with pytest.raises(ValueError, match=words):
        plot.on_common_steps(steps, returns)


def test_confidence_is_checked():
    with pytest.raises(ValueError, match="confidence must be"):
        plot.mean_and_interval(np.ones((3, 2)), confidence=95)
    with pytest.raises(ValueError, match=r"\[seed, point\]"):
        plot.mean_and_interval(np.ones(3))
