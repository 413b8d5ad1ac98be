"""From what a user names to functions (key, params) -> gradient, to replicates of them, and to the truth."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxpg import _check, baselines, weights
from jaxpg.comparison.moments import Truth
from jaxpg.envs.base import Environment
from jaxpg.exact.finite_mdp import FiniteMDP
from jaxpg.gradient import policy_gradient
from jaxpg.policies.base import Policy
from jaxpg.weights import Weight

__all__ = ["check_problem", "common_discount", "estimator_functions", "find_truth", "gradient_function", "replicates"]

Gradient = Callable[[Any, Any], Any]
Shown = Callable[[int, int], None]

NUM_PARTS = 32  # Independent parts of a reference: their spread is its error.
STEPS_AT_ONCE = 2**20  # Replicates are mapped over together as long as their longest episodes have no more steps.


def check_problem(env: Any, policy: Any, params: Any, key: Any) -> jax.Array:
    """The key, typed; what follows runs on the host, so nothing may be traced."""
    _check.instance("env", env, Environment)
    _check.instance("policy", policy, Policy)
    key = _check.key("key", key)
    for name, tree in (("key", key), ("params", params)):
        if not all(map(_check.is_concrete, jax.tree.leaves(tree))):
            raise TypeError(f"{name} must be known values: this runs on the host, outside jit and vmap; got tracers")
    return key


def gradient_function(argument: str, env: Environment, policy: Policy, options: Mapping[str, Any]) -> Gradient:
    """(key, params) -> ĝ by `policy_gradient` with these options; `argument` names their place in messages."""
    accepted = [name for name in inspect.signature(policy_gradient).parameters if name not in ("env", "policy")]
    for name in options:
        if name not in accepted:
            raise ValueError(
                f"{argument} has the unknown argument {name!r}; policy_gradient accepts "
                f"{', '.join(accepted)}{_check.nearest(name, accepted)}"
            )
    try:
        estimate = policy_gradient(env, policy, **options)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{argument}: {error}") from error
    return lambda key, params: estimate(key, params).gradient


def estimator_functions(
    env: Environment, policy: Policy, params: Any, estimators: Any, num_episodes: int, key: jax.Array
) -> dict[str, Gradient]:
    """`estimators` as functions (key, params) -> gradient, by name."""
    if not isinstance(estimators, Mapping):
        raise TypeError(
            f"estimators must be a dict of name -> arguments of policy_gradient, or function (key, params) -> "
            f"GradientEstimate; got {type(estimators).__name__}"
        )
    if not estimators:
        raise ValueError("estimators must name at least one estimator; got an empty dict")
    functions = {}
    for name, given in estimators.items():
        argument = f"estimators[{name!r}]"
        if not isinstance(name, str):
            raise TypeError(f"estimators must have strings as names; got {name!r}")
        if isinstance(given, Mapping):
            function = gradient_function(argument, env, policy, {"num_episodes": num_episodes, **given})
        elif callable(given):
            function = _gradient_of(given, params)
        else:
            raise TypeError(
                f"{argument} must be a dict of policy_gradient's arguments, such as {{'weight': …, 'baseline': …}}, "
                f"or a function (key, params) -> GradientEstimate; got {type(given).__name__} ({given!r:.80})"
            )
        found = jax.eval_shape(function, key, params)
        _check_like_params(f"{argument} gives", found, params)
        functions[name] = function
    return functions


def _gradient_of(function: Callable, params: Any) -> Gradient:
    """`function`, whose result is a gradient, or a record with a field `gradient`."""

    def gradient(key, params):
        result = function(key, params)
        is_gradient = jax.tree.structure(result) == jax.tree.structure(params)
        return result if is_gradient else getattr(result, "gradient", result)

    return gradient


def _check_like_params(what: str, tree: Any, params: Any) -> None:
    if jax.tree.structure(tree) != jax.tree.structure(params):
        raise ValueError(
            f"{what} a pytree that is not like params: {jax.tree.structure(tree)}, where params have "
            f"{jax.tree.structure(params)}"
        )
    for (path, leaf), like in zip(jax.tree_util.tree_leaves_with_path(tree), jax.tree.leaves(params), strict=True):
        if jnp.shape(leaf) != jnp.shape(like):
            raise ValueError(
                f"{what} a pytree that is not like params: shape {jnp.shape(leaf)} at "
                f"{jax.tree_util.keystr(path) or 'its only leaf'}, where params have {jnp.shape(like)}"
            )


def replicates(
    argument: str,
    function: Gradient,
    params: Any,
    keys: jax.Array,
    steps_each: int,
    at_once: int | None = None,
    shown: Shown | None = None,
) -> np.ndarray:
    """Gradients of all keys [R, P], in 64 bits on the host; `at_once` of them are computed together.

    Args:
      argument: names the estimator in messages.
      steps_each: most steps of one replicate, from which `at_once` follows where it is None.
      shown: called with the number of gradients that are there, and of how many.
    Raises:
      ValueError: a gradient is not finite.
    """
    num_replicates = len(keys)
    at_once = min(at_once or max(STEPS_AT_ONCE // steps_each, 1), num_replicates)

    def flat(key, params):
        return ravel_pytree(function(key, params))[0]

    together = (
        jax.jit(jax.vmap(flat, (0, None))) if at_once > 1 else jax.jit(lambda keys, params: flat(keys[0], params))
    )
    rows = []
    for start in range(0, num_replicates, at_once):
        # The last batch is filled up from the front, so that one program serves all.
        chosen = np.arange(start, start + at_once) % num_replicates
        rows.append(np.asarray(together(keys[chosen], params), np.float64).reshape(at_once, -1))
        if shown is not None:
            shown(min(start + at_once, num_replicates), num_replicates)
    gradients = np.concatenate(rows)[:num_replicates]
    wrong = num_replicates - int(np.isfinite(gradients).all(1).sum())
    if wrong:
        raise ValueError(f"{argument}: {wrong} of {num_replicates} gradients are not finite")
    return gradients


def find_truth(
    env: Environment,
    policy: Policy,
    params: Any,
    truth: Any,
    key: jax.Array,
    reference_episodes: int,
    discount: Callable[[], Any],
    shown: Shown | None = None,
) -> Truth:
    """`truth` as given (a pytree, or a problem that knows its gradient), or for None by sampling."""
    if truth is None:
        return _reference(env, policy, params, key, reference_episodes, discount(), shown)
    if isinstance(truth, FiniteMDP) and env.observation_space != (space := truth.environment().observation_space):
        raise ValueError(
            f"truth must be the problem that env plays, with the observations {env.observation_space}; got {space}"
        )
    if callable(getattr(truth, "policy_gradient", None)):
        truth = truth.policy_gradient(policy, params)
    _check_like_params("truth is", truth, params)
    gradient = np.asarray(ravel_pytree(truth)[0], np.float64)
    if not np.isfinite(gradient).all():
        raise ValueError("truth must hold finite numbers")
    return Truth(gradient)


def _reference(
    env: Environment,
    policy: Policy,
    params: Any,
    key: jax.Array,
    num_episodes: int,
    discount: Any,
    shown: Shown | None,
) -> Truth:
    """∇J from `num_episodes` episodes, in independent parts; reward-to-go with leave-one-out has no bias."""
    num_episodes = _check.count("reference_episodes", num_episodes, 2 * NUM_PARTS)
    each = -(-num_episodes // NUM_PARTS)
    options = {"weight": weights.reward_to_go(discount), "baseline": baselines.leave_one_out(), "num_episodes": each}
    function = gradient_function("reference", env, policy, options)
    keys = jax.random.split(key, NUM_PARTS)
    parts = replicates("reference", function, params, keys, each * (env.max_steps or 1), shown=shown)
    return Truth(parts.mean(0), parts, f"reference of {each * NUM_PARTS:,} episodes")


def common_discount(estimators: Mapping[str, Any], discount: Any) -> Any:
    """γ of the objective: `discount` where it is given, else that of all the estimators' weights."""
    if discount is not None:
        return _check.unit("discount", discount)
    given = [options for options in estimators.values() if isinstance(options, Mapping)]
    chosen = [options.get("weight") for options in given]
    found = {float((w if isinstance(w, Weight) else weights.reward_to_go()).discount) for w in chosen}
    if len(found) != 1:
        raise ValueError(
            "discount must be given for a reference where the estimators' weights do not have one discount in common; "
            f"they have {', '.join(f'{d:g}' for d in sorted(found)) or 'none that is known'}"
        )
    return found.pop()
