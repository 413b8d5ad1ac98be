"""docs/scaling.md, made of the results of `scaling.py` and `sweeps.py` and of the arithmetic of `paper.py`."""

import json

from benchmarks import common, paper

PAGE = common.ROOT / "docs" / "scaling.md"
JOBS = {
    "policy_gradient": "`policy_gradient`, 4,096 episodes",
    "ppo_2048x128": "PPO, 2,048 × 128",
    "ppo_64x128": "PPO, 64 × 128",
    "a2c_2048x8": "A2C, 2,048 × 8",
    "sweep_64": "`sweep`, 64 runs of PPO",
}
CONTENDERS = {
    "train": "`train`",
    "sweep": "`sweep`, one device",
    "sweep_per_core": "`sweep`, one device a core",
    "rejax": "rejax, `vmap`",
    "purejaxrl": "PureJaxRL, `vmap`",
}
HEAD = """# Scaling

Made by `python -m benchmarks scaling` and `python -m benchmarks sweeps`, whose docstrings say how; the numbers are in
[benchmarks/results](../benchmarks/results). `python -m benchmarks scaling --page` makes this page again from them.
"""


def write():
    """Writes docs/scaling.md from the results that there are."""
    results = {name: common.result_path(f"{name}_cpu", quick=False) for name in ("scaling", "sweeps")}
    found = {name: json.loads(path.read_text(encoding="utf-8")) for name, path in results.items() if path.exists()}
    PAGE.write_text(page(found.get("scaling", {}), found.get("sweeps")), encoding="utf-8")
    print(f"wrote {PAGE}")


def page(scaling, sweeps):
    """The page; what has not been measured is left out."""
    parts = [HEAD]
    if sweeps:
        parts.append(many_runs(sweeps))
    if "jobs" in scaling:
        parts.append(over_devices(scaling["jobs"]))
    if "compiled" in scaling:
        parts.append(on_paper(scaling["compiled"], scaling.get("shuffles")))
    return "\n".join(parts)


def where(result):
    """The machine, in a sentence."""
    machine = result["machine"]
    versions = ", ".join(f"{name} {machine['packages'][name]}" for name in ("jax", "jaxlib", "numpy"))
    remark = f" {result['remark'].rstrip('.')}." if result.get("remark") else ""
    return f"{machine['cores']} cores of {machine['processor']}, Python {machine['python']}, {versions}.{remark}"


# --- Many runs --------------------------------------------------------------------------------------------------------


def many_runs(sweeps):
    given = sweeps["hyperparameters"]
    text = [
        "## Many runs in one program\n",
        f"PPO on CartPole-v1 with the hyperparameters of the presets ({given['num_envs']} environments × "
        f"{given['num_steps']} steps, {given['num_epochs']} epochs of {given['num_minibatches']} minibatches, "
        f"64 × 64 units), 500,000 steps a run, 4 learning rates × seeds. Seconds for each run, from the median of "
        f"{sweeps['options']['rounds']} rounds of a few updates, compiling apart; in brackets the processor's seconds. "
        f"{where(sweeps)}\n",
    ]
    sizes = list(sweeps["sizes"])
    text.append("| runs at a time | " + " | ".join(sizes) + " |\n|---" + "|---" * len(sizes) + "|")
    for name, label in CONTENDERS.items():
        cells = [_cell(sweeps["sizes"][size].get(name)) for size in sizes]
        if any(cell for cell in cells):
            text.append(f"| {label} | " + " | ".join(cells) + " |")
    text += ["", "Time against `sweep` on one device, round by round (median and range):", ""]
    text.append("| runs at a time | " + " | ".join(sizes) + " |\n|---" + "|---" * len(sizes) + "|")
    for name, label in CONTENDERS.items():
        found = [sweeps["sizes"][size].get(name) for size in sizes]
        if name != "sweep" and any(found):
            cells = ["" if f is None else common.ratio_text(f["ratio_to_sweep"]) for f in found]
            text.append(f"| {label} | " + " | ".join(cells) + " |")
    if sweeps.get("peers"):
        packages = next(iter(sweeps["peers"].values()))["packages"]
        text.append(
            f"\nPeers run with rejax {packages['rejax']}, gymnax {packages['gymnax']}, jax {packages['jax']}. What "
            f"remains different between them and jaxpg is listed in "
            f"[benchmarks/sweeps.py](../benchmarks/sweeps.py).\n"
        )
    text += [f"Left out: {name}, {why}.\n" for name, why in sweeps.get("failed", {}).items()]
    text.append(_whole(sweeps))
    return "\n".join(text)


def _cell(facts):
    if facts is None:
        return ""
    return f"{facts['seconds_per_run']:.2f} ({facts['processor_seconds_per_run']:.2f})"


def _whole(sweeps):
    text, rows = [], []
    whole = sweeps.get("whole")
    if whole:
        text.append(
            f"The whole sweep, {whole['num_runs']} runs of {whole['num_env_steps']:,} steps through `jaxpg.sweep` with "
            f"one device a core: {whole['seconds'] / 60:.1f} minutes, {whole['seconds_per_run']:.2f} s a run, "
            f"{whole['steps_per_second']:,.0f} steps/s; with compiling and 128 episodes of evaluation for every run "
            f"{whole['total_seconds'] / 60:.1f} minutes. {whole['diverged']} runs diverged. `jaxpg.plan` had said:\n\n"
            f"```\n{sweeps['plan']['text']}\n```\n"
        )
        rows.append(("`jaxpg.sweep`", whole["returns"]))
    rows += [(CONTENDERS[name], found["returns"]) for name, found in sweeps.get("peer_returns", {}).items()]
    if rows:
        rates = list(rows[0][1])
        text.append("Mean return of 128 fresh episodes of each seed's last parameters, and how many seeds reach 475:\n")
        text.append("| learning rate | " + " | ".join(rates) + " |\n|---" + "|---" * len(rates) + "|")
        for label, returns in rows:
            cells = [f"{r['mean']:.0f} ({r['at_least_475']} of {r['seeds']})" for r in returns.values()]
            text.append(f"| {label} | " + " | ".join(cells) + " |")
        text.append("")
    return "\n".join(text)


# --- Over devices -----------------------------------------------------------------------------------------------------


def over_devices(jobs):
    text = [
        "## Over devices: what it costs\n",
        f"{where(jobs)} The devices are simulated and share these cores: with more devices than cores nothing can "
        "get quicker. What the table shows is what laying a job over devices costs, not what it gains. Median seconds "
        "of an update (of an estimate, for `policy_gradient`), and in brackets how many times that of one device: "
        "median and range over the rounds.\n",
    ]
    numbers = list(next(iter(jobs["measured"].values())))
    text.append("| devices | " + " | ".join(numbers) + " |\n|---" + "|---" * len(numbers) + "|")
    for name, of_devices in jobs["measured"].items():
        cells = [_measured(of_devices[number], number == numbers[0]) for number in numbers]
        text.append(f"| {JOBS[name]} | " + " | ".join(cells) + " |")
    last = numbers[-1]
    text += [
        "",
        f"What the devices tell each other in an update, from the compiled programs for {last} devices: how many "
        "collectives, and the bytes of their results on each device.\n",
        "| | all-reduce | all-gather | other |\n|---|---|---|---|",
    ]
    for name, of_devices in jobs["measured"].items():
        text.append(f"| {JOBS[name]} | " + " | ".join(_counted(of_devices[last]["collectives"])) + " |")
    text.append(
        "\nThe lanes play by themselves, and a sweep's runs tell each other nothing. In PPO every gradient step takes "
        "one all-reduce: of the gradient, the losses and the number of rows, which each device sums over its own rows. "
        "The segment is gathered once an update, not for each minibatch: from then on every device holds all its rows, "
        "numbers them anew and standardises the advantages of a minibatch for itself, and takes its part of it.\n"
    )
    return "\n".join(text)


def _measured(facts, first):
    seconds = f"{facts['seconds']['median']:.3g} s"
    ratio = facts["ratio_to_one"]
    return seconds if first else f"{seconds} ({ratio['median']:.2f}; {ratio['min']:.2f}–{ratio['max']:.2f})"


def _counted(collectives):
    counted = dict(collectives["per_update"])
    cells = []
    for kind in ("all-reduce", "all-gather"):
        found = counted.pop(kind, None)
        cells.append("none" if found is None else f"{found['count']} ({_bytes(found['bytes'])})")
    rest = [f"{x['count']} {kind} ({_bytes(x['bytes'])})" for kind, x in counted.items()]
    inside = [f"{x['count']} {kind} in an inner loop" for loop in collectives["inside"] for kind, x in loop.items()]
    return [*cells, ", ".join(rest + inside) or "none"]


# --- On paper ---------------------------------------------------------------------------------------------------------


def on_paper(compiled, shuffles):
    remark, compiled = compiled.get("remark"), compiled["measured"]
    text = ["## On paper: machines that we do not have\n", *([f"{remark}.\n"] if remark else []), _assumptions()]
    if shuffles:
        text.append(_shuffles(shuffles))
    for name, machine in paper.MACHINES.items():
        text.append(f"### {name}\n")
        programs = [p for p in compiled if p["num_devices"] == machine.num_devices]
        rows = []
        for program in programs:
            text.append(_written_out(machine, program))
            rows.append(_row(machine, program))
        text.append(
            f"| | one device | {machine.num_devices} devices | times as quick | memory of each |\n"
            "|---|---|---|---|---|\n" + "\n".join(rows) + "\n"
        )
    text.append(_sweeps_on_paper(compiled))
    return "\n".join(text)


def _assumptions():
    header = "| | " + " | ".join(paper.MACHINES) + " |\n|---" + "|---" * len(paper.MACHINES) + "|"
    machines = paper.MACHINES.values()
    rows = [
        ("*data sheet:* peak", [f"{m.peak / 1e12:g} TFLOP/s, {m.numbers}" for m in machines]),
        ("memory of a device", [f"{m.capacity / 1e9:g} GB at {m.memory / 1e12:g} TB/s" for m in machines]),
        ("links of a device, one direction", [f"{m.links / 1e9:g} GB/s" for m in machines]),
        ("*assumed:* share of the peak that 64-wide layers reach", [f"{m.share:.0%}" for m in machines]),
        ("a collective, however small", [f"{m.latency * 1e6:g} µs" for m in machines]),
        ("an environment step, however few", [f"{m.env_step * 1e6:g} µs" for m in machines]),
        ("a gradient step, however small", [f"{m.gradient_step * 1e6:g} µs" for m in machines]),
        ("numbering rows anew", [f"{m.hash / 1e9:g} G rows/s" for m in machines]),
    ]
    table = "\n".join(f"| {label} | " + " | ".join(cells) + " |" for label, cells in rows)
    return (
        "None of this was measured on the machines it speaks of. Numbers of collectives, their bytes, "
        "and the memory are those of the programs of `jaxpg.train`, compiled (and not run) for 8 and for 256 simulated "
        "devices; XLA for GPUs and TPUs may combine collectives further. The rest is data sheets and assumptions, and "
        "the sum takes it that nothing overlaps, and of one device that its memory suffices. PPO has the presets' "
        "epochs and minibatches for the environment.\n\n"
        f"{header}\n{table}\n\n"
        "*networks*: matrix products alone. *rows*: the segment read once an epoch. *serial*: steps that come one "
        "behind the other on any number of devices. *shuffle*: every device numbers all rows anew. *messages*: "
        "collectives times latency. *bytes*: (n − 1)/n of what is gathered, and twice that of what is reduced, through "
        "the links of a device.\n"
    )


def _shuffles(shuffles):
    found = [f"{int(n):,} rows {_ms(s['median'])}" for n, s in shuffles["measured"].items()]
    return f"Measured, one device of the CPU, the shuffle of an epoch: {', '.join(found)}. {where(shuffles)}\n"


def _title(program):
    return f"PPO, {program['env']}, {program['num_envs']:,} × {program['num_steps']}"


def _written_out(machine, program):
    lines, total, one, ratio = paper.estimate(machine, program)
    body = "\n".join(f"{line.name:9} {line.text}  =  {_ms(line.seconds)}" for line in lines)
    return (
        f"{_title(program)}:\n\n```\n{body}\n{'sum':9} {_ms(total)}; one device {_ms(one)}: "
        f"{ratio:.1f} times as quick\n```\n"
    )


def _row(machine, program):
    _, total, one, ratio = paper.estimate(machine, program)
    memory = program["memory"]["total"] if program["memory"] else None
    fits = "?" if memory is None else f"{_bytes(memory)}{'' if memory < machine.capacity else ', does not fit'}"
    return f"| {_title(program)} | {_ms(one)} | {_ms(total)} | {ratio:.1f} | {fits} |"


def _sweeps_on_paper(compiled):
    """From the program of the smallest CartPole segment: its operations of a step, for the preset."""
    program = next((p for p in compiled if p["env"] == "CartPole-v1"), None)
    if program is None:
        return ""
    preset = {**program, "num_envs": 16, "num_steps": 64}
    text = [
        "### Sweeps\n",
        "The runs of a sweep tell each other nothing (0 collectives above), so n devices play n times as many runs in "
        "the time of one. 16,384 runs of PPO on CartPole-v1, 500,000 steps each, 16 × 64:\n",
    ]
    for name, machine in paper.MACHINES.items():
        lines = paper.sweep(machine, preset, 16_384, 500_000)
        body = "\n".join(
            f"{line.name:9} {line.text}" + (f"  =  {line.seconds:.3g} s" if line.seconds else "") for line in lines
        )
        text.append(f"{name}:\n\n```\n{body}\n{'sum':9} {sum(line.seconds for line in lines):.3g} s\n```\n")
    return "\n".join(text)


def _ms(seconds):
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds * 1e3:,.0f} ms"


def _bytes(number):
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} GB"
