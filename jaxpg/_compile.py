"""How XLA compiles jaxpg's own programs on a CPU."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxpg import _check

__all__ = ["for_many_runs", "outside_jit", "quickly"]


def for_many_runs() -> dict[str, Any]:
    """XLA's concurrency-optimised CPU scheduler makes more of what can block the threads; the plain one is as fast."""
    return {"xla_cpu_enable_concurrency_optimized_scheduler": False} if jax.default_backend() == "cpu" else {}


def for_one_call() -> dict[str, Any]:
    """For programs that run once, and briefly: on a CPU these compile in a third of the time, and are a few times as
    slow."""
    if jax.default_backend() != "cpu":
        return {}
    return {
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
        "xla_cpu_use_fusion_emitters": False,
    }


def outside_jit() -> bool:
    """Whether nothing is being traced here."""
    return _check.is_concrete(jnp.zeros(()))


def quickly(function: Callable) -> Callable:
    """`function`, compiled as a program that runs once; a part of the program around it, where there is one."""

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        if not outside_jit() or not all(_check.is_concrete(leaf) for leaf in jax.tree.leaves(args)):
            return function(*args)
        return jax.jit(function, compiler_options=for_one_call())(*args)

    return call
