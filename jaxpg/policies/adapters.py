"""Policies and critics from networks of other libraries: one door for all of them.

    network                                    params
    flax linen module                          variables["params"] of its `init`
    haiku `Transformed`, or any object with    what `init(key, input)` gives
      `init(key, input)`, `apply(params, input)`
    a pair of functions (init, apply):         what `init(key)` gives
      key -> params, (params, input) -> output
    function or class, key -> nnx module       a nested dict of its `nnx.Param` arrays
    function or class, key -> callable pytree  the same pytree with its float arrays, None at every other leaf
      (an equinox module)
    an nnx module or callable pytree           the same; every key then gives the arrays that it holds already

A network sees one observation, without batch axes; batches are mapped with `jax.vmap`.
"""

import inspect
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxpg import _check
from jaxpg.envs.base import Environment
from jaxpg.envs.masks import action_mask
from jaxpg.envs.spaces import is_leaf
from jaxpg.policies import heads
from jaxpg.policies.base import Critic, Policy, check_environment, params_check
from jaxpg.policies.distributions import is_distribution

__all__ = ["from_network", "value_from_network"]

Functions = tuple[Callable[..., Any], Callable[..., Any]]


def from_network(
    env: Environment, network: Any, *, preprocess: Callable[[Any], Any] | None = None, squash: bool | str = False
) -> Policy:
    """A policy from a network of any library, as in the table above.

    Args:
      env: the environment; the head is made for its action space.
      network: maps an input to `jaxpg.policies.head_size(env.action_space)` numbers, in the order that
        `jaxpg.policies.heads` lists, or to a distribution of its own: any pytree with `sample` and `log_prob`.
      preprocess: observation -> the network's input; by default the observation itself, for example with its integers
        and dicts. `jaxpg.policies.features(env.observation_space)` makes a flat vector of floats of it.
      squash: how real-valued actions are kept within bounds: False, True or "tanh", "beta"; as in `mlp`.

    An entry "action_mask" of the observation excludes actions, unless the network gives a distribution of its own.
    Raises: TypeError for what is not a network; ValueError where its output does not fit the action space, or where it
      keeps state besides its parameters, such as running averages.
    """
    action_space = check_environment(env).action_space
    distribution, size = heads.head(action_space, squash), heads.head_size(action_space)
    heads.check_mask(env.observation_space, action_space)

    def finish(output: Any, observation: Any) -> Any:
        if is_distribution(output):
            return output
        _check_output(
            output, [(size,)], f"head_size(action_space) numbers for the action space {action_space}, or a distribution"
        )
        return distribution(_full_precision(output), action_mask(observation))

    init, apply = _checked_functions(env, network, preprocess, finish)
    return Policy(init=init, apply=apply)


def value_from_network(env: Environment, network: Any, *, preprocess: Callable[[Any], Any] | None = None) -> Critic:
    """A critic from a network of any library, as `from_network` makes a policy; its output is one number."""

    def finish(output: Any, observation: Any) -> jax.Array:
        _check_output(output, [(), (1,)], "one number, the value of the observation")
        return _full_precision(output).reshape(())

    init, apply = _checked_functions(check_environment(env), network, preprocess, finish)
    return Critic(init=init, apply=apply)


def _checked_functions(env: Environment, network: Any, preprocess: Any, finish: Callable[..., Any]) -> Functions:
    """(init, apply) of a policy or critic, tried out on shapes alone."""
    preprocess = _check.callable_(
        "preprocess", (lambda x: x) if preprocess is None else preprocess, "observation -> network input"
    )
    spaces, structure = jax.tree_util.tree_flatten(env.observation_space, is_leaf=is_leaf)

    def example() -> Any:
        return preprocess(structure.unflatten([jnp.zeros(space.shape, space.dtype) for space in spaces]))

    init_network, call = _functions(network, example)

    def init(key: jax.Array) -> Any:
        return init_network(_check.key("key", key))

    check = params_check(init)

    def one(params: Any, observation: Any) -> Any:
        return finish(call(params, preprocess(observation)), observation)

    def apply(params: Any, observation: Any) -> Any:
        check(params)
        function = one
        leaf = jax.tree_util.tree_leaves(observation)[0]
        for _ in range(jnp.ndim(leaf) - len(spaces[0].shape)):
            function = jax.vmap(function, in_axes=(None, 0))
        return function(params, observation)

    _try_out(env, init, one, structure.unflatten([jax.ShapeDtypeStruct(s.shape, s.dtype) for s in spaces]))
    return init, apply


def _try_out(env: Environment, init: Callable[..., Any], one: Callable[..., Any], observation: Any) -> None:
    try:
        key = jax.eval_shape(lambda: jax.random.key(0))
        # The result is dropped: a distribution from elsewhere need not be a pytree.
        jax.eval_shape(lambda key, observation: (one(init(key), observation), None)[1], key, observation)
    except NetworkError:
        raise
    except Exception as error:
        raise ValueError(
            f"network does not work on one observation of {env.observation_space} (see `preprocess`): "
            f"{type(error).__name__}: {error}"
        ) from error


class NetworkError(ValueError):
    """A network that runs, but is not what a policy or critic needs."""


def _check_output(output: Any, shapes: list[tuple[int, ...]], expected: str) -> None:
    accepted = f"network must give {expected}: an array of shape {' or '.join(map(str, shapes))} for one observation"
    if not isinstance(output, jax.Array):
        raise NetworkError(f"{accepted}; got {type(output).__name__}")
    if output.shape not in shapes:
        raise NetworkError(f"{accepted}; got shape {output.shape}")


def _full_precision(output: jax.Array) -> jax.Array:
    return output.astype(jnp.promote_types(output.dtype, jnp.float32))


def _functions(network: Any, example: Callable[[], Any]) -> Functions:
    """(init, call): key -> params, and (params, input) -> output, for one input."""
    if isinstance(network, (Policy, Critic)):
        raise TypeError(f"network is a jaxpg {type(network).__name__} already: use it as it is")
    if _is_instance(network, "flax.linen", "Module"):
        return _from_linen(network, example)
    if _is_instance(network, "flax.nnx", "Module"):
        return _from_nnx(network, lambda key: network)
    if (
        not isinstance(network, type)
        and callable(getattr(network, "init", None))
        and callable(getattr(network, "apply", None))
    ):
        return _from_init_apply(network, example)
    if isinstance(network, (tuple, list)) and len(network) == 2 and all(map(callable, network)):
        return tuple(network)
    if callable(network) and any(map(_is_float_array, jax.tree_util.tree_leaves(network))):
        return _from_pytree(network, lambda key: network)
    if callable(network):
        return _from_constructor(network)
    raise TypeError(
        f"network must be a flax linen or nnx module, an equinox module or another callable pytree, an "
        f"object with init and apply, a pair of functions (init, apply), or a function key -> module; got "
        f"{type(network).__name__}"
    )


def _is_instance(value: Any, module: str, name: str) -> bool:
    """isinstance(value, module.name), without importing a module that `value` cannot then come from."""
    return module in sys.modules and isinstance(value, getattr(sys.modules[module], name))


def _is_float_array(value: Any) -> bool:
    return isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jnp.inexact)


def _from_linen(module: Any, example: Callable[[], Any]) -> Functions:
    def init(key: jax.Array) -> Any:
        variables = module.init(key, example())
        others = sorted(set(variables) - {"params"})
        if others:
            raise _state_error(f"the collections {others}")
        return variables.get("params", {})

    return init, lambda params, x: module.apply({"params": params}, x)


def _from_init_apply(network: Any, example: Callable[[], Any]) -> Functions:
    names = list(inspect.signature(network.apply).parameters)
    if "state" in names[:2]:
        raise _state_error("that `apply` takes besides params")
    needs_rng = names[1:2] == ["rng"]  # haiku's, unless wrapped in without_apply_rng.
    return (
        lambda key: network.init(key, example()),
        lambda params, x: network.apply(params, None, x) if needs_rng else network.apply(params, x),
    )


def _from_constructor(constructor: Callable[..., Any]) -> Functions:
    """A function key -> module. The module made here shows what is static; `init` makes new ones."""
    if isinstance(constructor, type) and hasattr(constructor, "init") and hasattr(constructor, "apply"):
        name = constructor.__name__
        raise TypeError(f"network must be an instance of a module; got the class {name}: try {name}()")
    accepted = "network, called with a random key, must give an nnx module or another callable pytree with float arrays"
    try:
        module = constructor(jax.random.key(0))
    except Exception as error:
        raise ValueError(f"{accepted}; it raised {type(error).__name__}: {error}") from error
    if _is_instance(module, "flax.nnx", "Module"):
        return _from_nnx(module, constructor)
    if callable(module) and any(map(_is_float_array, jax.tree_util.tree_leaves(module))):
        return _from_pytree(module, constructor)
    raise TypeError(f"{accepted}; got {type(module).__name__}. Pass a function of your own as a pair (init, apply)")


def _from_nnx(module: Any, constructor: Callable[..., Any]) -> Functions:
    nnx = sys.modules["flax.nnx"]
    graph, _, others = nnx.split(module, nnx.Param, ...)
    if jax.tree_util.tree_leaves(others):
        raise _state_error(f"the variables {sorted({type(v).__name__ for _, v in nnx.to_flat_state(others)})}")

    def init(key: jax.Array) -> Any:
        return nnx.to_pure_dict(nnx.state(constructor(key), nnx.Param))

    return init, lambda params, x: nnx.merge(graph, nnx.State(params))(x)


def _from_pytree(module: Any, constructor: Callable[..., Any]) -> Functions:
    leaves, structure = jax.tree_util.tree_flatten(module)
    is_param = list(map(_is_float_array, leaves))

    def init(key: jax.Array) -> Any:
        fresh = structure.flatten_up_to(constructor(key))
        return structure.unflatten([leaf if keep else None for leaf, keep in zip(fresh, is_param, strict=True)])

    def call(params: Any, x: Any) -> Any:
        given = structure.flatten_up_to(params)
        whole = [value if keep else leaf for value, leaf, keep in zip(given, leaves, is_param, strict=True)]
        return structure.unflatten(whole)(x)

    return init, call


def _state_error(what: str) -> NetworkError:
    return NetworkError(
        f"network must be a function of its parameters and input alone; it keeps state, {what}: "
        f"leave out dropout, and use layer normalisation for running averages"
    )
