"""docs/performance.md, made of the results in benchmarks/results and of notes on what was tried."""

import json

from benchmarks import accelerator_page, check, common, scaling_page
from benchmarks.startup import COLUMNS

PAGE = common.ROOT / "docs" / "performance.md"
RESULTS = ("gradient", "gradient_256", "sizes", "ppo", "sweeps", "startup", "solve")
HEAD = """# Performance

Every number here was measured by a script in [benchmarks](../benchmarks), whose docstring says how; the results are in
[benchmarks/results](../benchmarks/results). Contenders have processes of their own and take turns, forth and back;
compiling is apart; ratios are taken round by round, and given as median and range. `python -m benchmarks.report` makes
this page again from the results.
"""
JOBS = {
    "cartpole_4": "CartPole-v1, 4 × 128",
    "cartpole_8": "CartPole-v1, 8 × 128",
    "cartpole_2048": "CartPole-v1, 2,048 × 128",
    "breakout_64": "Breakout-MinAtar, 64 × 128",
    "pendulum_2048": "Pendulum-v1, 2,048 × 16",
}
PLAYERS = {
    "train": "`train`, one device",
    "train_per_core": "`train`, one device a core",
    "rejax": "rejax",
    "purejaxrl": "PureJaxRL",
    "train_one_thread": "`train`, one thread",
    "networks": "its networks alone, one device",
    "networks_per_core": "its networks alone, one device a core",
    "networks_one_thread": "its networks alone, one thread",
    "rejax_one_thread": "rejax, one thread",
    "purejaxrl_one_thread": "PureJaxRL, one thread",
    "stable_baselines3": "stable-baselines3",
    "sbx": "sbx",
    "brax": "brax, one device",
    "brax_per_core": "brax, one device a core",
    "jaxpg": "jaxpg, PPO",
    "jaxpg_linear": "jaxpg, PGPE",
}
PACKAGES = {"rejax": "rejax", "stable_baselines3": "stable-baselines3", "sbx": "sbx-rl", "brax": "brax"}
ESTIMATORS = {
    "packed": "`policy_gradient`, one device",
    "packed_per_core": "`policy_gradient`, one device a core",
    "idiomatic": "`vmap` of a `scan` over gymnax's `step`",
    "masked": "the same with one reset and masks",
    "early_exit": "the same, until every lane is dead",
    "early_exit_batches": "the same, in batches of a cache's size",
    "torch": "PyTorch, batched and in blocks",
}
TRIED = """## What was tried

Two cores, one device and one thread (`NPROC=1`) unless said otherwise; seconds of an update of PPO.

| what | measured | kept? |
|---|---|---|
| rows of a minibatch as one axis, not [1, rows]: with a second `vmap`, if only over an axis of length 1, XLA \
multiplies both factors of the weights' gradients transposed | 2,048 × 128: 1.86 → 1.02 s | yes |
| threads as many as cores, not 16 (which had been there against the hang of the next row) | 2,048 × 128, two \
threads: 1.35 → 0.94 s; a sweep of 16 runs with one device a core: 90,000 → 172,000 steps/s | yes |
| orthogonal weights by Gram-Schmidt, not by LAPACK: JAX cuts a batch of factorisations into tasks for the threads \
that wait for them, so that vmapped initialisations could wait for ever | 256 runs at a time start | yes |
| the shuffle by a Feistel network, not by sorting | 16 × 64, 10 epochs, two threads: 12.4 → 11.0 ms; 262,144 rows, \
apart: 133 → 1.5 ms | yes |
| the gradient of a minibatch in blocks of 1,024 rows | 65,536 rows, apart: 116 → 75 ms | yes, on CPUs |
| Adam on one flat vector (`optax.flatten`) | 16 × 64: 10.98 → 10.97 ms; eight runs: 10.3 → 11.3 ms | no |
| XLA's concurrency-optimised scheduler, two threads | 16 × 64: 10.98 → 11.26 ms; eight runs: 10.3 → 8.9 ms; 2,048 × \
128: 0.93 → 0.90 s | no: it is not faster with one device a core |
| layers as W x with features first, under `vmap` | the same program after XLA's simplifications | no |
| the same written for whole batches, beside `apply` | the gradient of 512 rows, apart: 227 → 178 µs; but \
`policy_gradient`, every episode of 200 steps: 0.55 → 0.51 s with blocks of 256 steps, 0.54 → 0.58 s with 512 | no: a \
second way through every network for so little |
| what was finite and what is kept after an update as one vector and one `cond`, not leaf by leaf | compiling \
`train`: 449 → 322 loops, 3.0 → 2.4 s | yes |
| Adam on one flat vector | compiling: 322 → 301 loops, 2.3 → 2.1 s | no |
| XLA's optimisation level 1; LLVM's expensive passes off; fewer parts for LLVM | compiling: 3.0 → 2.3 to 2.6 s; \
updates as fast | no: others' flags are not ours to set |
| the weights' gradients as (ȳᵀ x)ᵀ with ȳᵀ laid out by itself (`policies/_product.py`), behind barriers without \
which XLA turns the product back | gradients of 1,024 rows by two networks: 0.82 → 0.70 ms; of 512 rows by two of \
MinAtar's convolutional ones: 17 → 13 ms; 2,048 × 128, one device a core, with the next row: 680 → 565 ms; \
`policy_gradient`, 200 steps each, two threads: 0.72 → 0.66 s | yes, on CPUs |
| values of a segment in blocks of a step, where one step has more rows than a block | 262,144 rows: 90 → 24 ms | yes |
| one thread for one small run | 4 × 128: 3.3 to 4.0 → 2.8 ms | `use_cpu_cores(1, num_threads=1)` |
| XLA's preset for fast programs; vectors of 512 bits; products by LLVM | 4 × 128: not told from noise | no |
| gymnax imported without seaborn and pyplot, which it draws with | making an environment: 1.9 → 0.8 s | yes |
| the first state compiled as what runs once (`jaxpg/_compile.py`: no optimisation by LLVM, no fusion emitters), with \
one reset in it for each lane's first two episodes | compiling `init` of 16 × 64: 2.6 → 0.8 s | yes, on CPUs |
| Threefry and the orthogonal weights as functions of their own, traced once (flax draws a layer's weights anew, as \
shapes, at each `apply`) | tracing and lowering `train`, 16 × 64, under a profiler: 2.9 → 1.6 s | yes |
| XLA's optimisation level 1 for the updates alone | compiling: 0.68 to 1.04 of the time, four pairs; updates as fast \
| no: not tried on environments whose steps are long loops |
| the updates compiled as what runs once, from a fresh start of Python | PPO, 16 × 64: compiling 6.0 → 1.5 s, 50,000 \
steps 1.1 → 4.4 s; PGPE of a linear policy: 4.2 → 1.0 s and 0.03 → 0.08 s | as an option, `train(quick_compile=True)` \
|
| PGPE of a linear policy, compiled so, for CartPole | to a return of 475 from the start of Python, in the time of \
PPO: 0.40 (0.39 to 0.54) | as a contender of `solve` |
| what a loop over episodes carries mapped from the start, and PGPE's signs and draws as one axis: `vmap` had batched \
the loop 13 times until it knew what is mapped, and does so twice | tracing `train` of PGPE: 1.5 to 2.3 → 0.7 s | yes \
|
| an update of a sweep traced once for its metrics and the loop | 16 runs of PPO, the second sweep: tracing 3.0 → 2.2 \
s | yes |
| the first states of a sweep compiled as what runs once | 256 runs of 16 environments: compiling 4.7 → 1.6 s, then \
0.18 → 0.56 s | yes |
| the first state of a run in strong types inside the program that makes it | a run of one update, compiled before: \
18 → 9 ms | yes |
| the first layers of the policy and the critic as one product | gradients of both, times as long: 128 rows of 4 \
numbers 1.05 to 1.18, 1,024 rows 1.22, of 400 numbers 1.05 | no |
| the policy's gradient before the critic's begins, so that less has to stay in the cache | 0.97 to 1.02 | no |
| loops unrolled twice and four times | 4 × 128: the rollout 1.00 and 0.99 of the time; the minibatches 1.02 and \
1.21, compiling 5.6 → 11.9 s | no |
| without Adam; metrics; the look for what is not finite; the naming of who did it | 4 × 128: 0.95; 0.98; 0.98; 0.99 \
of the time: what work on them could bring at most | |
| layers of 4 × 64 and 64 × 2 weights as sums of products, not by a library | 4 rows, apart: 2.2 → 1.6 µs a step of \
the rollout, 16 rows 4.9 → 4.9 | no: a layer does not know its rows |
| why two threads make a small run slower: XLA runs independent operations of a loop's body on both, 100,000 of \
320,000 on the second; nothing but one thread turns that off | 4 × 128: 5.2 → 7.5 ms where the metrics are recorded | \
no: `use_cpu_cores(1, num_threads=1)` |
| smaller blocks of a minibatch's rows in Breakout: 512, 256, 128 | one device: 1.04, 1.21, 1.25 of the time; one a \
core: 1.00 | no |
| a minibatch's rows taken without a look at the bounds | 1,024 rows of 400 numbers: 0.48 → 0.46 ms, of which a copy \
of as many rows in a piece takes 0.41 | no |
| what a step of the rollout records as one vector for each dtype; what its lanes carry, too | 4 × 128: 9,917 → 9,145 \
operations an update, the time not told from noise; with the lanes 10,711, as XLA cuts them out one by one | no |
| layers as x (Wᵀ)ᵀ; the weights' gradients in two or four parts | 64 × 64, 1,024 rows: not told from noise | no |
| PPO on a mesh: the devices run the passes over a segment by themselves, and a gradient step is one exchange (the \
gradient, the losses, the number of rows), not four; then the rows put together as the devices have them, without two \
copies of the observations | one device a core, in turns: Breakout 0.89, then 0.83 of the time; the Pendulum 0.93, \
then 0.84; 2,048 × 128 0.96; 4 × 128, apart: 14 → 8.3 ms | yes |
| products by Eigen, not by YNNPACK (`xla_cpu_experimental_ynn_fusion_type`) | times as long: 4 × 128, one thread, \
1.11; Breakout, one thread, 0.92, one device a core 1.07; the Pendulum 1.00; 2,048 × 128 1.02 | no |
| loops compiled to one kernel, which XLA does with small ones (`xla_cpu_small_while_loop_byte_threshold`), and then \
products by LLVM | 4 × 128: the rollout 0.6 to 0.9 → 1.5 to 1.7 ms; with the minibatches, too, 3.9 → 45 ms | no |
| the gradient of a first layer of 4 × 64 weights by YNNPACK, its input laid out anew, not by the routine for factors \
that are both transposed | 4 × 128: in a profile 18 → 2.5 µs for each of the two networks, but 120 rounds in turns: \
1.00 of the time; samples of the stack tell why, by which that routine takes 1.6 % | no |
| other blocks of a minibatch's rows: 256, 512 or 2,048 for 1,024; two of 64 for 128 rows | 2,048 × 128: not told \
from noise; 4 × 128: 1.15 and 1.3 of the time | no |
| what is allocated in huge pages (`GLIBC_TUNABLES=glibc.malloc.hugetlb=1`) | 4 × 128, one thread, four pairs: not \
told from noise | no |
| a rollout in one Pallas kernel, the environment's and the policy's own functions traced inside (`one_kernel.py`) | \
plays what `segment` plays, interpreted on a CPU; its Triton code, compiled by Triton 3.9 alone for chips of the \
H200's kind (sm_90): with 64 lanes in 4 warps 216 registers a thread and 4,016 instructions, with 128 lanes in 4 \
warps 255 registers and 472 bytes beyond them, 7,496 instructions; its time is not measured, for lack of a GPU \
| not in the library |

What is left. The machine's speed changes from hour to hour, and the ratios of PPO to the quickest peer with it: on \
22 November 2026 they were 1.23 with 4 × 128, 2.84 with 2,048 × 128, 1.34 in Breakout and 17.7 with 8 × 128 \
(stable-baselines3 and sbx); a day later, when all took 1.4 to 1.8 times as long, 1.18, 2.48, 1.17 and 25.6. Since \
then a gradient step on a mesh is one exchange, with which Breakout and the Pendulum came to what stands above; 4 × \
128 (15 rounds; in 5 rounds before it 0.95) and 2,048 × 128 were measured again another hour, when two devices were \
but 1.8 times as quick as one: 1.10 and 2.45. `make bench-check` in three rounds, its PPO once more on a quiet \
machine, gave 1.25 with 4 × 128, 2.48 with 2,048 × 128, 1.54 in Breakout, 1.90 with the Pendulum and 24.7 with 8 × \
128; beside this repository's tests PPO with one device a core took 1.2 to 1.4 times as long. How far there is to go, \
the networks alone tell: an update of nothing else, as jaxpg computes them and without exchange between devices, \
takes 0.67 of the time of our best with 4 × 128 (both with one thread), 0.78 with 2,048 × 128, 0.63 in Breakout and \
0.72 with the Pendulum. So about 1.6, 3.1, 2.4 and 2.6 times the speed of the peers is what could be had with all the \
rest for nothing, unless the products become quicker. In 2,048 × 128, one device and one thread, the products forward \
and those for the gradients of activations run at 75 GFLOP/s (32 operations a cycle of 2.445 GHz are 78), those for \
the gradients of weights at 51 to 58 and are laid out anew for 4 % of the time besides; tanh takes 12 %, taking rows \
4 %. With one device a core a gradient step still waits for the slower of the two: in Breakout 10 ms of an update, \
with 2,048 × 128 27 and 50 on the two. With 4 environments the rest is many small things, 49 operations of the \
compiled program for a step of the rollout and 169 for a gradient step. Of the numbers of episodes above, a profile \
ran beside some 40 s of one of the two passes over ten million. Gradients of whole episodes of equal length cannot be \
6 times as quick as the idiomatic ones on this machine: those take 1.9 times the floor of one device, and 3.6 times \
that of one device a core.
"""


def write():
    """Writes docs/performance.md from the results that there are."""
    PAGE.write_text(page(load()), encoding="utf-8")
    print(f"wrote {PAGE}")


def load():
    """{name: result} of the results that there are."""
    paths = {name: common.result_path(f"{name}_cpu", quick=False) for name in RESULTS}
    paths["accelerator"] = common.result_path("accelerator_gpu", quick=False)
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items() if path.exists()}


def page(results):
    sections = {
        "gradient": gradients, "gradient_256": gradients, "sizes": sizes, "ppo": ppo, "sweeps": seeds,
        "startup": startup, "solve": solve,
    }  # fmt: skip
    parts = [section(results[name]) for name, section in sections.items() if name in results]
    return "\n".join([HEAD, goals(results), *parts, accelerator_page.section(results.get("accelerator")), TRIED])


def goals(results):
    """What the project is out for, and where it stands."""
    text = [
        "## Goals\n",
        "How many times as long the other takes, where several are compared the quickest of them; of the floor, the "
        "part of our time that it is. `make bench-check` measures them again, and fails where one is below nine "
        "tenths of its goal.\n",
        "| | measured | goal | |",
        "|---|---|---|---|",
    ]
    for goal, ratio, needed in check.judge(check.GOALS, results):
        if ratio is not None:
            reached = "reached" if ratio >= goal.goal else "within a tenth" if ratio >= needed else "**not reached**"
            text.append(f"| {goal.what} | {ratio:.2f} | {goal.goal:.3g} | {reached} |")
    return "\n".join([*text, ""])


def gradients(result):
    hidden = " × ".join(map(str, result["options"]["hidden"]))
    arguments = "" if hidden == "64 × 64" else f" --hidden {hidden.replace(' × ', ' ')} …"
    text = [
        f"## Gradients of whole episodes, {hidden}\n",
        f"{result['options']['num_episodes']:,} CartPole episodes, a {hidden} policy, "
        f"`python -m benchmarks gradient{arguments}`. {scaling_page.where(result)} The "
        "floor is the matrix products and the tanh of a step over the rates at which this machine does them "
        "([benchmarks/floor.py](../benchmarks/floor.py)).\n",
    ]
    titles = {
        "untrained": "An untrained policy, episodes of up to 500 steps (22 on average):",
        "full_length": "Every episode of 200 steps:",
    }
    for name, workload in result["workloads"].items():
        base = workload["ratios"]["packed"]
        text += [titles[name], "", "| | seconds | steps/s | times `policy_gradient`'s | times the floor |"]
        text.append("|---|---|---|---|---|")
        for contender, facts in workload["contenders"].items():
            ratio = common.ratio_text(base[contender]) if contender in base else "1"
            text.append(
                f"| {ESTIMATORS[contender]} | {facts['seconds']['median']:.3f} | {facts['steps_per_second']:,.0f} "
                f"| {ratio} | {facts['times_the_floor']['layer_and_tanh']:.2f} |"
            )
        text.append("")
    return "\n".join(text)


def ppo(result):
    # Earlier results have the machine and the versions once for all jobs.
    jobs = {name: {**result, **result["jobs"][name]} for name in JOBS if name in result["jobs"]}
    where = {scaling_page.where(job) for job in jobs.values()}
    text = [
        "## PPO\n",
        "The same hyperparameters, two networks of 64 × 64 units, `python -m benchmarks ppo`. "
        f"{where.pop() + ' ' if len(where) == 1 else ''}What remains different between the contenders is told in "
        "[benchmarks/sweeps.py](../benchmarks/sweeps.py), [peer_gym.py](../benchmarks/peer_gym.py) and "
        "[peer_brax.py](../benchmarks/peer_brax.py). Returns are those of 128 fresh episodes of each run's last "
        "parameters. The networks alone: forward in the rollout, forward and backward for each minibatch, as jaxpg "
        "computes them, without environments, sampling, shuffling, losses, Adam and the devices' exchange of gradients "
        "([networks.py](../benchmarks/networks.py)).\n",
    ]
    for name, job in jobs.items():
        played = next(iter(job["contenders"].values())).get("env_steps")
        reached = f"returns at {played:,} steps" if played else "returns"
        text.append(f"### {JOBS[name]}\n")
        about = [scaling_page.where(job)] if where else []
        if versions := _versions(job):
            about.append(f"Peers: {versions}.")
        if about:
            text.append(" ".join(about) + "\n")
        text += [
            f"| | steps/s | ms an update | processor's ms | time, in `train`'s | compiling | {reached} |",
            "|---|---|---|---|---|---|---|",
        ]
        for contender, facts in job["contenders"].items():
            returns = ", ".join(f"{x:.3g}" for x in facts.get("returns", ()))
            text.append(
                f"| {PLAYERS[contender]} | {facts['steps_per_second']:,.0f} | {facts['seconds']['median'] * 1e3:.2f} "
                f"| {facts['processor_seconds']['median'] * 1e3:.2f} | {common.ratio_text(facts['ratio_to_train'])} "
                f"| {facts['compile_seconds']:.1f} s | {returns} |"
            )
        text.append("")
    return "\n".join(text)


def _versions(job):
    """'rejax 0.1.3, stable-baselines3 2.9.2 (PyTorch's threads: 1)': what played in a job."""
    found = []
    for contender, facts in job["contenders"].items():
        if contender in PACKAGES and contender in job.get("peers", {}):
            version = job["peers"][contender]["packages"][PACKAGES[contender]]
            threads = facts.get("torch_threads")
            threads = f" (PyTorch's threads: {threads})" if threads else ""
            found.append(f"{PLAYERS[contender]} {version}{threads}")
    return ", ".join(found)


def sizes(result):
    text = [
        "## Numbers of episodes, and memory\n",
        "`policy_gradient` of an untrained CartPole policy, one device a core, each row in a process of its own: "
        f"`python -m benchmarks sizes`. {scaling_page.where(result)} The peak is the whole process's, with its "
        "libraries (the column before: what it held before anything was compiled); planned is what XLA plans for one "
        "call on one device, in MiB.\n",
        "| episodes | `chunk_size` | hidden layers | seconds | µs an episode | steps/s | MiB before | peak | planned |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in (row for table in result["tables"].values() for row in table):
        seconds = row["seconds"]["median"]
        planned = f"{row['planned']['total'] / 2**20:,.1f}" if row["planned"] else ""
        text.append(
            f"| {row['num_episodes']:,} | {row['chunk_size'] or 'default'} | {row['width']} × {row['width']} "
            f"| {seconds:.3f} | {row['microseconds_per_episode']:.2f} | {row['steps_per_second']:,.0f} "
            f"| {row['baseline_rss'] / 2**20:,.0f} | {row['peak_rss'] / 2**20:,.0f} | {planned} |"
        )
    return "\n".join([*text, ""])


def startup(result):
    text = [
        "## Starting\n",
        "From the start of Python to the first result, seconds, and what of it is tracing, lowering and compiling, of "
        f"all programs together: `python -m benchmarks startup`. {scaling_page.where(result)} Cached: with JAX's "
        "persistent compilation cache filled by a run before, as the command line has it by default. For the Python "
        "API, set `JAX_COMPILATION_CACHE_DIR` ([devices.md](devices.md#compiling-once)).\n",
        "| | " + " | ".join(COLUMNS) + " |",
        "|---" + "|---" * len(COLUMNS) + "|",
    ]
    for entry, kinds in result["entries"].items():
        for kind, parts in kinds.items():
            cells = " | ".join(f"{parts[part]['median']:.2f}" for part in COLUMNS)
            text.append(f"| `{entry}`, {kind} | {cells} |")
    return "\n".join([*text, ""])


def solve(result):
    ours = ": jaxpg with PPO"
    if "jaxpg_linear" in result["contenders"]:
        ours += " (quick: with XLA's options of `quick_compile`) and, compiled so, with PGPE of a linear policy"
    text = [
        "## To a return of 475\n",
        f"From the start of Python until CartPole-v1 is solved{ours}, the others with PPO as each publishes it for the "
        "task. Each has the smallest of its budgets with which five of five seeds got there: `python -m benchmarks "
        f"solve`. {scaling_page.where(result)} Cached: with JAX's persistent compilation cache filled. Returns are "
        "those of 128 fresh episodes of each timed run: of sampled actions, but for PGPE, which trains the mode.\n",
        "| | budget, steps | seconds | range | time, in that of jaxpg's PPO | returns |",
        "|---|---|---|---|---|---|",
    ]
    for name, facts in result["contenders"].items():
        library, *cached = name.split(", ")
        seconds = facts["seconds"]
        text.append(
            f"| {', '.join([PLAYERS[library], *cached])} | {facts['num_env_steps']:,} | {seconds['median']:.1f} "
            f"| {seconds['min']:.1f} to {seconds['max']:.1f} | {common.ratio_text(facts['ratio_to_jaxpg'])} "
            f"| {', '.join(f'{x:.0f}' for x in facts['returns'])} |"
        )
    return "\n".join([*text, ""])


def seeds(result):
    text = [
        "## Seeds side by side\n",
        "Seconds of a run of PPO on CartPole-v1, 500,000 steps, when so many are played at a time, `python -m "
        "benchmarks sweeps`; more in [scaling.md](scaling.md). In brackets the time in that of `sweep` with one device "
        "a core, or for one run in `train`'s.\n",
    ]
    sizes = result["sizes"]
    text.append("| runs at a time | " + " | ".join(sizes) + " |\n|---" + "|---" * len(sizes) + "|")
    for name, label in scaling_page.CONTENDERS.items():
        cells = []
        for of_size in sizes.values():
            facts, base = of_size.get(name), of_size.get("sweep_per_core") or of_size["train"]
            if facts is None:
                cells.append("")
                continue
            ratio = common.ratios(facts["seconds"]["rounds"], base["seconds"]["rounds"])["median"]
            cells.append(f"{facts['seconds_per_run']:.2f} s ({ratio:.2f})")
        if any(cells):
            text.append(f"| {label} | " + " | ".join(cells) + " |")
    text.append("")
    return "\n".join(text)


if __name__ == "__main__":
    write()
