"""The part of docs/performance.md on accelerators: what accelerator.py found, or that it was not run."""

from benchmarks import scaling_page

__all__ = ["section"]

NOTHING = """## On a GPU

Not measured: no machine with one was at hand. `python -m benchmarks accelerator` does all in one run of less than nine
minutes, without a network; `--quick` runs on any machine. What it measures is in the docstring of
[benchmarks/accelerator.py](../benchmarks/accelerator.py), a rollout in one kernel
([benchmarks/one_kernel.py](../benchmarks/one_kernel.py)) among it: on a CPU that kernel is only interpreted, plays what
`jaxpg.segments.segment` plays, and comes as far as Triton's intermediate code.
"""
JOBS = {"cartpole_2048": "CartPole-v1, 2,048 × 128", "breakout_64": "Breakout-MinAtar, 64 × 128"}


def section(result):
    if result is None:
        return NOTHING
    text = [
        f"## On {result['machine']['device']}\n",
        f"`python -m benchmarks accelerator`. {scaling_page.where(result)}\n",
    ]
    if result["gradient"]:
        text += _table(
            "`policy_gradient` of untrained CartPole episodes, four for each lane, 64 × 64 units, compiling apart:",
            ("lanes", "networks", "million steps/s, with the gradient", "TFLOP/s", "times the floor", "utilisation",
             "kernels in the largest loops"),
            [
                (f"{x['lanes']:,}", x["dtype"], _millions(x["steps_per_second"]),
                 f"{x['operations_per_second'] / 1e12:.2f}", f"{x['times_the_floor']:.2f}", f"{x['utilization']:.2f}",
                 ", ".join(map(str, list(x["kernels"].values())[:3])))
                for x in result["gradient"]
            ],
        )  # fmt: skip
    for name, found in result["ppo"].items():
        rows = [
            (who, "not installed" if "missing" in x else _millions(x["steps_per_second"])) for who, x in found.items()
        ]
        text += _table(f"PPO, {JOBS[name]}:", ("", "million steps/s"), rows)
    if result.get("one_kernel"):
        text += _table(
            "A rollout, without a gradient, in one kernel, and as XLA's loop of kernels:",
            ("", "lanes", "million steps/s, one kernel", "loop", "times as long as one kernel", "same actions"),
            [_of_kernel(x) for x in result["one_kernel"]],
        )
    for name, found in result["returns"].items():
        rows = [(x["dtype"], ", ".join(f"{r:.3g}" for r in x["returns"])) for x in found]
        text += _table(f"Returns of whole runs, {JOBS[name]}:", ("networks", "returns"), rows)
    if result["left_out"]:
        text.append(f"For lack of time left out: {'; '.join(result['left_out'])}.\n")
    return "\n".join(text)


def _of_kernel(facts):
    start = (facts["environment"], f"{facts['lanes']:,}")
    if "failed" in facts:
        return (*start, facts["failed"].splitlines()[0][:120].replace("|", "\\|"), "", "", "")
    speeds = [_millions(facts[kind]["steps_per_second"]) for kind in ("one_kernel", "loop")]
    return (*start, *speeds, f"{facts['ratio']['median']:.2f}", f"{100 * facts['same_actions']:.2f} %")


def _millions(rate):
    return f"{rate / 1e6:,.3g}" if rate < 1e9 else f"{rate / 1e6:,.0f}"


def _table(title, header, rows):
    lines = [" | ".join(map(str, row)) for row in rows]
    return [title + "\n", f"| {' | '.join(header)} |", "|---" * len(header) + "|", *(f"| {x} |" for x in lines), ""]
