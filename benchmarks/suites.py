"""Which environments of which suites keep their promises, how quick are they, and does PPO learn in them?

Three parts, each with its own results:

- `--parts conformance`: `jaxpg.envs.check_env` for some environments of each suite (all of gymnax's; `--all` for all of
  every suite), and steps per second of random legal actions, `--num-envs` side by side in one compiled loop.
- `--parts learning`: PPO with the presets of `jaxpg.algorithms.presets` in one environment of each suite, some seeds at
  once: learning curves, and the mean return of a uniformly random policy beside.

    python -m benchmarks suites [--parts …] [--suites …] [--only NAME …] [--all] [--seeds 3] [--quick]

Suites that are not installed are left out, and what was measured of them before is kept. Results are collected in
benchmarks/results/suites_<backend>.json; docs/suites.md and docs/images/suites_learning.png are made of it.
"""

import argparse
import functools
import json
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

import jaxpg
from benchmarks import common
from jaxpg.algorithms import presets
from jaxpg.envs import masks, registry, wrappers
from jaxpg.training.devices import set_xla_flags

# Some of each suite: small and large, of each kind of observation and action, with masks and with pictures.
SOME = {
    "brax": ["inverted_pendulum", "reacher", "hopper", "halfcheetah", "ant"],
    "craftax": ["Craftax-Classic-Symbolic-v1", "Craftax-Symbolic-v1"],
    "jumanji": ["Snake-v1", "Game2048-v1", "Maze-v0", "Cleaner-v0", "Knapsack-v1", "RubiksCube-v0"],
    "mujoco_playground": ["CartpoleBalance", "PendulumSwingup", "ReacherEasy", "CheetahRun", "BallInCup"],
    "navix": ["Navix-Empty-5x5-v0", "Navix-DoorKey-5x5-v0", "Navix-FourRooms-v0", "Navix-LavaGapS5-v0",
              "Navix-Dynamic-Obstacles-5x5-v0"],
    "pgx": ["2048", "minatar-asterix", "minatar-breakout", "minatar-freeway", "minatar-seaquest",
            "minatar-space_invaders"],
    "xminigrid": ["MiniGrid-Empty-5x5", "MiniGrid-DoorKey-5x5", "MiniGrid-FourRooms", "MiniGrid-MemoryS8",
                  "XLand-MiniGrid-R1-9x9"],
}  # fmt: skip
# What is learnt, and how it is made to be observed: codes of tiles say nothing as numbers.
LEARNING = {
    "brax/inverted_pendulum": lambda env: env,
    "craftax/Craftax-Classic-Symbolic-v1": lambda env: env,
    "jumanji/Game2048-v1": wrappers.one_hot,
    "mujoco_playground/CartpoleBalance": lambda env: env,
    "navix/Navix-DoorKey-5x5-v0": wrappers.one_hot,
    "pgx/minatar-breakout": lambda env: env,
    "xminigrid/MiniGrid-DoorKey-5x5": wrappers.one_hot,
}
LIMITS = {
    "gymnax": "its own, apart from the end",
    "brax": "1,000 steps, left to the rollout",
    "craftax": "told from death by its clock",
    "jumanji": "its `time_limit`, played out of reach",
    "mujoco_playground": "`episode_length`, left to the rollout",
    "navix": "its own, apart from the end",
    "pgx": "none of its own; 1,000 in MinAtar",
    "xminigrid": "its own, apart from the end",
}
PAGE, PICTURE = common.ROOT / "docs" / "suites.md", common.ROOT / "docs" / "images" / "suites_learning.png"


class Looker:
    """Looks at one environment, in a process that ends with it: compiled programs of large ones take gigabytes."""

    def __init__(self, name):
        set_xla_flags()
        self._env = jaxpg.make(name)

    def conformance(self, num_steps):
        start = time.perf_counter()
        report = jaxpg.envs.check_env(self._env, num_episodes=4, num_steps=num_steps)
        kinds = [_kind(space) for space in (self._env.observation_space, self._env.action_space)]
        return {
            "passed": report.passed,
            "findings": [list(finding) for finding in report.findings],
            "observations": kinds[0],
            "actions": kinds[1],
            "max_steps": self._env.max_steps,
            "seconds": time.perf_counter() - start,
        }

    def speed(self, num_envs, most_steps, rounds):
        """Steps per second of random legal actions with resets, and the seconds of compilation.

        A round takes about two seconds, or `most_steps` in each environment.
        """
        env = self._env

        def step(time, carry):
            key, state, observation, total = carry
            action_key, step_key, reset_key = jax.random.split(jax.random.fold_in(key, time), 3)
            action = masks.random_action(env.action_space, observation, action_key)
            state, timestep = env.step(step_key, state, action)
            ended = timestep.terminated | timestep.truncated
            # As jaxpg's rollout does for the lanes that need it; here every lane makes a new state.
            fresh = env.reset(reset_key)
            state, observation = jax.tree.map(
                lambda new, old: jnp.where(ended, new, old), fresh, (state, timestep.observation)
            )
            # What nobody reads is not computed: a reward may be constant, a picture may never be looked at.
            read = (timestep.reward, timestep.terminated, timestep.truncated, timestep.observation)
            total += sum(jnp.sum(leaf, dtype=float) for leaf in jax.tree.leaves(read))
            return key, state, observation, total

        def play(key, num_steps):
            return jax.lax.fori_loop(0, num_steps, step, (key, *env.reset(key), 0.0))[-1]

        keys = jax.random.split(jax.random.key(0), num_envs)
        start = time.perf_counter()
        compiled = jax.jit(jax.vmap(play, (0, None))).lower(keys, 1).compile()
        compile_seconds = time.perf_counter() - start

        def timed(num_steps):
            start = time.perf_counter()
            jax.block_until_ready(compiled(keys, num_steps))
            return time.perf_counter() - start

        timed(1)
        num_steps = int(np.clip(2 * 2.0 / timed(2), 2, most_steps))
        seconds = [timed(num_steps) for _ in range(rounds)]
        return {
            "steps_per_second": num_envs * num_steps / float(np.median(seconds)),
            "rounds": seconds,
            "compile_seconds": compile_seconds,
        }

    def learning(self, seeds, num_env_steps, episodes):
        """Learning curves of the seeds, their last policies' returns, and those of random legal actions."""
        env = LEARNING[self._env.name](self._env)
        budget = num_env_steps or presets.PRESETS["ppo"][env.name]["num_env_steps"]
        algorithm = presets.make("ppo", env, budget)
        start = time.perf_counter()
        runs, params = jaxpg.sweep(
            lambda: algorithm, {}, seeds=seeds, key=jax.random.key(2026), num_env_steps=budget, return_params=True
        )
        seconds = time.perf_counter() - start
        score = functools.partial(_returns, env, algorithm.policy, episodes)
        keys = jax.random.split(jax.random.key(7), seeds)
        returns = np.asarray(jax.jit(jax.vmap(score))(keys, params.stacked()), float)
        uniform = _uniform(env)
        random = np.asarray(_returns(env, uniform, episodes, keys[0], uniform.init(keys[0])), float)
        return {
            "num_env_steps": budget,
            "env_steps": runs.env_steps.values.max(axis=0).tolist(),
            "episode_return": np.asarray(runs.episode_return.values, float).tolist(),
            "returns": returns.mean(axis=1).tolist(),
            "random_return": float(random.mean()),
            "episodes": episodes,
            "seconds": seconds,
            "config": json.loads(json.dumps(dict(algorithm.config), default=str)),
        }


def _returns(env, policy, episodes, key, params):
    return jaxpg.evaluate(key, env, policy, params, num_episodes=episodes).returns


def _uniform(env):
    """The policy that takes every legal action alike."""

    class Uniform:
        def __init__(self, observation):
            self._observation = observation

        def sample(self, key):
            return masks.random_action(env.action_space, self._observation, key)

        def log_prob(self, action):
            return jnp.zeros(())

        def entropy(self):
            return jnp.zeros(())

        mode = None

    return jaxpg.Policy(init=lambda key: jnp.zeros(()), apply=lambda params, observation: Uniform(observation))


def _kind(space):
    """A space in a few words: the kinds of its leaves."""
    leaves = jax.tree_util.tree_leaves(masks.without_mask(space), is_leaf=jaxpg.envs.spaces.is_leaf)
    words = []
    for leaf in leaves:
        dtype = np.dtype(leaf.dtype)
        kind = {"f": "floats", "b": "booleans"}.get(dtype.kind, "integers")
        shape = "×".join(map(str, leaf.shape))
        words.append(str(leaf) if not isinstance(leaf, jaxpg.Box) else f"{kind} {shape}".strip())
    text = (
        words[0] if len(words) == 1 else f"{len(words)} parts: {', '.join(words[:3])}{', …' if len(words) > 3 else ''}"
    )
    return text + (", mask" if masks.without_mask(space) is not space else "")


def names_of(suite, every):
    if suite == "gymnax":
        return registry.available()
    return registry.available(suite) if every else [f"{suite}/{name}" for name in SOME[suite]]


def measure(name, part, options):
    looker = common.Process(name, Looker, name)
    try:
        if part == "learning":
            return looker.ask("learning", options.seeds, 20_000 if options.quick else None, options.episodes)
        result = looker.ask("conformance", 20 if options.quick else options.num_steps)
        sizes = (4, 8, 1) if options.quick else (options.num_envs, 128, 3)
        return {**result, "num_envs": sizes[0], **looker.ask("speed", *sizes)}
    finally:
        looker.close()


def page(result):
    """docs/suites.md."""
    lines = [HEADER, "## Conformance and speed", "", CONFORMANCE, ""]
    lines += ["| suite | version | conforming | names | time limit | steps/s: slowest, median, quickest |"]
    lines += ["|---|---|---|---|---|---|"]
    for suite, facts in result["suites"].items():
        rows = facts["environments"].values()
        speeds = sorted(row["steps_per_second"] for row in rows if "steps_per_second" in row)
        passed = sum(row.get("passed", False) for row in rows)
        text = ", ".join(f"{_rounded(speed)}" for speed in (speeds[0], float(np.median(speeds)), speeds[-1]))
        lines.append(
            f"| {suite} | {facts['version']} | {passed} of {len(rows)} looked at | {facts['num_names']} "
            f"| {LIMITS[suite]} | {text} |"
        )
    for suite, facts in result["suites"].items():
        lines += [
            "",
            f"### {suite}",
            "",
            "| environment | check | observations | actions | limit | steps/s | compiling |",
        ]
        lines += ["|---|---|---|---|---|---|---|"]
        for name, row in facts["environments"].items():
            if "error" in row:
                lines.append(f"| {name} | {row['error']} | | | | | |")
                continue
            failures = [f"{check}: {message}" for check, status, message in row["findings"] if status == "failed"]
            limit = "none" if row["max_steps"] is None else f"{row['max_steps']:,}"
            lines.append(
                f"| {name} | {'conforms' if row['passed'] else '; '.join(failures)} | {row['observations']} "
                f"| {row['actions']} | {limit} | {_rounded(row['steps_per_second'])} | {row['compile_seconds']:.1f} s |"
            )
    if result.get("learning"):
        lines += ["", "## Learning", "", LEARNT, "", "![learning curves](images/suites_learning.png)", ""]
        lines += ["| environment | steps | random actions | returns of the seeds | to compare with |"]
        lines += ["|---|---|---|---|---|"]
        for name, row in result["learning"].items():
            returns = ", ".join(f"{value:,.4g}" for value in row["returns"])
            lines.append(
                f"| {name} | {row['num_env_steps']:,} | {row['random_return']:,.4g} | {returns} "
                f"| {PUBLISHED.get(name, '')} |"
            )
    return "\n".join(lines) + "\n"


HEADER = """# The suites of environments

Made by `python -m benchmarks suites`, whose docstring says how. [environments.md](environments.md) is the guide.
"""
CONFORMANCE = """Each environment is played with random legal actions by `jaxpg.envs.check_env` (`jaxpg check-env
NAME`). The rewards, observations and ends of five or more environments of each suite, and of three
of craftax, are compared with those of the suite's own loop, step by step, in `tests/suites`. Steps per second are
those of 256 environments side by side with random actions, a reset computed at every step, on two
CPU cores: what the environment costs at most. Where a reset is dear that is nearly all of it (Craftax
draws a world, CheetahRun lets the robot settle for 200 steps); jaxpg's rollout resets where an
episode has ended. Craftax has two environments with symbolic observations; its two with pixels write
into its package and were not looked at."""
LEARNT = """PPO with the hyperparameters of [jaxpg/algorithms/presets.py](../jaxpg/algorithms/presets.py), a
few seeds at once: `python -m benchmarks suites --parts learning --only NAME`. Grids of codes and
2048 are observed through `jaxpg.envs.wrappers.one_hot`. Returns are means over fresh episodes of
each seed's last policy. Published numbers are of other protocols: they say where a good result
lies."""
PUBLISHED = {
    "brax/inverted_pendulum": "1,000 is the most",
    "craftax/Craftax-Classic-Symbolic-v1": "22 is the most; PPO 90% of it at 1,000M steps (Matthews et al. 2024); in "
    "Crafter itself, from pixels, PPO 4.2 ± 1.2 at 1M and random actions 2.1 ± 1.3 (Hafner 2021)",
    "mujoco_playground/CartpoleBalance": "1,000 is the most",
    "navix/Navix-DoorKey-5x5-v0": "1 is the most",
    "pgx/minatar-breakout": "28 at 10M steps in gymnax's version of the game (PureJaxRL)",
    "xminigrid/MiniGrid-DoorKey-5x5": "1 is never quite reached: a goal is worth 1 − 0.9 · step / limit",
}


def _rounded(speed):
    digits = max(0, len(str(int(speed))) - 2)
    return f"{round(speed, -digits):,.0f}"


def draw(learning):
    """docs/images/suites_learning.png: a panel for each environment, a line for each seed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    columns = min(len(learning), 4)
    rows = -(-len(learning) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(2.6 * columns, 2.1 * rows), squeeze=False)
    for axis in axes.flat[len(learning) :]:
        axis.axis("off")
    for axis, (name, row) in zip(axes.flat, learning.items(), strict=False):
        for curve in row["episode_return"]:
            ended = np.isfinite(np.asarray(curve, float))  # An update in which no episode ended has no return.
            axis.plot(np.asarray(row["env_steps"])[ended] / 1e6, np.asarray(curve)[ended], linewidth=1)
        axis.axhline(row["random_return"], color="gray", linestyle=":", linewidth=1)
        axis.set_title(name, fontsize=8)
        axis.set_xlabel("million steps", fontsize=7)
        axis.set_ylabel("return", fontsize=7)
        axis.tick_params(labelsize=7)
    figure.tight_layout()
    figure.savefig(PICTURE, dpi=110)
    plt.close(figure)
    with Image.open(PICTURE) as picture:  # A palette takes a third of the bytes.
        small = picture.convert("RGB").quantize(64, dither=Image.Dither.NONE)
    small.save(PICTURE, optimize=True)


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks suites", description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=("conformance", "learning"), default=["conformance", "learning"])
    parser.add_argument("--suites", nargs="+", choices=registry.SUITES, help="default: all that are installed")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these environments")
    parser.add_argument("--all", action="store_true", help="all of every suite, not some")
    parser.add_argument("--seeds", type=common.positive, default=3)
    parser.add_argument("--episodes", type=common.positive, default=64, help="of the evaluation of each seed")
    parser.add_argument("--num-envs", type=common.positive, default=256)
    parser.add_argument("--num-steps", type=common.positive, default=300, help="most steps of the check's episodes")
    parser.add_argument("--quick", action="store_true", help="one environment of each suite, to see that it works")
    parser.add_argument("--out", help="the JSON file")
    options = parser.parse_args(arguments)
    installed = [name for name in options.suites or registry.SUITES if registry.SUITES[name].is_installed]
    file = options.out or common.result_path(f"suites_{jax.default_backend()}", options.quick)
    result = json.loads(file.read_text()) if not isinstance(file, str) and file.exists() and not options.quick else {}
    result |= {"question": __doc__.splitlines()[0], "machine": common.machine()}
    result.setdefault("suites", {})
    for suite in installed if "conformance" in options.parts else ():
        names = [name for name in names_of(suite, options.all) if options.only is None or name in options.only]
        facts = result["suites"].setdefault(suite, {"environments": {}})
        facts |= {"version": _version(suite), "num_names": len(registry.available(suite))}
        for name in names[:1] if options.quick else names:
            common.note(name)
            try:
                row = measure(name, "conformance", options)
                print(f"{name}: {'conforms' if row['passed'] else row['findings']}, {row['steps_per_second']:,.0f}/s")
            except RuntimeError as error:
                row = {"error": str(error).splitlines()[-1], "passed": False}
                print(f"{name}: {row['error']}")
            facts["environments"][name] = row
            common.write_json(file, result)
    for name in LEARNING if "learning" in options.parts else ():
        if name.partition("/")[0] not in installed or (options.only is not None and name not in options.only):
            continue
        common.note(f"learning {name}")
        row = measure(name, "learning", options)
        print(f"{name}: {row['returns']} after {row['num_env_steps']:,} steps, random {row['random_return']:.3g}")
        result.setdefault("learning", {})[name] = row
        common.write_json(file, result)
    if not options.quick and options.out is None:
        PAGE.write_text(page(result), encoding="utf-8")
        if result.get("learning"):
            draw(result["learning"])
    return result


def _version(suite):
    import importlib.metadata

    packages = {"mujoco_playground": "playground"}
    return importlib.metadata.version(packages.get(suite, suite))


if __name__ == "__main__":
    main()
    sys.exit(0)
