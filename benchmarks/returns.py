"""What returns do the algorithms reach, and how do they compare with published ones?

Each line of the table of presets (`jaxpg.algorithms.presets`) that has a target: some seeds at once in one compiled
program, each for the line's number of environment steps, then 100 fresh episodes of each seed's last parameters, with
actions taken as in training: sampled, or the mode (PGPE, which explores in the parameters). Given are the mean over
seeds, the interquartile mean with its 95% bootstrap interval (percentile, over seeds), and how many seeds reach the
target.

    python -m benchmarks returns [--only ppo/CartPole-v1 …] [--seeds 10] [--processes 2] [--quick]

Results are collected in benchmarks/results/returns_<backend>.json, a line for each pair that has been run;
docs/returns.md is made of it.
"""

import argparse
import concurrent.futures
import json
import os
import sys
import time

import jax
import numpy as np

import jaxpg
from benchmarks import common
from jaxpg.algorithms import presets
from jaxpg.training.devices import set_xla_flags

# (algorithm, environment): (target for the mean over seeds, what others report)
TARGETS = {
    ("ppo", "CartPole-v1"): (495, "rl-zoo 500 at 100k steps, CleanRL 490 at 500k"),
    ("a2c", "CartPole-v1"): (490, "rl-zoo 500 at 500k"),
    ("reinforce", "CartPole-v1"): (475, "475 is where gymnasium calls CartPole-v1 solved"),
    ("ppo", "Acrobot-v1"): (-80, "rl-zoo −73.5 at 1M, CleanRL −90 at 500k"),
    ("ppo", "Pendulum-v1"): (-170, "rl-zoo −172 at 100k (gSDE)"),
    ("trpo", "Pendulum-v1"): (-175, "rl-zoo −174 at 100k (gSDE)"),
    ("pgpe", "MountainCarContinuous-v0"): (90, "rl-zoo PPO 88.3, SAC 94.7"),
    ("ppo", "Breakout-MinAtar"): (28, "PureJaxRL, 10M steps"),
    ("ppo", "Asterix-MinAtar"): (15, "PureJaxRL, 10M steps"),
    ("ppo", "Freeway-MinAtar"): (58, "PureJaxRL, 10M steps"),
    ("ppo", "SpaceInvaders-MinAtar"): (131, "PureJaxRL, 10M steps"),
    ("ppo", "MemoryChain-bsuite"): (0.9, "1 is perfect; the policy is recurrent"),
    ("ppo", "MemoryChain-bsuite (no memory)"): (None, "the same without memory: 0 is guessing"),
}
NO_MEMORY = " (no memory)"
PAGE = common.ROOT / "docs" / "returns.md"
HEADER = """# Returns

Made by `python -m benchmarks returns`, whose docstring says how; one line with
`python -m benchmarks returns --only ppo/CartPole-v1`. The hyperparameters are those of
[jaxpg/algorithms/presets.py](../jaxpg/algorithms/presets.py). IQM is the interquartile mean over seeds, in brackets its
95% bootstrap interval; *seeds* counts those whose own mean return reaches the target. Published returns are from other
protocols (episodes, seeds, networks, sometimes other versions of the environment): they say where a good result lies.

| algorithm | environment | steps | mean | IQM [95%] | target | seeds | published | steps/s, all seeds |
|---|---|---|---|---|---|---|---|---|
"""


def interquartile_mean(values):
    from scipy import stats

    return float(stats.trim_mean(values, 0.25))


class Runner:
    """Trains seeds and plays their policies; on one core where it is told which."""

    def __init__(self, core=None):
        if core is not None:
            os.sched_setaffinity(0, {core})
        set_xla_flags()

    def run(self, algorithm_name, env_name, part, seeds, steps, episodes):
        """Seeds part[0] … part[1] − 1 of `seeds`: the mean return of each, and how long it took."""
        plain_name = env_name.removesuffix(NO_MEMORY)
        env = jaxpg.make(plain_name)
        algorithm = presets.make(algorithm_name, env, steps, **({} if plain_name == env_name else {"network": "mlp"}))
        chosen = slice(*part)
        train_keys, test_keys = (jax.random.split(key, seeds)[chosen] for key in jax.random.split(jax.random.key(2026)))
        start = time.perf_counter()
        runs, params = jaxpg.sweep(
            lambda: algorithm, {}, seeds=part[1] - part[0], key=train_keys, num_env_steps=steps, return_params=True
        )
        run_seconds = float(runs.wall_time.max())
        compile_seconds = time.perf_counter() - start - run_seconds
        deterministic = bool(algorithm.config.get("deterministic", False))

        def score(key, params):
            return jaxpg.evaluate(
                key, env, algorithm.policy, params, num_episodes=episodes, deterministic=deterministic
            ).returns

        returns = np.asarray(jax.jit(jax.vmap(score))(test_keys, params.stacked()), float).mean(axis=1)
        config = json.loads(json.dumps(dict(algorithm.config), default=str))
        return returns.tolist(), compile_seconds, run_seconds, config


def measure(runners, algorithm_name, env_name, seeds, num_env_steps, episodes):
    """One line: the seeds laid over the runners, all at once, and what their policies earn."""
    from scipy import stats

    steps = num_env_steps or presets.PRESETS[algorithm_name][env_name.removesuffix(NO_MEMORY)]["num_env_steps"]
    cuts = np.linspace(0, seeds, len(runners) + 1).astype(int).tolist()
    with concurrent.futures.ThreadPoolExecutor(len(runners)) as pool:
        waiting = [
            pool.submit(runner.ask, "run", algorithm_name, env_name, part, seeds, steps, episodes)
            for runner, part in zip(runners, zip(cuts, cuts[1:]))
        ]
        returns, compile_seconds, run_seconds, configs = zip(*(future.result() for future in waiting))
    returns = np.concatenate(returns)
    low, high = np.nan, np.nan
    if seeds > 2:
        interval = stats.bootstrap(
            (returns,), lambda x, axis: stats.trim_mean(x, 0.25, axis=axis), method="percentile", n_resamples=9999,
            rng=np.random.default_rng(0),
        ).confidence_interval  # fmt: skip
        low, high = map(float, interval)
    return {
        "returns": returns.tolist(),
        "num_env_steps": steps,
        "episodes_per_seed": episodes,
        "mean": float(returns.mean()),
        "iqm": interquartile_mean(returns),
        "iqm_low": low,
        "iqm_high": high,
        "processes": len(runners),
        "compile_seconds": max(compile_seconds),
        "run_seconds": max(run_seconds),
        "steps_per_second": seeds * steps / max(run_seconds),
        "config": configs[0],
        "machine": common.machine(),
    }


def page(lines):
    """docs/returns.md."""
    rows = []
    for (algorithm, env), (target, published) in TARGETS.items():
        line = lines.get(f"{algorithm}/{env}")
        aim = "–" if target is None else target
        if line is None:
            rows.append(f"| {algorithm} | {env} | not run | | | {aim} | | {published} | |")
            continue
        reached = "–" if target is None else f"{sum(r >= target for r in line['returns'])} of {len(line['returns'])}"
        rows.append(
            f"| {algorithm} | {env} | {line['num_env_steps']:,} | {line['mean']:.4g} | {line['iqm']:.4g} "
            f"[{line['iqm_low']:.4g}, {line['iqm_high']:.4g}] | {aim} | {reached} "
            f"| {published} | {line['steps_per_second']:,.0f} |"
        )
    return HEADER + "\n".join(rows) + "\n"


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="ALGORITHM/ENV", help="these lines instead of all")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--episodes", type=int, default=100, help="of the evaluation of each seed")
    parser.add_argument("--processes", type=int, default=1, help="share the seeds among processes of one core each")
    parser.add_argument("--num-env-steps", type=int, help="in the place of the presets' budgets; nothing is written")
    parser.add_argument("--quick", action="store_true", help="a few steps of one line, to see that it runs")
    options = parser.parse_args(arguments)
    names = [f"{algorithm}/{env}" for algorithm, env in TARGETS]
    unknown = sorted(set(options.only or []) - set(names))
    if unknown:
        parser.error(f"--only must name some of {', '.join(names)}; got {', '.join(unknown)}")
    chosen = options.only or (names[:1] if options.quick else names)
    steps = options.num_env_steps or (20_000 if options.quick else None)
    file = common.result_path(f"returns_{jax.default_backend()}", quick=False)
    runners = [common.InProcess("returns", Runner)]
    if options.processes > 1:
        runners = [common.Process(f"core {core}", Runner, core) for core in range(options.processes)]
    for name in chosen:
        seeds = 2 if options.quick else options.seeds
        line = measure(runners, *name.split("/", 1), seeds, steps, options.episodes)
        print(
            f"{name}: mean {line['mean']:.2f}, IQM {line['iqm']:.2f} [{line['iqm_low']:.2f}, {line['iqm_high']:.2f}] "
            f"of {seeds} seeds after {line['num_env_steps']:,} steps, {line['run_seconds']:.0f} s", flush=True,
        )  # fmt: skip
        if steps is None:
            lines = json.loads(file.read_text()) if file.exists() else {}
            lines[name] = line
            common.write_json(file, lines)
            PAGE.write_text(page(lines), encoding="utf-8")
    for runner in runners:
        runner.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
