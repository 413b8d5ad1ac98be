"""`jaxpg gradient ENV`: one gradient of an untrained policy, and how good the estimate is."""

import time
from typing import Any, NamedTuple

from jaxpg.cli import devices
from jaxpg.cli.build import make_environment, num_parameters
from jaxpg.cli.commands import Gradient
from jaxpg.cli.console import console, facts, heading, rate, seconds, with_error

__all__ = ["TimedEstimate", "estimate_facts", "run_gradient", "timed_gradient"]


class TimedEstimate(NamedTuple):
    """A `GradientEstimate`, the number of parameters, and the seconds that compiling and running took."""

    estimate: Any
    num_parameters: int
    compile_seconds: float
    run_seconds: float


def run_gradient(command: Gradient) -> None:
    """Estimates a gradient on all cores and prints it with its errors."""
    devices.prepare(command.devices)
    import jaxpg

    mesh = devices.mesh_over(command.devices)
    weight = {
        "reward-to-go": jaxpg.weights.reward_to_go, "total-return": jaxpg.weights.total_return,
    }[command.weight](discount=command.discount)  # fmt: skip
    baseline = {
        "none": jaxpg.baselines.none, "leave-one-out": jaxpg.baselines.leave_one_out, "time": jaxpg.baselines.time,
    }[command.baseline]()  # fmt: skip
    env = make_environment(command.env, command.max_steps)
    output = console()
    heading(
        output,
        f"One policy gradient of {env.name}",
        f"{devices.describe(command.devices)}, limit {env.max_steps} steps",
    )
    with output.status("compiling"):
        result = timed_gradient(
            env, jaxpg.policies.mlp(env, command.hidden_sizes), command.seed, num_episodes=command.num_episodes,
            weight=weight, baseline=baseline, chunk_size=command.chunk_size, mesh=mesh,
        )  # fmt: skip
    network = "-".join(map(str, command.hidden_sizes)) or "linear"
    facts(output, [
        ("weight", command.weight, f"discount {command.discount:g}"),
        ("baseline", command.baseline),
        ("policy", f"{network}, untrained", f"{result.num_parameters:,} parameters"),
        *estimate_facts(result),
    ])  # fmt: skip


def timed_gradient(env: Any, policy: Any, seed: int, **options: Any) -> TimedEstimate:
    """Compiles and runs `policy_gradient` once, for the weights and the episodes that `seed` names."""
    import jax

    import jaxpg

    gradient = jax.jit(jaxpg.policy_gradient(env, policy, **options))
    params_key, episodes_key = jax.random.split(jax.random.key(seed))
    params = jax.jit(policy.init)(params_key)
    start = time.perf_counter()
    compiled = gradient.lower(episodes_key, params).compile()
    middle = time.perf_counter()
    estimate = jax.block_until_ready(compiled(episodes_key, params))
    end = time.perf_counter()
    if estimate.num_nonfinite > 0:
        raise ValueError(f"reward: {int(estimate.num_nonfinite)} episodes of {env.name} have no finite return")
    return TimedEstimate(jax.device_get(estimate), num_parameters(params), middle - start, end - middle)


def estimate_facts(result: TimedEstimate) -> list[tuple[str, ...]]:
    """What to tell of an estimate."""
    estimate, duration = result.estimate, result.run_seconds
    steps = int(estimate.num_steps)
    return [
        ("episodes", f"{int(estimate.num_episodes):,}", f"{rate(estimate.num_episodes, duration)} a second"),
        ("steps", f"{steps:,}", f"{rate(steps, duration)} a second, {estimate.episode_length:.4g} an episode"),
        ("utilization", f"{100 * estimate.utilization:.1f}%", "of the steps computed belong to an episode"),
        ("gradient norm", with_error(estimate.gradient_norm, estimate.gradient_norm_error), "± standard error"),
        ("signal to noise", f"{estimate.snr:.3g}", f"equal at {estimate.noise_scale:.3g} episodes, the noise scale"),
        ("discounted return", with_error(estimate.objective, estimate.objective_error), "± standard error"),
        ("return", f"{estimate.episode_return:.5g}", "not discounted"),
        ("time", seconds(duration), f"and {seconds(result.compile_seconds)} to compile"),
    ]
