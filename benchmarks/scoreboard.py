"""How do the estimators compare: is each unbiased, what is its variance, what does it cost?

One line for each row of the tests' table of estimators (`tests/estimators.py`). Bias, variance and audit: estimates of
four episodes (two where the sums are self-normalised) on 100 random MDPs, with the exact means and covariances where
the MDP knows them and sampled ones elsewhere. The audit's p is the smallest of its three joint tests; "detectable" is
the relative bias that it would have seen with power 0.9. Variance is the trace of the covariance over that of plain
reward-to-go on the same MDP, the geometric mean over the MDPs. Cost: seconds of one compiled estimate from 1,024
episodes of at most 50 steps on an MDP of 20 states, with a 64 × 64 network, over those of reward-to-go, taking turns.

    python -m benchmarks scoreboard [--quick]    docs/scoreboard.md and benchmarks/results/scoreboard_<backend>.json
"""

import argparse
import sys
import time

import jax
import numpy as np

import jaxpg
from benchmarks import common
from jaxpg.training.devices import set_xla_flags

REFERENCE = "reward-to-go"
PAGE = common.ROOT / "docs" / "scoreboard.md"
HEADER = """# The estimators' scoreboard

Made by `python -m benchmarks scoreboard`; its docstring says how each column is measured. A new row of
`tests/estimators.py` appears here with the next run.

| estimator | unbiased? | relative bias | audit p | detectable | variance | cost |
|---|---|---|---|---|---|---|
"""
FOOTER = """
- *unbiased?* is what theory says; the enumeration oracle (`tests/test_oracle.py`) shows it to 1e-12 for every row, and
  the audit judges the samples against the exact mean, biased or not.
- *variance* and *cost* are ratios to plain reward-to-go. Values that estimators are given ("wrong values") are drawn at
  random, so their variances only show that wrong values cost; those with "exact values" show the best case. Off-policy
  rows compare with the on-policy one, for a behaviour policy whose logits differ by normal noise of deviation 0.5.
"""


def accuracy(table, auditing, num_mdps, replicates):
    """{name: facts} of bias, audit and variance."""
    found, traces = {}, {}
    for name, row in table.items():
        sampled, means, covariances = auditing.sample_row(row, num_mdps=num_mdps, num_replicates=replicates)
        verdict = auditing.audit(sampled, means, covariances)
        traces[name] = np.trace(covariances, axis1=1, axis2=2) * (0.5 if row.importance == "self_normalized" else 1.0)
        truth = _truth(row, auditing, num_mdps)
        bias = np.linalg.norm(means - truth, axis=1) / np.linalg.norm(truth, axis=1)
        found[name] = {
            "unbiased": row.unbiased,
            "relative_bias": float(np.median(bias)),
            "audit_p": float(min(verdict.uniformity, verdict.smallest, verdict.total)),
            "detectable": verdict.detectable,
        }
        print(f"  … {name}: p = {found[name]['audit_p']:.3f}", flush=True)
    for name, trace in traces.items():
        found[name]["variance"] = float(np.exp(np.mean(np.log(trace / traces[REFERENCE]))))
    return found


def _truth(row, auditing, num_mdps):
    """The exact gradients, [K, P]."""
    arrays, logits = auditing.stack(items := auditing.problems(seed=11, num_mdps=num_mdps))

    def one(arrays, logits):
        mdp = jaxpg.exact.FiniteMDP(**arrays, discount=items[0].mdp.discount, horizon=items[0].mdp.horizon)
        policy = jaxpg.policies.tabular(mdp.environment())
        return mdp.policy_gradient(policy, logits, temperature=row.terms.get("temperature")).ravel()

    return np.asarray(jax.jit(jax.vmap(one))(arrays, logits), np.float64)


def cost(table, estimators, num_episodes, rounds):
    """{name: seconds of every round}."""
    mdp = jaxpg.exact.random_mdp(jax.random.key(0), 20, 4, horizon=50, discount=0.97)
    env = mdp.environment()
    policy = jaxpg.policies.mlp(env, hidden_sizes=(64, 64))
    params, other = policy.init(jax.random.key(1)), policy.init(jax.random.key(2))
    compiled = {}
    for name, row in table.items():
        info = estimators.given(mdp, policy, params, row.terms.get("temperature"))
        options = estimators.options(row, info, (policy, other))
        gradient = jaxpg.policy_gradient(env, policy, num_episodes=num_episodes, **options)
        compiled[name] = jax.jit(gradient).lower(jax.random.key(0), params).compile()
    seconds = {name: [] for name in table}
    for round_ in range(-1, rounds):
        key = jax.block_until_ready(jax.random.key(round_ + 2))
        for name in list(table) if round_ % 2 else reversed(list(table)):
            start = time.perf_counter()
            jax.block_until_ready(compiled[name](key, params))
            if round_ >= 0:  # The first round warms up.
                seconds[name].append(time.perf_counter() - start)
    return seconds


def page(rows):
    """The page, Markdown."""
    lines = []
    for name, facts in rows.items():
        bias = "0" if facts["unbiased"] else f"{facts['relative_bias']:.0%}"
        lines.append(
            f"| {name} | {'yes' if facts['unbiased'] else 'no'} | {bias} | {facts['audit_p']:.2f} | "
            f"{facts['detectable']:.1%} | {facts['variance']:.2f} | {facts['cost']['median']:.2f} |"
        )
    return HEADER + "\n".join(lines) + "\n" + FOOTER


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks scoreboard", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=common.positive, help="of the timing (default 9; 2 with --quick)")
    parser.add_argument("--rows", nargs="+", help="of the table (default: all)")
    parser.add_argument("--quick", action="store_true", help="to see that it works: a few rows, no page is written")
    parser.add_argument("--out", help="the JSON file")
    options = parser.parse_args(arguments)
    set_xla_flags()
    sys.path.insert(0, str(common.ROOT / "tests"))
    import auditing
    import estimators

    names = options.rows or list(estimators.ESTIMATORS)[: 2 if options.quick else None]
    unknown = set(names) - set(estimators.ESTIMATORS)
    if unknown:
        parser.error(f"--rows: {sorted(unknown)} are not in tests/estimators.py")
    names = [*names, *(() if REFERENCE in names else (REFERENCE,))]
    table = {name: estimators.ESTIMATORS[name] for name in names}
    rounds = options.rounds or (2 if options.quick else 9)
    rows = accuracy(table, auditing, *((5, 50) if options.quick else (100, 1500)))
    seconds = cost(table, estimators, 64 if options.quick else 1024, rounds)
    for name in table:
        rows[name]["cost"] = common.ratios(seconds[name], seconds[REFERENCE])
        rows[name]["seconds"] = common.spread(seconds[name])
    text = page(rows)
    print(text)
    result = {"question": __doc__.splitlines()[0], "machine": common.machine(), "rounds": rounds, "rows": rows}
    whole = not options.quick and not options.rows
    if whole:
        PAGE.write_text(text, encoding="utf-8")
    common.write_json(options.out or common.result_path(f"scoreboard_{jax.default_backend()}", not whole), result)
    return result


if __name__ == "__main__":
    main()
