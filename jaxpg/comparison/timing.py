"""Time and memory of one compiled estimate."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

__all__ = ["Program", "compile_once", "in_turns"]

SHORTEST_SAMPLE = 0.01  # Seconds: shorter calls are repeated, so that the clock and the dispatch are not what is seen.


class Program(NamedTuple):
    """A compiled (key, params) -> gradient, the seconds that took, and the bytes planned for a call (or NaN)."""

    call: Callable[[Any, Any], Any]
    seconds: float
    bytes: float


def compile_once(function: Callable[[Any, Any], Any], key: jax.Array, params: Any) -> Program:
    start = time.perf_counter()
    compiled = jax.jit(function).lower(key, params).compile()
    seconds = time.perf_counter() - start
    return Program(compiled, seconds, _planned_bytes(compiled))


def _planned_bytes(compiled: Any) -> float:
    try:
        analysis = compiled.memory_analysis()
    except (NotImplementedError, RuntimeError):  # Not every backend tells.
        analysis = None
    return math.nan if analysis is None else float(analysis.temp_size_in_bytes + analysis.output_size_in_bytes)


def in_turns(calls: Sequence[Callable[[Any, Any], Any]], key: jax.Array, params: Any, rounds: int) -> np.ndarray:
    """Seconds of one call, [call, round]. All take their turn in every round, so that a busy spell hits all of them.

    A round's key is the same for all, and another one each round; who begins changes from round to round.
    """
    repeats = []
    for call in calls:
        jax.block_until_ready(call(key, params))  # The first call of a program does more than the ones after it.
        repeats.append(max(math.ceil(SHORTEST_SAMPLE / max(_seconds(call, key, params, 1), 1e-9)), 1))
    found = np.empty((len(calls), rounds))
    for number in range(rounds):
        round_key = jax.random.fold_in(key, number)
        for place in range(len(calls)):
            contender = (place + number) % len(calls)
            found[contender, number] = _seconds(calls[contender], round_key, params, repeats[contender])
    return found


def _seconds(call: Callable[[Any, Any], Any], key: jax.Array, params: Any, repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        jax.block_until_ready(call(key, params))
    return (time.perf_counter() - start) / repeats
