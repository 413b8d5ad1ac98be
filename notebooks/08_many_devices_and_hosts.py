# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Many devices, many hosts
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxpg/jaxpg/blob/main/notebooks/08_many_devices_and_hosts.ipynb)
#
# One argument, `mesh=`, lays work over devices: the cores of a CPU, the GPUs of a machine, the chips of a TPU slice, and,
# after one call more, those of many machines.
#
# | | along the devices | how many |
# |---|---|---|
# | `policy_gradient(…, mesh=)` | episodes | any number |
# | `train(…, mesh=)` | environments | a multiple of the devices |
# | `sweep(…, mesh=)` | whole runs | any number |
#
# The estimate is a mean, $\hat g = \frac1N \sum_d \sum_{i \in I_d} g_i$ with device $d$ playing the episodes $I_d$. Episode
# $i$ draws from `fold_in(key, i)` wherever it is played, so the episodes are the same on any number of devices, and $\hat g$
# is the same but for the order of a floating-point sum. This notebook checks that, on eight devices and on two processes.

# %%
# Installs jaxpg where it is missing. Its requirements are floors that Colab's own jax meets, so jax and its GPU stay.
import importlib.util

if importlib.util.find_spec("jaxpg") is None:
    # %pip install -q "jaxpg @ git+https://github.com/jaxpg/jaxpg"
    pass

# %% [markdown]
# ## Eight devices in a notebook
#
# JAX takes a CPU for one device. `jaxpg.use_cpu_cores(8)` makes eight of it (it sets `jax_num_cpu_devices`; the older way is
# `XLA_FLAGS=--xla_force_host_platform_device_count=8`). It must come before anything that starts JAX, such as the first
# array: here, in the first cell of a fresh kernel. Eight devices on two cores gain no speed over two, but they show what a
# job will do on eight GPUs.
#
# With two accelerators or more, this notebook uses those. With one, it leaves it alone and simulates devices on the CPU.

# %%
import glob
import os

several_accelerators = len(glob.glob("/dev/nvidia[0-9]*") + glob.glob("/dev/accel[0-9]*")) > 1
if not several_accelerators:
    os.environ["JAX_PLATFORMS"] = "cpu"

import jaxpg

if not several_accelerators:
    jaxpg.use_cpu_cores(8)  # Without a number: one device for each core.

import re
import socket
import subprocess
import sys
import tempfile
import time

import jax
import matplotlib.pyplot as plt
import numpy as np

devices = jax.devices()
counts = [count for count in (1, 2, 8) if count <= len(devices)]
cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
print("jaxpg", jaxpg.__version__, "· jax", jax.__version__, "on", jax.default_backend())
print(f"{len(devices)} devices, {cores} cores:", *devices)

# %%
SIZE = os.environ.get("JAXPG_NOTEBOOK_SIZE", "small")
SIZES = {  # episodes of a gradient, rounds of timing, updates of training, steps of each run of the sweep
    "tiny": dict(num_episodes=512, rounds=2, updates=4, sweep_steps=4_096),
    "small": dict(num_episodes=16_384, rounds=9, updates=60, sweep_steps=60_000),
    "full": dict(num_episodes=1_000_000, rounds=7, updates=400, sweep_steps=400_000),
}
sizes = SIZES[SIZE]

env = jaxpg.make("CartPole-v1")
policy = jaxpg.policies.mlp(env, hidden_sizes=(64, 64))
params = policy.init(jax.random.key(0))


def mesh_of(count):
    """The first `count` devices as a mesh. `mesh="auto"` is all of them; None is one device."""
    return jax.sharding.Mesh(np.array(devices[:count]), ("device",))


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]).astype(np.float64)


def difference(a, b):
    """‖a − b‖ / ‖b‖ of two trees of parameters."""
    return float(np.linalg.norm(flat(a) - flat(b)) / np.linalg.norm(flat(b)))


# %% [markdown]
# ## A gradient on 1, 2 and 8 devices
#
# The number of devices is an argument and changes nothing else. The episodes are the same, so their number of steps is equal
# exactly; the gradient is equal to rounding. The last column counts the collectives in the compiled program, the points
# where devices wait for each other: the sums at the end, and nothing else.

# %%
key = jax.random.key(1)
programs, estimates = {}, {}
print("devices      steps   mean return   relative difference   collectives")
for count in counts:
    build = jaxpg.policy_gradient(env, policy, num_episodes=sizes["num_episodes"], mesh=mesh_of(count))
    programs[count] = jax.jit(build).lower(key, params).compile()
    estimates[count] = estimate = jax.device_get(programs[count](key, params))
    distance = difference(estimate.gradient, estimates[1].gradient)
    collectives = len(
        re.findall(
            r" (?:all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)(?:-start)?\(",
            programs[count].as_text(),
        )
    )
    print(f"{count:>7}{estimate.num_steps:>11,}{estimate.episode_return:>14.4f}{distance:>22.1e}{collectives:>14}")
    assert estimate.num_steps == estimates[1].num_steps  # The same episodes.
    assert distance < 1e-5  # The same gradient, to rounding.

# %% [markdown]
# Time, with the devices taking turns so that a busy moment of the machine meets all of them. On a CPU, devices share the
# cores: with two cores, two devices are the most that can help, and eight show what the division costs.

# %%
times = {count: [] for count in counts}
for _ in range(sizes["rounds"]):
    for count in counts:
        start = time.perf_counter()
        jax.block_until_ready(programs[count](key, params))
        times[count].append(time.perf_counter() - start)
for count in counts[1:]:
    ratio = np.array(times[1]) / np.array(times[count])
    low, middle, high = np.quantile(ratio, [0.25, 0.5, 0.75])
    print(
        f"{count} devices: {np.median(times[count]):.3f} s against {np.median(times[1]):.3f} s on one, {middle:.2f} times "
        f"as fast (middle half of {len(ratio)} rounds: {low:.2f} to {high:.2f})"
    )

# %% [markdown]
# ## Training: where the arrays lie
#
# `train(mesh=)` lays the environments over the devices. Each device holds the states of its own environments; parameters and
# the optimiser's state are on every device. JAX tells where an array lies:

# %%
algorithm = jaxpg.a2c(env, policy, num_envs=64, num_steps=16, learning_rate=2e-3)
per_update = 64 * 16
runs = {
    count: jaxpg.train(
        algorithm,
        jax.random.key(2),
        num_env_steps=per_update,
        mesh=mesh_of(count) if count > 1 else None,
        progress=False,
    )
    for count in counts
}
laid_out = runs[counts[-1]]
kernel = laid_out.state.params["hidden_1"]["kernel"]
lanes = [
    leaf
    for leaf in jax.tree.leaves(laid_out.state)
    if leaf.shape == (64, 4) and not leaf.sharding.is_fully_replicated  # Observations: [environment, number].
]
observations = lanes[0]


def owners(array):
    """[row, column]: the device that holds an element, or -1 where all hold it."""
    picture = np.full(array.shape, -1)
    if not array.sharding.is_fully_replicated:
        for shard in array.addressable_shards:
            picture[shard.index] = devices.index(shard.device)
    return picture


figure, axes = plt.subplots(1, 2, figsize=(7, 3.4), width_ratios=[1, 2], layout="constrained")
colours = plt.get_cmap("tab10")
for ax, array, title in zip(
    axes,
    (observations, kernel),
    ("observations\n64 environments × 4", "a layer of the policy\n64 × 64"),
    strict=True,
):
    held = owners(array)
    image = np.where(
        held[..., None] < 0, 0.88, np.array([colours(d % 10)[:3] for d in held.ravel()]).reshape(*held.shape, 3)
    )
    ax.imshow(image, aspect="auto", interpolation="nearest")
    ax.set(title=title, xticks=[], xlabel="column", ylabel="row")
    if (held < 0).all():
        ax.text(31.5, 31.5, f"a copy on each of\n{len(array.sharding.device_set)} devices", ha="center", va="center")
    else:
        for device in np.unique(held):
            ax.text(
                1.5, np.mean(np.where(held[:, 0] == device)[0]), f"device {device}", ha="center", va="center", color="w"
            )
plt.show()
if len(counts) > 1:
    assert len(np.unique(owners(observations))) == counts[-1]
    assert kernel.sharding.is_fully_replicated and len(kernel.sharding.device_set) == counts[-1]

# %% [markdown]
# After one update the parameters agree to rounding. Later they agree as long as no rounding has changed an action: sums over
# devices are added in another order, and when a difference in the last digit one day draws another action, the run is another
# one from there, with the same expectation. That is so between any two programs that add in different orders, and nothing is
# promised of long runs on different devices. On the same devices a run repeats to the bit, which is asserted below.

# %%
for count in counts[1:]:
    distance = difference(runs[count].params, runs[1].params)
    print(f"after 1 update, {count} devices against one: relative difference {distance:.1e}")
    assert distance < 1e-5

long = {}
for count in counts:
    mesh = mesh_of(count) if count > 1 else None
    long[count] = jaxpg.train(
        algorithm, jax.random.key(2), num_env_steps=sizes["updates"] * per_update, mesh=mesh, progress=False
    )
repeated = jaxpg.train(
    algorithm, jax.random.key(2), num_env_steps=sizes["updates"] * per_update, mesh=mesh, progress=False
)
assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), repeated.params, long[counts[-1]].params)))
for count in counts:
    returns = np.nanmean(long[count].history["episode_return"][-10:])
    distance = difference(long[count].params, long[1].params)
    print(f"after {long[count].num_updates} updates on {count}: return {returns:.1f}, difference {distance:.1e}")
print("the run on", counts[-1], "devices, repeated: the same bits")

# %% [markdown]
# A run also goes on with other devices: `train(directory=…)` writes checkpoints that know nothing of the mesh, so one made
# on eight devices is continued on one, or on 256.
#
# ## A sweep needs no communication
#
# Runs tell each other nothing. `sweep(mesh="auto")` gives each device runs of its own, which makes it the best way to fill
# devices; where their number does not divide that of the runs, places are filled up.

# %%


def build(learning_rate):
    return jaxpg.a2c(env, policy, num_envs=16, num_steps=8, learning_rate=learning_rate)


swept = jaxpg.sweep(
    build,
    {"learning_rate": [1e-3, 4e-3]},
    seeds=4,
    key=jax.random.key(3),
    num_env_steps=sizes["sweep_steps"],
    mesh="auto",
    progress=False,
)
last = swept.episode_return.isel(update=slice(-20, None)).mean("update")
print(
    f"{swept.seed.size * swept.learning_rate.size} runs on {len(devices)} devices; last 20 updates, mean over 4 seeds"
)
for rate in swept.learning_rate.values:
    values = last.sel(learning_rate=rate)
    print(f"  learning rate {rate:g}: {float(values.mean()):.0f} ± {float(values.std(ddof=1)) / 2:.0f}")
ax = jaxpg.plot.sweep_curves(swept, by="learning_rate")
plt.show()

# %% [markdown]
# ## Two processes
#
# A job on several machines is one process or more on each, all running the same script, which begins with
# `jaxpg.use_hosts()`. Afterwards `jax.devices()` and `mesh="auto"` are the devices of all. Under SLURM, on Cloud TPU and
# under Open MPI the call needs no arguments; by hand it takes the address of the first process, the number of processes
# and the number of this one. Here two processes of this machine, with four devices each, do what one process with eight
# did above.

# %%
script = f"""\
import sys

import jaxpg

address, process, result_path = sys.argv[1:]
jaxpg.use_hosts(address, 2, int(process), cpu_devices=4)

import jax
import numpy as np

env = jaxpg.make("CartPole-v1")
policy = jaxpg.policies.mlp(env, hidden_sizes=(64, 64))
params = policy.init(jax.random.key(0))
print(f"process {{jax.process_index()}} of {{jax.process_count()}}: "
      f"{{jax.local_device_count()}} devices here, {{jax.device_count()}} in all", flush=True)

gradient = jaxpg.policy_gradient(env, policy, num_episodes={sizes["num_episodes"]}, mesh="auto")
estimate = gradient(jax.random.key(1), params)
algorithm = jaxpg.a2c(env, policy, num_envs=64, num_steps=16, learning_rate=2e-3)
result = jaxpg.train(algorithm, jax.random.key(2), num_env_steps={per_update}, mesh="auto", progress=False)

if jax.process_index() == 0:  # All processes have all results; one writes them.
    print(f"{{int(estimate.num_steps):,}} steps, mean return {{estimate.episode_return:.4f}}", flush=True)
    flat = lambda tree: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
    np.savez(result_path, steps=estimate.num_steps, gradient=flat(estimate.gradient), params=flat(result.params))
"""
print(script)

# %%
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{free.getsockname()[1]}"

with tempfile.TemporaryDirectory() as folder:
    script_path, result_path = os.path.join(folder, "job.py"), os.path.join(folder, "result.npz")
    with open(script_path, "w") as file:
        file.write(script)
    processes = [
        subprocess.Popen(
            [sys.executable, script_path, address, str(process), result_path],
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=500) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (printed, errors) in zip(processes, outputs, strict=True):
        if process.returncode:
            raise RuntimeError(errors)
        # gloo, by which processes on CPUs talk, reports its connections on standard output, too.
        print(*[line for line in printed.splitlines() if "[Gloo]" not in line and "peer ranks" not in line], sep="\n")
    with np.load(result_path) as file:
        of_two_processes = dict(file)

# %%
gradient_distance = difference(of_two_processes["gradient"], estimates[1].gradient)
params_distance = difference(of_two_processes["params"], runs[1].params)
print(f"gradient of two processes against one device: relative difference {gradient_distance:.1e}")
print(f"parameters after one update:                  relative difference {params_distance:.1e}")
assert of_two_processes["steps"] == estimates[1].num_steps
assert gradient_distance < 1e-5 and params_distance < 1e-5

# %% [markdown]
# ## Elsewhere
#
# | where | what to do |
# |---|---|
# | one GPU | nothing: `mesh=None`. Lanes default to 32,768, so give it episodes enough |
# | several GPUs of a machine | one process, `mesh="auto"`; a GPU needs no process of its own |
# | a CPU | `jaxpg.use_cpu_cores()` first, then `mesh="auto"`; best for sweeps |
# | a TPU slice | one process for each machine, started on all at once; `jaxpg.use_hosts()` finds the rest |
# | SLURM | a task for each GPU, `jaxpg.use_hosts()` without arguments; or one for each node with `local_device_ids=` |
# | Kubernetes | an Indexed Job and a headless service; `jaxpg.use_hosts("train-0.hosts:9876", processes, process)` |
#
# What a script prints or saves belongs under `if jax.process_index() == 0`; no process may skip a call of jaxpg that the
# others make. A job of any length needs `directory=`, so that a launcher can start it again after a process has died. Job
# scripts for SLURM, Kubernetes and Cloud TPU are in
# [docs/devices.md](https://github.com/jaxpg/jaxpg/blob/main/docs/devices.md), measurements of what the division costs in
# [docs/scaling.md](https://github.com/jaxpg/jaxpg/blob/main/docs/scaling.md).
