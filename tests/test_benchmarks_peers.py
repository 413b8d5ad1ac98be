"""PPO beside its peers: their environment is the same, they take turns, and results of several runs make one file."""

import json
import sys

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import check, common, peer_brax, peers, ppo, report

# --- The pendulum -----------------------------------------------------------------------------------------------------


def position_before_speed(theta, theta_dot, torque):
    """The classic mistake: θ moves by the old velocity."""
    found = peer_brax.swing(theta, theta_dot, torque)
    return found._replace(theta=theta + 0.05 * theta_dot)


def reward_afterwards(theta, theta_dot, torque):
    """The reward of the state that the step leads to."""
    found = peer_brax.swing(theta, theta_dot, torque)
    return found._replace(reward=peer_brax.swing(found.theta, found.theta_dot, torque).reward)


def any_torque(theta, theta_dot, torque):
    """A torque that is not limited."""
    free = peer_brax.swing(theta, theta_dot, jnp.zeros(()))
    theta_dot = jnp.clip(free.theta_dot + 0.15 * torque, -8.0, 8.0)
    return free._replace(theta_dot=theta_dot, theta=theta + 0.05 * theta_dot)


def distance_from_gymnax(swing):
    """The largest difference in what a step leads to, over states within and at their limits."""
    env, params = gymnax.make("Pendulum-v1")
    draw = np.random.default_rng(0)
    theta, theta_dot, torque = (jnp.asarray(draw.uniform(-x, x, 500), jnp.float32) for x in (10.0, 8.0, 4.0))

    def both(theta, theta_dot, torque):
        _, state = env.reset_env(jax.random.key(0), params)
        state = state.replace(theta=theta, theta_dot=theta_dot)
        observation, state, reward, _, _ = env.step_env(jax.random.key(0), state, torque[None], params)
        found = swing(theta, theta_dot, torque)
        ours = [*found, *peer_brax.observe(found.theta, found.theta_dot)]
        return jnp.stack([state.theta, state.theta_dot, reward, *observation]), jnp.stack(ours)

    theirs, ours = jax.jit(jax.vmap(both))(theta, theta_dot, torque)
    return float(jnp.max(jnp.abs(theirs - ours)))


def test_brax_s_pendulum_is_gymnax_s():
    assert distance_from_gymnax(peer_brax.swing) < 1e-5
    for mistake in (position_before_speed, reward_afterwards, any_torque):
        assert distance_from_gymnax(mistake) > 0.01, mistake
    env, params = gymnax.make("Pendulum-v1")
    assert peer_brax.LIMIT == params.max_steps_in_episode
    for seed in range(3):
        observation, state = env.reset_env(jax.random.key(seed), params)
        np.testing.assert_array_equal(peer_brax.first(jax.random.key(seed)), [state.theta, state.theta_dot])
        np.testing.assert_allclose(peer_brax.observe(state.theta, state.theta_dot), observation, rtol=1e-6)


def test_rewards_are_scaled_where_the_job_says_so(key):
    env = ppo.jaxpg.make("Pendulum-v1")
    state, _ = env.reset(key)
    scaled = ppo.scaled(env, 0.125)
    assert ppo.scaled(env, 1) is env and scaled.max_steps == env.max_steps
    (_, as_it_is), (_, eighth) = (e.step(key, state, jnp.ones(1)) for e in (env, scaled))
    assert float(eighth.reward) == float(as_it_is.reward) / 8 < 0
    np.testing.assert_array_equal(eighth.observation, as_it_is.observation)


# --- Turns ------------------------------------------------------------------------------------------------------------


class Slow(peer_brax.Turns):
    """`train` of so many epochs, which are only counted."""

    epochs = 0

    def _train(self, rate, updates, epochs=1, seed=0, progress=lambda *_: None):
        for self.epochs in range(1, min(epochs, 4) + 1):
            progress(self.epochs * updates, {})
        raise ValueError("no more epochs")


def test_an_epoch_of_brax_is_played_when_it_is_asked_for():
    turns = Slow({"num_envs": 2, "num_steps": 3})
    assert set(turns.prepare([1e-3], 5)) == {"compile_seconds"} and turns.epochs == 2
    for epochs in (3, 4):
        assert set(turns.run(1)) == {"seconds", "processor_seconds"} and turns.epochs == epochs
    with pytest.raises(ValueError, match="no more epochs"):
        turns.run(1)


# --- Jobs and results -------------------------------------------------------------------------------------------------

FAKE = """
import json, sys
kind, given = sys.argv[1], json.loads(sys.argv[2])
print("a library that is loaded", file=sys.stderr)
for line in sys.stdin:
    method, *arguments = json.loads(line)
    answers = {
        "prepare": {"compile_seconds": 1.0, "torch_threads": 1},
        "run": {"seconds": 0.5, "processor_seconds": 0.25},
        "describe": {"packages": {"brax": kind, "stable-baselines3": "2", "sbx-rl": "3", "rejax": "4"}},
    }
    if method == "returns":
        answers[method] = {"seconds": 2.0, "returns": [given["num_envs"] * x for x in arguments[0]]}
    print(json.dumps(answers[method]), flush=True)
"""


class Ours:
    """A `common.Process` with a player that does nothing."""

    def __init__(self, name, factory, num_devices, num_threads=None):
        self._seconds = 1.0 / num_devices

    def ask(self, method, *arguments):
        run = {"seconds": self._seconds, "processor_seconds": 1.0, "steps": 100.0}
        return {"prepare": {"compile_seconds": 3.0}, "run": run, "returns": {"returns": [5.0], "env_steps": 7}}[method]

    def close(self):
        pass


@pytest.fixture
def fakes(tmp_path, monkeypatch):
    """Options that name this Python as every group's, where the groups' scripts are fakes."""
    script = tmp_path / "fake.py"
    script.write_text(FAKE)
    groups = {name: group._replace(script=str(script)) for name, group in peers.GROUPS.items()}
    monkeypatch.setattr(peers, "GROUPS", groups)
    monkeypatch.setattr(common, "Process", Ours)
    monkeypatch.setattr(common, "num_cores", lambda: 2)
    options = [(f"--{group.option.replace('_', '-')}", sys.executable) for group in groups.values()]
    return ["--quick", *(text for pair in options for text in pair)]


def test_jobs_name_peers_that_there_are():
    assert set(report.JOBS) == set(ppo.JOBS)
    assert set(ppo.PEERS) <= set(report.PLAYERS) and set(report.PACKAGES) <= set(ppo.PEERS)
    assert {peer for job in ppo.JOBS.values() for peer in job["peers"]} == set(ppo.PEERS)
    assert {group for group, _ in ppo.PEERS.values()} | {"torch"} == set(peers.GROUPS)  # PyTorch: `gradient`.
    assert all((peers.HERE / group.script).exists() for group in peers.GROUPS.values())
    for job in ppo.JOBS.values():
        assert ppo.segment(job) % job["num_minibatches"] == 0 == job["num_envs"] % job["num_minibatches"]
        assert json.loads(json.dumps(job)) == job


def test_peers_play_in_their_jobs(fakes, tmp_path, capsys):
    out = tmp_path / "ppo.json"
    result = ppo.main([*fakes, "--jobs", "cartpole_8", "pendulum_2048", "--rounds", "2", "--out", str(out)])
    assert json.loads(out.read_text()) == result
    found = {name: list(job["contenders"]) for name, job in result["jobs"].items()}
    ours = ["train", "networks", "train_per_core", "networks_per_core"]
    small = [*ours, "train_one_thread", "networks_one_thread"]
    assert found == {
        "cartpole_8": [*small, "rejax", "rejax_one_thread", "stable_baselines3", "sbx"],
        "pendulum_2048": [*ours, "brax", "brax_per_core"],
    }
    brax = result["jobs"]["pendulum_2048"]["contenders"]["brax"]
    assert brax["seconds"]["rounds"] == [0.5, 0.5] and brax["ratio_to_train"]["median"] == 0.5
    assert brax["steps_per_second"] == 2 * 64 * 16 and brax["returns"] == [64 * 1e-3]
    assert result["jobs"]["pendulum_2048"]["contenders"]["train"]["steps_per_second"] == 100
    assert result["jobs"]["pendulum_2048"]["peers"]["brax"]["packages"]["brax"] == "brax"  # The kind it was given.
    assert result["jobs"]["pendulum_2048"]["peers"]["brax_per_core"]["packages"]["brax"] == "brax_per_core"
    assert sys.executable not in out.read_text() and str(tmp_path) not in out.read_text()
    text = report.ppo(result)
    assert "| stable-baselines3 | 2,048 |" in text and "| brax, one device | 2,048 |" in text
    assert "stable-baselines3 2 (PyTorch's threads: 1), sbx 3" in text and "Pendulum-v1, 2,048 × 16" in text
    assert "pendulum_2048" in capsys.readouterr().out


def test_without_a_python_quick_runs_have_no_peers():
    options = ppo.parse(["--quick", "--gym-python", "somewhere"])
    assert list(ppo.peers_of(options)) == ["stable_baselines3", "sbx"]
    assert not ppo.peers_of(ppo.parse(["--no-peers", "--gym-python", "somewhere"]))
    assert not ppo.peers_of(ppo.parse(["--quick", "--jobs", "breakout_64", "--gym-python", "somewhere"]))


def test_jobs_measured_before_stay_as_they_were(fakes, tmp_path):
    out = tmp_path / "ppo.json"
    facts = {"seconds": {"median": 1.0}, "processor_seconds": {"median": 1.0}, "steps_per_second": 1.0,
             "ratio_to_train": common.spread([1.0]), "compile_seconds": 1.0}  # fmt: skip
    packages = {"jax": "1", "jaxlib": "1", "numpy": "1"}
    machine = {"cores": 64, "processor": "another machine's", "python": "4", "packages": packages}
    old = {"question": "?", "machine": machine, "options": {"rounds": 9}, "jobs": {
        "cartpole_4": {"job": {}, "contenders": {"train": facts}},
        "cartpole_8": {"job": {}, "contenders": {"train": facts}},
    }}  # fmt: skip
    out.write_text(json.dumps(old))
    assert "64 cores of another machine's" in report.ppo(old)
    jobs = ppo.main([*fakes, "--jobs", "cartpole_8", "--remark", "quiet", "--out", str(out)])["jobs"]
    assert jobs["cartpole_4"] == {"machine": machine, "options": {"rounds": 9}, **old["jobs"]["cartpole_4"]}
    assert jobs["cartpole_8"]["machine"]["cores"] == 2 and jobs["cartpole_8"]["options"]["rounds"] == 1
    jobs = ppo.main([*fakes, "--jobs", "pendulum_2048", "--out", str(out)])["jobs"]
    assert jobs["cartpole_4"]["machine"] == machine and jobs["cartpole_8"]["remark"] == "quiet"
    assert jobs["pendulum_2048"]["remark"] is None
    text = report.ppo({"jobs": jobs})
    assert text.count("another machine's") == 1 and text.count("2 cores of") == 2
    places = [text.index(report.JOBS[name]) for name in ("cartpole_4", "cartpole_8", "pendulum_2048")]
    assert places == sorted(places)


def test_a_goal_may_name_its_peers():
    seconds = {"train": 2.0, "train_per_core": 1.0, "rejax": 3.0, "stable_baselines3": 30.0, "sbx": 20.0}
    result = {"jobs": {"cartpole_8": {"contenders": {
        name: {"seconds": {**common.spread([x]), "rounds": [x]}} for name, x in seconds.items()
    }}}}  # fmt: skip
    assert set(check.PEERS) == set(ppo.PEERS)
    assert check.of_ppo("cartpole_8")(result) == 3
    (goal,) = (goal for goal in check.GOALS if "8 × 128" in goal.what and "stable" in goal.what)
    assert goal.ratio(result) == 20
