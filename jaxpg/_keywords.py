"""What other libraries call the arguments that jaxpg has: an unknown keyword is answered with the name it has here.

`jaxpg.cli` answers unknown options from the same table.
"""

import functools
from collections.abc import Callable, Collection
from typing import ParamSpec, TypeVar

from jaxpg import _check

__all__ = ["belongs_to_weight", "hinted", "meant"]

P = ParamSpec("P")
R = TypeVar("R")

_ALSO_CALLED = {
    "checkpoint_every": ("checkpoint_freq", "checkpoint_interval", "save_every", "save_freq", "save_interval"),
    "critic": ("value_function", "value_network", "vf"),
    "deterministic_evaluation": ("deterministic",),
    "directory": ("checkpoint_dir", "log_dir", "logdir", "save_path"),
    "discount": ("gamma",),
    "entropy_coefficient": ("ent_coef", "ent_coeff", "entropy_coef", "entropy_coeff", "entropy_cost"),
    "evaluate_every": ("eval_every", "eval_freq", "eval_interval"),
    "evaluation_episodes": ("n_eval_episodes", "num_eval_episodes"),
    "hidden_sizes": ("features", "hidden_dims", "hidden_layer_sizes", "hidden_units", "layers", "net_arch"),
    "key": ("random_key", "random_state", "rng", "seed"),
    "lambda_": ("gae_lambda", "lam", "lambd"),
    "learning_rate": ("alpha", "lr", "step_size"),
    "max_gradient_norm": ("clip_grad_norm", "grad_clip", "max_grad_norm"),
    "max_kl": ("delta", "target_kl"),
    "clip": ("clip_coef", "clip_eps", "clip_epsilon", "clip_range", "epsilon"),
    "value_clip": ("clip_range_vf", "clip_vloss", "vf_clip"),
    "normalize_advantages": ("norm_adv", "normalize_advantage"),
    "num_env_steps": ("num_steps", "num_timesteps", "steps", "timesteps", "total_steps", "total_timesteps"),
    "out": ("directory", "checkpoint_dir", "log_dir", "logdir", "output", "output_dir", "save_dir", "save_path"),
    "num_envs": ("n_envs", "num_environments"),
    "num_episodes": ("batch_size", "episodes", "n_episodes", "n_eval_episodes", "num_rollouts", "num_samples"),
    "num_epochs": ("epochs", "n_epochs", "update_epochs"),
    "num_minibatches": ("minibatches", "n_minibatches"),
    "num_steps": ("n_steps", "rollout_length", "unroll_length"),
    "seeds": ("num_seeds", "seed"),
    "value_coefficient": ("value_coef", "vf_coef", "vf_coeff"),
}


def hinted(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, with a TypeError for an unknown keyword that says which argument was probably meant.

    Signature, docstring and source stay its own: `inspect` finds them behind `__wrapped__`.
    """
    code = function.__code__
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]

    @functools.wraps(function)
    def call(*args: P.args, **keywords: P.kwargs) -> R:
        for unknown in keywords:
            if unknown not in names:
                raise TypeError(
                    f"{function.__name__}() got an unexpected keyword argument {unknown!r}{_hint(unknown, names)}"
                )
        return function(*args, **keywords)

    return call


def meant(unknown: str, names: Collection[str]) -> list[str]:
    """Which of `names` was probably meant: the one that others call `unknown`, else those that are spelt like it."""
    known = [name for name in names if unknown in _ALSO_CALLED.get(name, ())]
    return known[:1] or _check.close(unknown, names)


def belongs_to_weight(unknown: str, names: Collection[str]) -> bool:
    """Whether `unknown` is the discount, and that is the weight's."""
    return unknown in ("discount", *_ALSO_CALLED["discount"]) and "weight" in names and "discount" not in names


def _hint(unknown: str, names: tuple[str, ...]) -> str:
    if belongs_to_weight(unknown, names):
        return ": it belongs to the weight, weight=jaxpg.weights.reward_to_go(discount=0.99)"
    found = meant(unknown, names)
    return f"; did you mean {' or '.join(map(repr, found))}?" if found else ""
