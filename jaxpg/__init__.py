"""jaxpg: policy gradients from whole batches of episodes, in one compiled step.

    ∇J(θ)  =  E_{τ ~ π_θ} [ Σ_t ∇_θ log π_θ(a_t | s_t) · ( Ψ_t(τ) − b_t ) ]

Each symbol has its module: `envs` (s, a, r, P), `policies` (π_θ), `rollout` (τ), `weights` (Ψ), `baselines` (b),
`gradient` (the expectation), `algorithms` (θ ← θ + …), `exact` (the truth), `training` (runs). Around it: `sampling`
(the noise of τ), `dice` (∇²J and beyond), `natural` (F⁻¹∇J), `compare` and `batch_size` (which estimator, how many τ).
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from jaxpg import (
        algorithms,
        baselines,
        batch_size,
        comparison,
        dice,
        envs,
        exact,
        fitting,
        gradient,
        gymnasium_evaluation,
        landscape,
        lanes,
        natural,
        plot,
        policies,
        render,
        render_canvas,
        render_classic,
        render_grid,
        returns,
        rollout,
        sampling,
        segments,
        stats,
        stored,
        sweeps,
        training,
        weights,
    )
    from jaxpg.algorithms.a2c import a2c
    from jaxpg.algorithms.impala import impala
    from jaxpg.algorithms.npg import npg
    from jaxpg.algorithms.pgpe import pgpe
    from jaxpg.algorithms.ppo import ppo
    from jaxpg.algorithms.reinforce import reinforce
    from jaxpg.algorithms.trpo import trpo
    from jaxpg.algorithms.types import Algorithm
    from jaxpg.algorithms.v_mpo import v_mpo
    from jaxpg.comparison import compare
    from jaxpg.envs import Box, Discrete, Environment, MultiDiscrete, Timestep, make
    from jaxpg.fitting import fit_value
    from jaxpg.gradient import GradientEstimate, policy_gradient
    from jaxpg.gymnasium_evaluation import evaluate_gymnasium
    from jaxpg.landscape import return_landscape
    from jaxpg.natural import natural_gradient
    from jaxpg.policies import Critic, Policy
    from jaxpg.policies.export import load_policy, save_policy
    from jaxpg.stored import gradient_from
    from jaxpg.sweeps.plan import plan
    from jaxpg.sweeps.sweep import sweep
    from jaxpg.training import loggers
    from jaxpg.training.checkpoints import load_checkpoint
    from jaxpg.training.devices import use_cpu_cores
    from jaxpg.training.evaluate import evaluate
    from jaxpg.training.hosts import use_hosts
    from jaxpg.training.nonfinite import NonFiniteError
    from jaxpg.training.replay import replay
    from jaxpg.training.train import TrainResult, train

# Where each public name lives. Modules are loaded at first use: `import jaxpg` costs little more than `import jax`.
_HOMES = {
    "Algorithm": "jaxpg.algorithms.types",
    "Box": "jaxpg.envs",
    "Critic": "jaxpg.policies",
    "Discrete": "jaxpg.envs",
    "Environment": "jaxpg.envs",
    "GradientEstimate": "jaxpg.gradient",
    "MultiDiscrete": "jaxpg.envs",
    "NonFiniteError": "jaxpg.training.nonfinite",
    "Policy": "jaxpg.policies",
    "Timestep": "jaxpg.envs",
    "TrainResult": "jaxpg.training.train",
    "a2c": "jaxpg.algorithms.a2c",
    "compare": "jaxpg.comparison",
    "evaluate": "jaxpg.training.evaluate",
    "evaluate_gymnasium": "jaxpg.gymnasium_evaluation",
    "fit_value": "jaxpg.fitting",
    "gradient_from": "jaxpg.stored",
    "impala": "jaxpg.algorithms.impala",
    "load_checkpoint": "jaxpg.training.checkpoints",
    "load_policy": "jaxpg.policies.export",
    "loggers": "jaxpg.training",
    "make": "jaxpg.envs",
    "natural_gradient": "jaxpg.natural",
    "npg": "jaxpg.algorithms.npg",
    "pgpe": "jaxpg.algorithms.pgpe",
    "plan": "jaxpg.sweeps.plan",
    "policy_gradient": "jaxpg.gradient",
    "ppo": "jaxpg.algorithms.ppo",
    "reinforce": "jaxpg.algorithms.reinforce",
    "replay": "jaxpg.training.replay",
    "return_landscape": "jaxpg.landscape",
    "save_policy": "jaxpg.policies.export",
    "sweep": "jaxpg.sweeps.sweep",
    "train": "jaxpg.training.train",
    "trpo": "jaxpg.algorithms.trpo",
    "use_cpu_cores": "jaxpg.training.devices",
    "use_hosts": "jaxpg.training.hosts",
    "v_mpo": "jaxpg.algorithms.v_mpo",
}
_MODULES = (
    "algorithms",
    "baselines",
    "batch_size",
    "comparison",
    "dice",
    "envs",
    "exact",
    "fitting",
    "gradient",
    "gymnasium_evaluation",
    "landscape",
    "lanes",
    "natural",
    "plot",
    "policies",
    "render",
    "render_canvas",
    "render_classic",
    "render_grid",
    "returns",
    "rollout",
    "sampling",
    "segments",
    "stats",
    "stored",
    "sweeps",
    "training",
    "weights",
)

__all__ = [
    "Algorithm",
    "Box",
    "Critic",
    "Discrete",
    "Environment",
    "GradientEstimate",
    "MultiDiscrete",
    "NonFiniteError",
    "Policy",
    "Timestep",
    "TrainResult",
    "a2c",
    "algorithms",
    "baselines",
    "batch_size",
    "compare",
    "comparison",
    "dice",
    "envs",
    "evaluate",
    "evaluate_gymnasium",
    "exact",
    "fit_value",
    "fitting",
    "gradient",
    "gradient_from",
    "gymnasium_evaluation",
    "impala",
    "landscape",
    "lanes",
    "load_checkpoint",
    "load_policy",
    "loggers",
    "make",
    "natural",
    "natural_gradient",
    "npg",
    "pgpe",
    "plan",
    "plot",
    "policies",
    "policy_gradient",
    "ppo",
    "reinforce",
    "render",
    "render_canvas",
    "render_classic",
    "render_grid",
    "replay",
    "return_landscape",
    "returns",
    "rollout",
    "sampling",
    "save_policy",
    "segments",
    "stats",
    "stored",
    "sweep",
    "sweeps",
    "train",
    "training",
    "trpo",
    "use_cpu_cores",
    "use_hosts",
    "v_mpo",
    "weights",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    elif name in _MODULES:
        value = importlib.import_module(f"jaxpg.{name}")
    else:
        import difflib

        # `jaxpg.gae` is `jaxpg.weights.gae`: what is asked for may live in a module of its own.
        homes = (
            [] if name.startswith("_") else ["policies", "weights", "baselines", "envs", "envs.wrappers", "sampling"]
        )
        found = {f"{home}.{n}": n for home in homes for n in importlib.import_module(f"jaxpg.{home}").__all__}
        found.update(zip(__all__, __all__))
        lower = {path: n.lower() for path, n in found.items()}
        close = difflib.get_close_matches(name.lower(), lower.values(), n=1)
        hint = "".join(f"; did you mean jaxpg.{path}?" for path, n in lower.items() if [n] == close)
        raise AttributeError(f"module 'jaxpg' has no attribute {name!r}{hint}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
