"""How XLA compiles jaxpg's own programs on a CPU."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxpg import _check

__all__ = ["for_many_runs", "for_one_call", "outside_jit", "quickly"]


def for_many_runs() -> dict[str, Any]:
    """XLA's concurrency-optimised CPU scheduler makes more of what can block the threads; the plain one is as fast."""
    return _on_cpu(("xla_cpu_enable_concurrency_optimized_scheduler", False))


def for_one_call() -> dict[str, Any]:
    """For programs that run once, or seldom and briefly: on a CPU they compile in a third of the time or less, and are
    a few times as slow."""
    return _on_cpu(
        ("xla_backend_optimization_level", 0),
        ("xla_llvm_disable_expensive_passes", True),
        ("xla_cpu_use_fusion_emitters", False),
    )


def _on_cpu(*options: tuple[str, Any]) -> dict[str, Any]:
    return dict(_known(options)) if jax.default_backend() == "cpu" else {}


@functools.cache
def _known(options: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    """Those that the installed XLA has: they come and go with its versions, and it refuses a program for one."""

    def compiles(known: dict[str, Any]) -> bool:
        try:
            jax.jit(lambda: 0, compiler_options=known).lower().compile()
        except jax.errors.JaxRuntimeError:
            return False
        return True

    return dict(options) if compiles(dict(options)) else {name: x for name, x in options if compiles({name: x})}


def outside_jit() -> bool:
    """Whether nothing is being traced here."""
    return _check.is_concrete(jnp.zeros(()))


def quickly(function: Callable) -> Callable:
    """`function`, compiled as a program that runs once; a part of the program around it, where there is one."""

    @functools.cache
    def compiled() -> Callable:  # Made at the first call: which options there are is up to the backend.
        return jax.jit(function, compiler_options=for_one_call())

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        if not outside_jit() or not all(_check.is_concrete(leaf) for leaf in jax.tree.leaves(args)):
            return function(*args)
        return compiled()(*args)

    return call
