"""`mesh=` of `train` and `sweep`, and several processes: the same numbers on any number of devices."""

import os
import pathlib
import socket
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest

import jaxpg
from jaxpg import _mesh

SETTING = """
import jax, jaxpg, numpy as np, sys
from jax.sharding import Mesh
env = jaxpg.make("CartPole-v1", max_steps=12)
policy = jaxpg.policies.mlp(env, (4,))
long = jaxpg.make("CartPole-v1", max_steps=40)  # Whole episodes of 12 steps would all end alike: a gradient of nothing.
makers = {
    "a2c": lambda: jaxpg.a2c(env, policy, num_envs=8, num_steps=5, scale_rewards=True),
    "normalized": lambda: jaxpg.a2c(env, jaxpg.policies.normalized(policy, env), num_envs=8, num_steps=5),
    "ppo": lambda: jaxpg.ppo(env, policy, num_envs=8, num_steps=6, num_epochs=2, num_minibatches=2),
    # Several blocks on each of 2 and 8 devices.
    "blocks": lambda: jaxpg.ppo(env, policy, num_envs=8, num_steps=16, num_epochs=2, num_minibatches=2),
    # Minibatches of 20 rows, which 8 devices cannot share.
    "uneven": lambda: jaxpg.ppo(env, policy, num_envs=8, num_steps=5, num_epochs=2, num_minibatches=2),
    "kl": lambda: jaxpg.ppo(env, policy, num_envs=8, num_steps=6, num_epochs=2, num_minibatches=2, objective="kl",
                            max_kl=1e-8, normalize_advantages="batch", value_clip=0.3, learning_rate=lambda n: 1e-3),
    "recurrent": lambda: jaxpg.ppo(env, jaxpg.policies.recurrent(env, size=4), num_envs=16, num_steps=6, num_epochs=1,
                                   num_minibatches=2),
    "reinforce": lambda: jaxpg.reinforce(long, policy, num_episodes=16),
    "npg": lambda: jaxpg.npg(env, policy, num_envs=8, num_steps=6),
    "trpo": lambda: jaxpg.trpo(env, policy, num_envs=8, num_steps=6),
    "v_mpo": lambda: jaxpg.v_mpo(env, policy, num_envs=8, num_steps=6),
    "impala": lambda: jaxpg.impala(env, policy, num_envs=8, num_steps=6),
    "pgpe": lambda: jaxpg.pgpe(long, policy, num_perturbations=8),
}
def mesh(*shape):
    return Mesh(np.array(jax.devices()[:np.prod(shape)]).reshape(shape), ("a", "b")[:len(shape)])
"""

ALIKE = """
from jaxpg import _plan
whole = _plan.DEFAULTS["cpu"]["minibatch_rows"]
for name in {names}:
    algorithm = makers[name]()
    _plan.DEFAULTS["cpu"]["minibatch_rows"] = 2 if name == "blocks" else whole
    steps = {{"reinforce": 720, "pgpe": 720, "npg": 48, "trpo": 48}}.get(name, 90)
    runs = [jaxpg.train(algorithm, jax.random.key(1), num_env_steps=steps, mesh=m, progress=False)
            for m in (None, mesh(2), mesh(4, 2))]
    one = runs[0]
    for other in runs[1:]:
        # The same episodes: counts and returns to the last digit.
        for metric in ("num_episodes", "env_steps", *(["gradient_steps"] if name == "kl" else [])):
            assert np.array_equal(one.history[metric], other.history[metric]), (name, metric)
        np.testing.assert_allclose(one.history["episode_return"], other.history["episode_return"], rtol=1e-6)
        first = one.history["gradient_norm"][0], other.history["gradient_norm"][0]
        np.testing.assert_allclose(*first, rtol={first})
        size = max(float(np.abs(x).max()) for x in jax.tree.leaves(one.params))
        for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(other.params), strict=True):
            np.testing.assert_allclose(a, b, atol={last} * size, err_msg=name)
        assert {{len(x.sharding.device_set) for x in jax.tree.leaves(other.params)}} == {{1}}
    if name == "kl":  # The bound leaves steps out.
        assert one.history["gradient_steps"].max() < 4
    print(name)
"""


@pytest.mark.every_row
@pytest.mark.parametrize(
    "names, x64, first, last",
    [
        (["a2c"], 0, 1e-6, 1e-5),
        pytest.param(["a2c", "ppo", "impala", "v_mpo", "reinforce", "pgpe"], 1, 1e-12, 1e-11, marks=pytest.mark.slow),
        pytest.param(["normalized", "recurrent", "blocks", "uneven", "kl"], 1, 1e-12, 1e-11, marks=pytest.mark.slow),
        # One update: ten conjugate-gradient steps leave a residual whose digits rounding decides, and a second one
        # amplifies it to 1e-6.
        pytest.param(["npg", "trpo"], 1, 1e-12, 1e-10, marks=pytest.mark.slow),
        # In single precision a metric is the mean over several gradient steps, each of which rounds.
        pytest.param(["ppo", "pgpe"], 0, 1e-5, 1e-5, marks=pytest.mark.slow),
    ],
)
def test_training_is_the_same_on_one_two_and_eight_devices(run_in_subprocess, names, x64, first, last):
    code = SETTING + ALIKE.format(names=names, first=first, last=last)
    printed = run_in_subprocess(code, devices=8, timeout=550, env={"JAX_ENABLE_X64": str(x64)})
    assert printed.split() == names


ONE_EXCHANGE = """
from benchmarks import collectives
from jaxpg import _mesh
from jaxpg.training import _position
def exchanges(num_epochs, num_minibatches):
    ppo = jaxpg.ppo(env, policy, num_envs=8, num_steps=8, num_epochs=num_epochs, num_minibatches=num_minibatches)
    def step(state):
        with _mesh.over(mesh(4)):
            return ppo.step(state)
    text = jax.jit(step).lower(_position.start(ppo, mesh(4), jax.random.key(0))).compile().as_text()
    found = collectives.totals(collectives.operations(text), 0)
    return found.pop("all-reduce")["count"], {kind: x["count"] for kind, x in found.items()}
few, others = exchanges(1, 2)
many, others_of_many = exchanges(3, 4)
print(many - few == 10 and others == others_of_many, few, many, others, others_of_many)
"""


@pytest.mark.slow
def test_a_gradient_step_of_ppo_is_one_exchange(run_in_subprocess):
    """One for each of 2 and of 12 gradient steps, and as much besides."""
    printed = run_in_subprocess(SETTING + ONE_EXCHANGE, devices=4)
    assert printed.startswith("True"), printed


POISONED = """
import dataclasses, jax.numpy as jnp, warnings
warnings.simplefilter("ignore")
def step(key, state, action):
    after, timestep = env.step(key, state, action)
    reward = jnp.where(timestep.observation[3] > 0.8, jnp.nan, timestep.reward)
    return after, timestep._replace(reward=reward)
poisoned = dataclasses.replace(env, step=step)
ppo = jaxpg.ppo(poisoned, jaxpg.policies.mlp(poisoned, (4,)), num_envs=16, num_steps=2, num_epochs=1, num_minibatches=2)
names = ["nonfinite", "nonfinite_lane", "nonfinite_episode"]
histories = []
for m in (None, mesh(2), mesh(4, 2)):
    run = jaxpg.train(ppo, jax.random.key(1), num_env_steps=1_000, mesh=m, progress=False, nonfinite="skip")
    histories.append(np.stack([run.history[name] for name in names]))
for other in histories[1:]:
    np.testing.assert_array_equal(histories[0], other)
bad, lane, episode = histories[0]
# Lanes of both halves are to blame, not always in their first episodes; and some updates are without any.
assert {*(lane[bad > 0] >= 8)} == {True, False} and episode.max() > 1 and 0 in bad, histories[0]
assert np.all(lane[bad == 0] == -1) and np.all(episode[bad == 0] == -1)
print("alike")
"""


@pytest.mark.slow
def test_who_is_to_blame_is_the_same_on_any_devices(run_in_subprocess):
    """For rewards that are not finite: the lane's number is that among all lanes, not among a device's."""
    assert run_in_subprocess(SETTING + POISONED, devices=8) == "alike\n"


LAID_OUT = """
from jaxpg.training._position import start, _compiled
import jax.numpy as jnp, re
algorithm, devices = makers["a2c"](), mesh(8)
state = start(algorithm, devices, jax.random.key(0))
def parts(x):
    return x.addressable_data(0).shape
assert parts(state.lanes.lanes.observation) == (1, 4) and parts(state.reward_scale.running) == (1,)
assert parts(state.params["head"]["kernel"]) == (4, 2)
after, metrics, count = _compiled(algorithm, devices)(state, jnp.int32(80), jnp.int32(2), jnp.bool_(True))
assert jax.tree.map(lambda x: x.sharding, after) == jax.tree.map(lambda x: x.sharding, state)  # Nothing recompiles.
try:
    jaxpg.train(jaxpg.a2c(env, policy, num_envs=12, num_steps=5), jax.random.key(0), num_env_steps=10, mesh=devices)
except ValueError as error:
    assert "num_envs must be a multiple of 8, the devices of the mesh; got 12: the nearest are 8 or 16" in str(error)
else:
    raise AssertionError
# The lanes play by themselves: no device waits for another while they do.
from jaxpg import _mesh, segments
def play(params, lanes):
    with _mesh.over(devices):
        return segments.segment(env, policy, params, lanes, 5)
text = jax.jit(play).lower(state.params, state.lanes).compile().as_text()
assert not re.findall("all-reduce|all-gather|all-to-all|collective-permute", text)
print("fine")
"""


def test_lanes_are_laid_out_and_play_alone(run_in_subprocess):
    assert "fine" in run_in_subprocess(SETTING + LAID_OUT, devices=8)


RESUMED = """
import warnings, tempfile
warnings.simplefilter("ignore")
algorithm = makers["a2c"]()
whole = jaxpg.train(algorithm, jax.random.key(1), num_env_steps=200, progress=False)
with tempfile.TemporaryDirectory() as folder:
    for steps, m in ((80, mesh(8)), (120, None), (160, mesh(2)), (200, mesh(4, 2))):
        result = jaxpg.train(algorithm, jax.random.key(1), num_env_steps=steps, mesh=m, progress=False,
                             directory=folder)
assert result.num_updates == whole.num_updates
np.testing.assert_array_equal(result.history["num_episodes"], whole.history["num_episodes"])
for a, b in zip(jax.tree.leaves(result.params), jax.tree.leaves(whole.params), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
print("fine")
"""


@pytest.mark.slow
def test_a_run_goes_on_with_other_devices(run_in_subprocess):
    assert "fine" in run_in_subprocess(SETTING + RESUMED, devices=8)


SWEPT = """
from training_runs import tiny
def sweep(m, **options):
    return jaxpg.sweep(lambda learning_rate: tiny(learning_rate=learning_rate), {"learning_rate": [0.01, 0.1, 1.0]},
                       seeds=5, key=jax.random.key(2), num_env_steps=90, mesh=m, progress=False, evaluate_every=40,
                       evaluation_episodes=2, **options)
one = sweep(None)
for m, options in ((mesh(2), {}), ("auto", {}), (mesh(4, 2), {"runs_per_batch": 3})):
    other = sweep(m, **options)
    assert one.drop_vars("wall_time").identical(other.drop_vars("wall_time")), options
    assert float(np.nanmax(other.wall_time)) > 0
print("fine")
"""


@pytest.mark.slow
def test_sweeps_are_the_same_on_any_devices(run_in_subprocess):
    assert "fine" in run_in_subprocess(SETTING + SWEPT, devices=8)


MANY = """
import jax, jaxpg, sys
from flax import linen
jaxpg.use_cpu_cores(int(sys.argv[1]))
from jaxpg.algorithms import presets
env = jaxpg.make("CartPole-v1")
class Network(linen.Module):
    outputs: int
    @linen.compact
    def __call__(self, x):
        x = linen.tanh(linen.Dense(64, kernel_init=linen.initializers.orthogonal())(x))
        return linen.Dense(self.outputs, kernel_init=linen.initializers.orthogonal())(x)
policies = {
    "mlp": lambda: (jaxpg.policies.mlp(env), jaxpg.policies.value_mlp(env)),
    "linen": lambda: (jaxpg.policies.from_network(env, Network(2)),
                      jaxpg.policies.value_from_network(env, Network(1))),
}
runs = jaxpg.sweep(lambda which: jaxpg.ppo(env, *policies[which]()), {"which": list(policies)}, seeds=128,
                   key=jax.random.key(0), num_env_steps=1024, runs_per_batch=128, mesh="auto", progress=False)
assert bool(runs.finished.all())
algorithm = jaxpg.ppo(env, jaxpg.policies.mlp(env))
jax.block_until_ready(jax.jit(jax.vmap(algorithm.init))(jax.random.split(jax.random.key(0), 256)).params)
print("fine")
"""


@pytest.mark.slow
@pytest.mark.parametrize("devices, threads", [(1, 2), (2, 1)])
def test_many_runs_do_not_wait_for_each_other_for_ever(run_in_subprocess, devices, threads):
    """Batches of LAPACK's factorisations, by which flax draws orthogonal weights, would: XLA cuts them into tasks for
    the threads that wait for them."""
    code = MANY.replace("sys.argv[1]", f"'{devices}'")
    assert "fine" in run_in_subprocess(code, devices=devices, timeout=300, env={"NPROC": str(threads)})


TRAP = """
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
x, w = jnp.arange(8.0), jnp.float32(2.0)
def of_share(w, x):
    return jax.grad(lambda w: jnp.mean(w * x))(w)
def mean_over(check):
    def f(w, x):
        return jax.lax.pmean(of_share(w, x), "a")
    return float(jax.shard_map(f, mesh=mesh(8), in_specs=(P(), P("a")), out_specs=P(), check_vma=check)(w, x))
right = float(jnp.mean(x))
assert mean_over(False) == right
assert mean_over(True) == 8 * right  # Why everything here is computed with check_vma=False.
from jaxpg import _mesh
f = _mesh.along_devices(mesh(8), lambda w, x: jax.lax.pmean(of_share(w, x), "a")[None], cut={1: 0})
np.testing.assert_allclose(f(w, x), np.full(8, right))
print("fine")
"""


def test_gradients_inside_a_mesh_are_not_summed_twice(run_in_subprocess):
    assert "fine" in run_in_subprocess(SETTING + TRAP, devices=8)


def test_meshes_that_are_none(monkeypatch):
    assert _mesh.as_mesh("mesh", None) is None and _mesh.current() is None
    one = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda: one)
    assert _mesh.as_mesh("mesh", "auto") is None
    with pytest.raises(TypeError, match="mesh must be a jax.sharding.Mesh, 'auto' for all devices, or None; got str"):
        _mesh.as_mesh("mesh", "all")
    with pytest.raises(TypeError, match="mesh must be"):
        env = jaxpg.make("CartPole-v1")
        jaxpg.policy_gradient(env, jaxpg.policies.mlp(env), num_episodes=4, mesh=3)  # type: ignore[arg-type]


# --- Processes --------------------------------------------------------------------------------------------------------


def ppo():
    """Some of whose gradient steps the bound leaves out: all devices must leave out the same."""
    env = jaxpg.make("CartPole-v1", max_steps=12)
    policy = jaxpg.policies.mlp(env, (4,))
    return jaxpg.ppo(env, policy, num_envs=8, num_steps=5, num_epochs=2, num_minibatches=2, max_kl=1e-8)


HOST = """
import sys
import jaxpg
process, processes, port, directory = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
steps = int(sys.argv[5])
assert jaxpg.use_hosts(f"127.0.0.1:{port}", processes, process, cpu_devices=4 // processes) == processes
import jax, numpy as np
from test_devices import ppo
from training_runs import tiny
assert jax.device_count() == 4
env = jaxpg.make("CartPole-v1", max_steps=12)
algorithm = jaxpg.a2c(env, jaxpg.policies.mlp(env, (4,)), num_envs=8, num_steps=5)
seen = []
result = jaxpg.train(algorithm, jax.random.key(1), num_env_steps=steps, mesh="auto", directory=directory + "/run",
                     evaluate_every=80, evaluation_episodes=4, loggers=[type("L", (), {
                         "log": lambda self, metrics, step: seen.append(step), "close": lambda self: None})()],
                     callback=lambda block: False, progress=False)
assert bool(seen) == (process == 0)
np.savez(f"{directory}/{process}.npz", *jax.tree.leaves(result.params), updates=result.num_updates,
         returns=result.evaluations["episode_return"], evaluated=result.evaluations["update"],
         episodes=result.history["num_episodes"])
result = jaxpg.train(ppo(), jax.random.key(1), num_env_steps=80, mesh="auto", progress=False)
np.savez(f"{directory}/ppo_{process}.npz", *jax.tree.leaves(result.params), steps=result.history["gradient_steps"])
runs = jaxpg.sweep(lambda learning_rate: tiny(learning_rate=learning_rate), {"learning_rate": [0.01, 0.1]}, seeds=3,
                   key=jax.random.key(2), num_env_steps=60, mesh="auto", directory=directory + "/sweep",
                   evaluate_every=40, evaluation_episodes=2, progress=False)
runs.to_netcdf(f"{directory}/{process}.nc", engine="h5netcdf")
"""


def start_processes(code, number, *arguments):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = [flag for flag in os.environ["XLA_FLAGS"].split() if "host_platform_device_count" not in flag]
    environment = {
        **os.environ, "XLA_FLAGS": " ".join(flags), "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_COMPILATION_CACHE": "false",  # Some are killed, and must not be while they write to it.
    }  # fmt: skip
    return [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), str(i), str(number), str(port), *map(str, arguments)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )  # fmt: skip
        for i in range(number)
    ]


def join(processes, timeout=300):
    try:
        outputs = [process.communicate(timeout=timeout)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, output in zip(processes, outputs):
        assert process.returncode == 0, output[-5000:]


def of_one_process(steps, tmp_path):
    env = jaxpg.make("CartPole-v1", max_steps=12)
    algorithm = jaxpg.a2c(env, jaxpg.policies.mlp(env, (4,)), num_envs=8, num_steps=5)
    return jaxpg.train(
        algorithm, jax.random.key(1), num_env_steps=steps, evaluate_every=80, evaluation_episodes=4, progress=False
    )


def compare(tmp_path, process, whole, swept):
    with np.load(tmp_path / f"{process}.npz") as found:
        assert int(found["updates"]) == whole.num_updates
        np.testing.assert_array_equal(found["episodes"], whole.history["num_episodes"])
        # A run that goes on has the evaluation at its former end besides.
        both = np.isin(found["evaluated"], whole.evaluations["update"])
        np.testing.assert_array_equal(found["evaluated"][both], whole.evaluations["update"])
        np.testing.assert_allclose(found["returns"][both], whole.evaluations["episode_return"], rtol=1e-6)
        for i, leaf in enumerate(jax.tree.leaves(whole.params)):
            np.testing.assert_allclose(found[f"arr_{i}"], leaf, rtol=1e-4, atol=1e-6)
    import xarray

    with xarray.open_dataset(tmp_path / f"{process}.nc") as runs:
        assert runs.drop_vars("wall_time").identical(swept.drop_vars("wall_time"))


@pytest.mark.slow
def test_processes_train_and_sweep_as_one(tmp_path):
    """Two processes, then four that go on from their checkpoint, against one process with one device."""
    from training_runs import tiny

    swept = jaxpg.sweep(
        lambda learning_rate: tiny(learning_rate=learning_rate), {"learning_rate": [0.01, 0.1]}, seeds=3,
        key=jax.random.key(2), num_env_steps=60, evaluate_every=40, evaluation_episodes=2, progress=False,
    )  # fmt: skip
    alone = jaxpg.train(ppo(), jax.random.key(1), num_env_steps=80, progress=False)
    assert alone.history["gradient_steps"].max() < 4
    for number, steps in ((2, 120), (4, 240)):
        join(start_processes(HOST, number, tmp_path, steps))
        for process in range(number):
            with np.load(tmp_path / f"ppo_{process}.npz") as found:
                np.testing.assert_array_equal(found["steps"], alone.history["gradient_steps"])
                for i, leaf in enumerate(jax.tree.leaves(alone.params)):
                    np.testing.assert_allclose(found[f"arr_{i}"], leaf, rtol=1e-4, atol=1e-6)
        whole = of_one_process(steps, tmp_path)
        for process in range(number):
            compare(tmp_path, process, whole, swept)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()]


DYING = """
import os, sys, jaxpg
jaxpg.use_hosts(f"127.0.0.1:{sys.argv[3]}", 2, int(sys.argv[1]), heartbeat_timeout_seconds=10)
import jax
env = jaxpg.make("CartPole-v1", max_steps=12)
algorithm = jaxpg.a2c(env, jaxpg.policies.mlp(env, (4,)), num_envs=8, num_steps=5)
def callback(block):
    print("at", int(block["total_env_steps"][-1]), flush=True)
    if sys.argv[5] == "0" and block["total_env_steps"][-1] > 200:
        raise ArithmeticError("of the first")
if sys.argv[5] == sys.argv[1] == "1":
    raise ArithmeticError("of the second")
jaxpg.train(algorithm, jax.random.key(1), num_env_steps=10**9, mesh="auto", directory=sys.argv[4], checkpoint_every=80,
            callback=callback, progress=False)
"""


@pytest.mark.slow
@pytest.mark.parametrize("dies", [0, 1])
def test_a_process_that_dies_ends_the_job_and_it_goes_on(tmp_path, dies):
    processes = start_processes(DYING, 2, tmp_path / "run", "nobody raises")
    output = processes[0].stdout
    assert output is not None
    while "at" not in (line := output.readline()):
        assert line, "the first process ended"
    for _ in range(5):
        output.readline()
    processes[dies].kill()
    told, _ = processes[1 - dies].communicate(timeout=60)
    assert processes[1 - dies].returncode != 0
    assert "another task died" in told or "another process of the job has died" in told
    assert f"newest checkpoint in {tmp_path / 'run'}" in told or dies == 0
    processes[dies].communicate()
    env = jaxpg.make("CartPole-v1", max_steps=12)
    algorithm = jaxpg.a2c(env, jaxpg.policies.mlp(env, (4,)), num_envs=8, num_steps=5)
    found = jaxpg.load_checkpoint(tmp_path / "run", algorithm)
    assert found.num_env_steps >= 80
    more = jaxpg.train(
        algorithm, jax.random.key(1), num_env_steps=found.num_env_steps + 40, directory=tmp_path / "run",
        checkpoint_every=80, progress=False,
    )  # fmt: skip
    assert more.num_env_steps >= found.num_env_steps + 40


@pytest.mark.slow
@pytest.mark.parametrize("raises, name", [(0, "first"), (1, "second")])
def test_a_process_that_raises_ends_the_job(tmp_path, raises, name):
    """In its own words, while the other one waits for it in the middle of an update or before the first."""
    processes = start_processes(DYING, 2, tmp_path / "run", raises)
    told = [process.communicate(timeout=90)[0] for process in processes]
    assert f"ArithmeticError: of the {name}" in told[raises]
    for process, output in zip(processes, told):
        assert process.returncode != 0, output
    assert "another task died" in told[1 - raises] or "another process of the job has died" in told[1 - raises]


def test_wrong_arguments_of_hosts_are_refused(run_in_subprocess):
    with pytest.raises(ValueError, match=r"none of them; \['process_id'\] missing"):
        jaxpg.use_hosts("a:1", 2)
    with pytest.raises(ValueError, match='coordinator_address must be "host:port"; got'):
        jaxpg.use_hosts("here", 2, 0)
    with pytest.raises(ValueError, match="process_id must be from 0 to 1; got 2"):
        jaxpg.use_hosts("a:1", 2, 2)
    with pytest.raises(ValueError, match="heartbeat_timeout_seconds must be"):
        jaxpg.use_hosts("a:1", 2, 1, heartbeat_timeout_seconds=0)
    code = """
    import jax, jaxpg
    jax.devices()
    try:
        jaxpg.use_hosts("127.0.0.1:1", 1, 0)
    except RuntimeError as error:
        print(error)
    """
    assert "came too late" in run_in_subprocess(code)


POOL = """
import os
import pathlib
import jaxpg
jaxpg.use_cpu_cores(DEVICES, num_threads=5)
jaxpg.use_cpu_cores(DEVICES)
assert "PJRT_NPROC" not in os.environ
jaxpg.use_cpu_cores(DEVICES, num_threads=THREADS)
import jax.numpy as jnp
jnp.ones((500, 500)).dot(jnp.ones((500, 500))).block_until_ready()
names = [path.read_text().strip() for path in pathlib.Path("/proc/self/task").glob("*/comm")]
print("pool", sum(name.startswith("tf_XLAEigen") for name in names))
assert jaxpg.use_cpu_cores(DEVICES, num_threads=THREADS) == jaxpg.use_cpu_cores(DEVICES) == DEVICES
try:
    jaxpg.use_cpu_cores(DEVICES, num_threads=7)
except RuntimeError as error:
    print(error)
"""


@pytest.mark.skipif(not pathlib.Path("/proc/self/task").exists(), reason="threads are counted in /proc")
@pytest.mark.parametrize("devices, threads", [(1, 1), (1, 3), (2, 3)])
def test_threads(run_in_subprocess, devices, threads):
    found = run_in_subprocess(POOL.replace("DEVICES", str(devices)).replace("THREADS", str(threads)), devices=devices)
    assert f"pool {threads}" in found.splitlines() and f"num_threads {threads}. Call it before" in found


def test_fewer_threads_than_devices_are_refused():
    with pytest.raises(ValueError, match="num_threads must be at least num_devices, 2; got 1"):
        jaxpg.use_cpu_cores(2, num_threads=1)
