"""Many runs of an algorithm in one compiled program: the settings and seeds lie along a leading [run] axis.

Every run goes on until it has taken its own number of environment steps; then its state stays as it is while the
others go on. On a mesh each device plays its own share of the runs, and no device waits for another.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpg import _compile
from jaxpg._mesh import along_devices, sharded
from jaxpg.algorithms._parts import finite
from jaxpg.algorithms.types import Algorithm
from jaxpg.lanes import select, strong
from jaxpg.training.evaluate import evaluate

__all__ = ["BAD", "DONE", "MAX_BLOCK", "Block", "Program"]

MAX_BLOCK = 64  # Updates whose metrics a block can hold.
SLICE = 8  # Runs that a CPU core takes through an update together.
DONE = "_done"  # The metric that tells which runs took part in an update,
BAD = "_bad"  # and the one that tells which of them it ended for being NaN or infinite.


def in_slices(step: Callable, *args: Any) -> Any:
    """`vmap(step)`; on a CPU in slices, whose runs together fit the cache: 256 runs of PPO are 1.4 times as fast."""
    number, width = len(jax.tree.leaves(args)[0]), SLICE if jax.default_backend() == "cpu" else 2**31
    every, whole = jax.vmap(step), number // width * width
    if number <= width:
        return every(*args)
    first = jax.tree.map(lambda x: x[:whole].reshape(whole // width, width, *x.shape[1:]), args)
    done = jax.lax.map(lambda some: every(*some), first)
    done = jax.tree.map(lambda x: x.reshape(whole, *x.shape[2:]), done)
    if whole == number:
        return done
    rest = every(*jax.tree.map(lambda x: x[whole:], args))
    return jax.tree.map(lambda x, y: jnp.concatenate([x, y]), done, rest)


class Block(NamedTuple):
    """What a block of updates leaves: `metrics` [update, run] hold as many updates as `DONE` tells."""

    state: Any
    metrics: dict[str, jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """The compiled functions for the settings of a group.

    Fields:
      build: traced hyperparameters -> algorithm.
      mesh: devices, or None.
      num_episodes, deterministic: of an evaluation.
      halt: a run ends with an update that was not applied.
    """

    build: Callable[[Mapping[str, Any]], Algorithm]
    mesh: jax.sharding.Mesh | None
    num_episodes: int
    deterministic: bool
    halt: bool

    @functools.cached_property
    def init(self) -> Callable[[Any, Any], Any]:
        """(traced [run], keys [run]) -> states [run]."""

        def start(traced, keys):
            # One after the other on a CPU: a batch of LAPACK's factorisations (of orthogonal weights, as flax draws
            # them) is cut into tasks for the very threads that wait for them, and two batches can wait for ever.
            every = jax.lax.map if jax.default_backend() == "cpu" else lambda f, xs: jax.vmap(f)(xs)
            return strong(every(lambda run: self.build(run[0]).init(run[1]), (traced, keys)))

        return self._compiled(start, (0, 1), 0, quick=True)

    @functools.cached_property
    def block(self) -> Callable[..., Block]:
        """(traced, states, env steps left [run], most updates) -> Block; a run with no steps left stays as it is."""

        def step(traced, state):
            state, metrics = self.build(traced).step(state)
            is_bad = (jnp.asarray(metrics.get("nonfinite", 0)) > 0) & self.halt | ~finite(state.params)
            return strong(state), metrics, is_bad

        def run(traced, states, left, most):
            states = strong(states)
            every = jax.jit(functools.partial(in_slices, step))  # Traced for its shapes, and not again in the loop.
            shapes = jax.eval_shape(every, traced, states)[1]
            metrics = {name: jnp.zeros((MAX_BLOCK, *x.shape), x.dtype) for name, x in shapes.items()}
            metrics |= {name: jnp.zeros((MAX_BLOCK, *left.shape), bool) for name in (DONE, BAD)}

            def body(carry):
                states, metrics, count, left = carry
                going = left > 0
                after, new, is_bad = every(traced, states)
                new |= {DONE: going, BAD: going & is_bad}
                metrics = {name: metrics[name].at[count].set(value) for name, value in new.items()}
                taken = jnp.where(going, new["env_steps"], 0).astype(left.dtype)
                # Counted down: what is left and an update's steps are positive, so their difference does not overflow.
                left = jnp.where(is_bad, 0, left - taken)
                return select(going, after, states), metrics, count + 1, left

            def going(carry):
                _, _, count, left = carry
                return (count < most) & jnp.any(left > 0)

            start = (states, metrics, jnp.zeros((), jnp.int32), left)
            states, metrics, _, _ = jax.lax.while_loop(going, body, start)
            return Block(states, metrics)

        return self._compiled(run, (0, 1, 2), Block(0, 1), donate_argnums=1)  # type: ignore

    @functools.cached_property
    def evaluate(self) -> Callable[..., tuple[jax.Array, jax.Array]]:
        """(traced, params [run], keys [run]) -> (mean return [run], its standard error [run])."""

        def play(traced, params, key):
            algorithm = self.build(traced)
            env, policy = algorithm.env, algorithm.policy
            if env is None or policy is None:
                raise TypeError(f"{algorithm.name} has no env or policy to evaluate")
            returns = evaluate(
                key,
                env,
                policy,
                params,
                num_episodes=self.num_episodes,
                deterministic=self.deterministic,
            ).returns
            error = jnp.std(returns, ddof=1) / jnp.sqrt(len(returns)) if len(returns) > 1 else jnp.nan
            return jnp.mean(returns), jnp.asarray(error, returns.dtype)

        return self._compiled(jax.vmap(play), (0, 1, 2), 0)

    def _compiled(
        self, function: Callable, cut: tuple[int, ...], axes: Any, quick: bool = False, **options: Any
    ) -> Callable:
        """The function, each device of the mesh with its part of the runs; results have their [run] axes at `axes`."""
        if self.mesh is not None:  # Said again: arrays without entries would be laid out otherwise.
            options["out_shardings"] = jax.tree.map(functools.partial(sharded, self.mesh), axes)
        laid_out = along_devices(self.mesh, function, cut=dict.fromkeys(cut, 0), axes=axes)
        compiler_options = _compile.for_many_runs() | (_compile.for_one_call() if quick else {})
        return jax.jit(laid_out, compiler_options=compiler_options, **options)
