"""What does keeping the final observation of truncated episodes cost in fixed-length segments?  (At most 5%.)

`jaxpg.segments.segment` with a policy and a critic of 64 × 64 units, with `final_rows` and without, per step played: a
final observation takes a row of its lane that is not a step. CartPole-v1 with an untrained policy truncates hardly
ever, Pendulum-v1 truncates every episode at step 200. One process, one device, in turns; each goes on where it stopped.

    python -m benchmarks segments [--quick]   benchmarks/results/segments_<backend>.json, or outputs/benchmarks
"""

import argparse
import time

import jax
import jax.numpy as jnp

import jaxpg
from benchmarks import common
from jaxpg import segments
from jaxpg.training.devices import set_xla_flags

ENVIRONMENTS = ("CartPole-v1", "Pendulum-v1")
KINDS = {"without": False, "with": True}  # final rows


def measure(name, num_lanes, num_steps, rounds, segments_per_round):
    """{seconds per step played, with and without final rows, and the spread of their ratio}."""
    env = jaxpg.make(name)
    policy, critic = jaxpg.policies.mlp(env), jaxpg.policies.value_mlp(env)
    policy_params, critic_params = policy.init(jax.random.key(0)), critic.init(jax.random.key(1))
    start = segments.start_segments(env, policy, jax.random.key(2), num_lanes)

    def compiled(final_rows):
        def play(policy_params, critic_params, state):
            def value(observation, time):
                return critic.apply(critic_params, observation)

            return segments.segment(env, policy, policy_params, state, num_steps, value, final_rows)

        return jax.jit(play).lower(policy_params, critic_params, start).compile()

    functions = {kind: compiled(final_rows) for kind, final_rows in KINDS.items()}
    states = dict.fromkeys(KINDS, start)
    per_step = {kind: [] for kind in KINDS}
    played = dict.fromkeys(KINDS, 0)
    for round_ in range(-1, rounds):
        for kind in KINDS if round_ % 2 else reversed(KINDS):
            results = []
            began = time.perf_counter()
            for _ in range(segments_per_round):
                states[kind], segment = functions[kind](policy_params, critic_params, states[kind])
                results.append(jax.block_until_ready(segment))
            elapsed = time.perf_counter() - began
            steps = sum(int(jnp.sum(segment.trajectory.valid)) for segment in results)
            if round_ >= 0:  # The first round warms up.
                per_step[kind].append(elapsed / steps)
                played[kind] += steps
    return {
        "seconds_per_step": {kind: {**common.spread(values), "rounds": values} for kind, values in per_step.items()},
        "steps": played,
        "ratio": common.ratios(per_step["with"], per_step["without"]),
    }


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks segments", description=__doc__.splitlines()[0])
    parser.add_argument("--num-lanes", type=common.positive, default=512)
    parser.add_argument("--num-steps", type=common.positive, help="of a segment (default 128; 16 with --quick)")
    parser.add_argument("--segments", type=common.positive, help="of a round (default 8; 1 with --quick)")
    parser.add_argument("--rounds", type=common.positive, help="default 9; 2 with --quick")
    parser.add_argument("--environments", nargs="+", default=list(ENVIRONMENTS))
    parser.add_argument("--quick", action="store_true", help="to see that it works")
    parser.add_argument("--out", help="the JSON file")
    options = parser.parse_args(arguments)
    num_steps = options.num_steps or (16 if options.quick else 128)
    rounds = options.rounds or (2 if options.quick else 9)
    per_round = options.segments or (1 if options.quick else 8)

    set_xla_flags()
    result = {
        "question": __doc__.splitlines()[0],
        "machine": common.machine(),
        "backend": jax.default_backend(),
        "options": {**vars(options), "num_steps": num_steps, "rounds": rounds, "segments": per_round},
        "environments": {},
    }
    for name in options.environments:
        measured = measure(name, options.num_lanes, num_steps, rounds, per_round)
        result["environments"][name] = measured
        rates = {kind: 1e-6 / measured["seconds_per_step"][kind]["median"] for kind in KINDS}
        print(
            f"{name}: {rates['without']:.2f} M steps/s without final rows, {rates['with']:.2f} with; "
            f"time with / without {common.ratio_text(measured['ratio'])}"
        )
    path = common.result_path(f"segments_{result['backend']}", options.quick)
    common.write_json(options.out or path, result)
    return result


if __name__ == "__main__":
    main()
