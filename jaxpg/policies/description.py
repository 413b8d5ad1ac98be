"""A policy or critic from its description: the arguments that it was built with, as plain data."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from jaxpg import _check
from jaxpg.envs.base import Environment
from jaxpg.policies.base import Policy, check_environment
from jaxpg.policies.closed_form import linear_gaussian, tabular, value_tabular
from jaxpg.policies.networks import cnn, mlp, value_cnn, value_mlp
from jaxpg.policies.normalization import normalized
from jaxpg.policies.recurrent import recurrent, value_recurrent

__all__ = ["from_description"]

BUILDERS: Mapping[str, Mapping[str, Callable[..., Any]]] = {
    "policy": {
        "cnn": cnn,
        "linear_gaussian": linear_gaussian,
        "mlp": mlp,
        "normalized": normalized,
        "recurrent": recurrent,
        "tabular": tabular,
    },
    "critic": {
        "normalized": normalized,
        "value_cnn": value_cnn,
        "value_mlp": value_mlp,
        "value_recurrent": value_recurrent,
        "value_tabular": value_tabular,
    },
}


def from_description(env: Environment, description: Mapping[str, Any]) -> Any:
    """The policy or critic that has this `description`, for `env`.

    Args:
      env: the environment; its spaces must suit the arguments.
      description: {"policy": name, argument: value, …} or {"critic": name, …}, as `Policy.description` gives it; what
        is left out has its default. A normalised one holds the description of what it normalises under "model".
    Returns: a `Policy` or a `Critic`.
    Raises: TypeError, ValueError: an unknown name or argument, or values that the named function does not take.
    """
    check_environment(env)
    if not isinstance(description, Mapping):
        raise TypeError(
            f"description must be a dict such as {{'policy': 'mlp', 'hidden_sizes': [64, 64]}}; got "
            f"{type(description).__name__} ({description!r:.80}). A policy built from functions of your own has none"
        )
    kinds = [kind for kind in BUILDERS if kind in description]
    if len(kinds) != 1:
        raise ValueError(f"description must have one entry 'policy' or 'critic'; got the entries {list(description)}")
    (kind,) = kinds
    name = _check.named(f"description[{kind!r}]", description[kind], BUILDERS[kind])
    builder = BUILDERS[kind][name]
    arguments = {key: value for key, value in description.items() if key != kind}
    accepted = [parameter for parameter in inspect.signature(builder).parameters if parameter != "env"]
    for argument in arguments:
        if argument not in accepted:
            raise ValueError(
                f"description of {name!r} must have entries among {', '.join(map(repr, accepted))}; got {argument!r}"
                f"{_check.nearest(argument, accepted)}"
            )
    if builder is not normalized:
        return builder(env, **arguments)
    model = from_description(env, arguments.pop("model", None))
    if isinstance(model, Policy) != (kind == "policy"):
        raise ValueError(f"description of a normalised {kind} must have the description of a {kind} under 'model'")
    return normalized(model, env, **arguments)
