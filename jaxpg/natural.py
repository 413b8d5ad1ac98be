"""Natural gradients: steepest ascent where the length of a step is how far it moves the policy's distributions,

    x = (F + λI)⁻¹ ∇J(θ),        F(θ) = E_{τ ~ π_θ} [ Σ_t ψ_t ψ_tᵀ ],        ψ_t = ∇_θ log π_θ(a_t | s_t).

F, the Fisher information of an episode, is the Hessian in θ' of Σ_t KL(π_θ(· | s_t) ‖ π_θ'(· | s_t)) at θ' = θ. It is
never formed: conjugate gradients need no more than its products with vectors, each at most twice the work of a gradient
over the same steps. Source: Kakade (2001); Schulman et al. (2015), appendix C.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpg import _check, rollout
from jaxpg import weights as weight_functions
from jaxpg._batching import any_member
from jaxpg._plan import default, require_max_steps, row_bytes
from jaxpg._show import compact
from jaxpg.baselines import Baseline
from jaxpg.envs.base import Environment
from jaxpg.envs.check import check_structure
from jaxpg.gradient import GradientEstimate, policy_gradient
from jaxpg.lanes import float_dtype
from jaxpg.policies.base import Policy
from jaxpg.weights import Weight

__all__ = ["NaturalGradient", "Solution", "fisher_vector_product", "natural_gradient", "solve"]

FISHER_BYTES = 256 * 2**20  # Of the steps that `natural_gradient` keeps, where nothing says how many.


class Solution(NamedTuple):
    """A solution x of (F + λI) x = g.

    Fields:
      direction: pytree like g, x.
      residual: ‖g − (F + λI) x‖ / ‖g‖, from one more product at the end, not from the recursion; 0 for g = 0.
      quadratic_form: xᵀ F x, without the damping.
    """

    direction: Any
    residual: jax.Array
    quadratic_form: jax.Array

    __repr__ = compact


class NaturalGradient(NamedTuple):
    """A natural gradient.

    Fields:
      direction: pytree like params, x = (F + λI)⁻¹ ĝ; uphill.
      estimate: the `GradientEstimate` that ĝ is from.
      residual: ‖ĝ − (F + λI) x‖ / ‖ĝ‖: how far conjugate gradients had to go on.
      quadratic_form: xᵀ F x. A step αx moves an episode's distribution by a divergence of about α² xᵀFx / 2.
      steps: the steps of an episode that F sums over, on average; discounted ones count γ^t. F / steps is the mean over
        steps, as trust regions use it: the mean divergence of a step αx is δ for α = √(2 δ · steps / xᵀFx).
    """

    direction: Any
    estimate: GradientEstimate
    residual: jax.Array
    quadratic_form: jax.Array
    steps: jax.Array

    __repr__ = compact


def fisher_vector_product(
    policy: Policy,
    params: Any,
    observations: Any,
    vector: Any,
    *,
    weights: Any = None,
    method: str = "exact",
    actions: Any = None,
    block_size: int | None = None,
) -> Any:
    """F v for F = Σ_i w_i E_{a ~ π(· | s_i)}[ψ ψᵀ], or F = Σ_i w_i ψ_i ψ_iᵀ with the actions taken.

    "exact" takes the expectation over actions in closed form, as the directional derivative along v of the gradient of
    Σ_i w_i KL(π_θ(· | s_i) ‖ π_θ'(· | s_i)) in θ', at θ' = θ. It needs `kl_divergence` of the policy's distributions.
    "empirical" has the same mean where the actions are the policy's, and more noise. Both are positive semidefinite.
    They run over blocks of steps: beside the steps themselves, memory is that of one block.

    Args:
      policy: without memory.
      observations: pytree of arrays [n, …].
      vector: v, a pytree like params.
      weights: [n] w_i ≥ 0; None: 1/n each, the mean. Steps of weight 0 are left out, whatever they hold.
      method: "exact" or "empirical".
      actions: pytree of arrays [n, …], for "empirical".
      block_size: steps of a block.
    Returns:
      F v, a pytree like `vector`.
    """
    if _check.instance("policy", policy, Policy).initial_carry is not None:
        raise ValueError("policy has a memory (initial_carry); fisher_vector_product takes policies without one")
    _check.named("method", method, ("exact", "empirical"))
    if (actions is None) == (method == "empirical"):
        raise ValueError(f"actions must be given for method='empirical', and only then; got method={method!r}")
    n = _num_steps(observations, actions, weights)
    block_size = min(_check.count_or("block_size", block_size, default("block_size")), n)
    shapes, expected = (jax.tree.map(jnp.shape, tree) for tree in (vector, params))
    if shapes != expected:
        raise ValueError(f"vector must be a pytree of arrays like params, {expected}; got {shapes}")
    vector = jax.tree.map(jnp.asarray, vector)
    tangent = jax.tree.map(lambda v, p: v.astype(jnp.result_type(p)), vector, params)
    weights = jnp.full(n, 1 / n, float_dtype()) if weights is None else jnp.asarray(weights, float_dtype())
    places, num_used = jnp.nonzero(weights, size=n, fill_value=0)[0], jnp.sum(weights != 0, dtype=jnp.int32)
    term = _exact_term if method == "exact" else _empirical_term
    index = jnp.arange(block_size, dtype=jnp.int32)

    def body(state):
        start, total, _ = state
        # A last block is filled up by repetition: what other rows hold may have no finite derivatives.
        rows = places[jnp.minimum(start + index, num_used - 1)]
        observed, taken = jax.tree.map(lambda x: jnp.asarray(x)[rows], (observations, actions))
        factors = jnp.where(start + index < num_used, weights[rows], 0.0)
        product = term(policy, params, tangent, observed, taken, factors)
        total = jax.tree.map(lambda s, x: s + x.astype(s.dtype), total, product)
        return start + block_size, total, any_member(start + block_size < num_used)

    state = (jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, vector), any_member(num_used > 0))
    return jax.lax.while_loop(lambda state: state[2], body, state)[1]


def solve(
    matrix_vector_product: Callable[[Any], Any],
    gradient: Any,
    *,
    damping: Any = 1e-3,
    iterations: int = 10,
    tolerance: Any = 1e-6,
) -> Solution:
    """(F + λI)⁻¹ g by conjugate gradients (Hestenes & Stiefel, 1952).

    Args:
      matrix_vector_product: v -> F v on pytrees like `gradient`, F symmetric and positive semidefinite.
      gradient: g.
      damping: λ ≥ 0. With λ = 0 the result is F⁻¹ g, or F⁺ g for a singular F whose range g lies in; for any other g
        there is no solution, and what comes back has a large residual.
      iterations: the most conjugate-gradient steps; without rounding, as many as F has distinct eigenvalues are enough.
      tolerance: stop at this relative residual, above 0.
    """
    _check.callable_("matrix_vector_product", matrix_vector_product, "v -> F v")
    _check_solver(damping, iterations, tolerance)
    dtype = jnp.result_type(jnp.float32, *jax.tree.leaves(gradient))
    wide = jax.tree.map(lambda g: jnp.asarray(g, dtype), gradient)
    # Solved for g / max |g|: the squares of a tiny gradient would underflow.
    scale = functools.reduce(jnp.maximum, [jnp.max(jnp.abs(g)) for g in jax.tree.leaves(wide)])
    scaled = jax.tree.map(lambda g: g / jnp.where(scale == 0, 1, scale), wide)

    def product(vector):
        image = matrix_vector_product(vector)
        expected, found = (jax.tree.map(jnp.shape, tree) for tree in (vector, image))
        if found != expected:
            raise ValueError(f"matrix_vector_product must give a pytree like gradient, {expected}; got {found}")
        return jax.tree.map(lambda x: jnp.asarray(x, dtype), image)

    def damped(image, vector):
        return jax.tree.map(lambda f, v: f + jnp.asarray(damping, dtype) * v, image, vector)

    x = _conjugate_gradients(lambda v: damped(product(v), v), scaled, tolerance, iterations)
    image = product(x)
    error = jax.tree.map(jnp.subtract, scaled, damped(image, x))
    norm = jnp.sqrt(_dot(scaled, scaled))
    return Solution(
        direction=jax.tree.map(lambda x, g: (scale * x).astype(jnp.result_type(g)), x, gradient),
        residual=jnp.sqrt(_dot(error, error)) / jnp.where(norm == 0, 1, norm),
        quadratic_form=scale**2 * _dot(x, image),
    )


def _conjugate_gradients(product: Callable[[Any], Any], target: Any, tolerance: Any, iterations: int) -> Any:
    """x with A x = b from 0, until ‖b − A x‖ ≤ tolerance ‖b‖.

    A loop of its own: `jax.scipy.sparse.linalg.cg` in a scanned update under `vmap` has been seen to diverge, on
    problems that it solves in the same update without the scan or without `vmap`.
    """
    enough = tolerance**2 * _dot(target, target)

    def plus(first, factor, second):
        return jax.tree.map(lambda a, b: a + factor.astype(a.dtype) * b, first, second)

    def step(state):
        x, residual, direction, square, count = state
        image = product(direction)
        length = square / _dot(direction, image)
        x, residual = plus(x, length, direction), plus(residual, -length, image)
        after = _dot(residual, residual)
        return x, residual, plus(residual, after / square, direction), after, count + 1

    start = (jax.tree.map(jnp.zeros_like, target), target, target, _dot(target, target), jnp.zeros((), jnp.int32))
    return jax.lax.while_loop(lambda state: (state[3] > enough) & (state[4] < iterations), step, start)[0]


def natural_gradient(
    env: Environment,
    policy: Policy,
    *,
    num_episodes: int | str,
    num_fisher_episodes: int | None = None,
    weight: Weight | None = None,
    baseline: Baseline | None = None,
    damping: Any = 1e-3,
    iterations: int = 10,
    tolerance: Any = 1e-6,
    fisher: str = "exact",
    discounted: bool = False,
    **options: Any,
) -> Callable[[Any, Any], NaturalGradient]:
    """Builds (key, params) -> NaturalGradient, x = (F̂ + λI)⁻¹ ĝ with ĝ the estimate of `policy_gradient`.

    F̂ is the mean over episodes of Σ_t ψ_t ψ_tᵀ, or of Σ_t γ^t ψ_t ψ_tᵀ, and estimates `FiniteMDP.fisher(discounted=…)`;
    x estimates `FiniteMDP.natural_gradient(damping=λ, discounted=…)`. F sums over the steps of an episode: longer
    episodes have a larger one, which wants a larger λ. x is consistent, with a bias of order 1/N like any ratio. F is
    singular for a softmax over logits, where λ = 0 gives the pseudo-inverse; ĝ is then sure to lie in the range of F̂
    only if both are from the same episodes. The function goes under `jit` and `vmap` as that of `policy_gradient`.

    Args:
      env, policy, num_episodes, weight, baseline: as for `policy_gradient`.
      num_fisher_episodes: M, the episodes F̂ is estimated from: those that `key` names 0 … M − 1 under independent
        sampling, and so the first M of the gradient's N. All their steps are kept in memory, M × env.max_steps of
        them (see `rollout.collect`). Default: N, or as many as fit into 256 MiB.
      damping: λ ≥ 0.
      iterations, tolerance: of conjugate gradients, as in `solve`.
      fisher: "exact" or "empirical", as `method` in `fisher_vector_product`.
      discounted: give step t the factor γ^t in F, γ that of the weight. (Whether ĝ has it is the weight's business.)
      options: further arguments of `policy_gradient`. F̂ does not look at `mesh`, `sampling` and `behavior`: its
        episodes are independent ones, played by `policy` on one device.
    Raises:
      ValueError, TypeError: as `policy_gradient`; for M episodes that do not fit; without M for num_episodes="auto".
    """
    weight = weight_functions.reward_to_go(discount=0.99) if weight is None else weight
    gradient = policy_gradient(env, policy, num_episodes=num_episodes, weight=weight, baseline=baseline, **options)
    fisher_episodes = _check.optional(_check.count, "num_fisher_episodes", num_fisher_episodes)
    fisher_episodes = fisher_episodes or _default_fisher_episodes(env, num_episodes)
    _check.named("fisher", fisher, ("exact", "empirical"))
    if not isinstance(discounted, bool):
        raise TypeError(f"discounted must be True or False; got {discounted!r}")
    _check_solver(damping, iterations, tolerance)

    @jax.jit
    def precondition(key: jax.Array, params: Any, ascent: Any) -> tuple[Solution, jax.Array]:
        observations, actions, step_weights = _fisher_steps(
            env, policy, params, key, fisher_episodes, weight.discount if discounted else 1.0, options.get("num_lanes")
        )
        taken, block_size = actions if fisher == "empirical" else None, options.get("block_size")

        def product(vector: Any) -> Any:
            return fisher_vector_product(
                policy, params, observations, vector,
                weights=step_weights, method=fisher, actions=taken, block_size=block_size,
            )  # fmt: skip

        solution = solve(product, ascent, damping=damping, iterations=iterations, tolerance=tolerance)
        return solution, jnp.sum(step_weights)

    def natural(key: Any, params: Any) -> NaturalGradient:
        estimate = gradient(key, params)
        solution, steps = precondition(key, params, estimate.gradient)
        return NaturalGradient(solution.direction, estimate, solution.residual, solution.quadratic_form, steps)

    return natural


def _exact_term(policy: Policy, params: Any, tangent: Any, observations: Any, actions: Any, weights: jax.Array) -> Any:
    """Σ_i w_i E[ψ ψᵀ] v of a block: the KL divergence to θ', differentiated twice in θ'; its first θ stays fixed."""
    del actions

    def divergence(other: Any) -> jax.Array:
        def at(observation):
            distribution = policy.apply(params, observation)
            if not hasattr(distribution, "kl_divergence"):
                raise TypeError(
                    f"policy must give distributions with kl_divergence for the exact Fisher information; "
                    f"{type(distribution).__name__} has none: take the empirical one"
                )
            return distribution.kl_divergence(policy.apply(other, observation))

        return jnp.sum(weights * jax.vmap(at)(observations))

    return jax.jvp(jax.grad(divergence), (params,), (tangent,))[1]


def _empirical_term(
    policy: Policy, params: Any, tangent: Any, observations: Any, actions: Any, weights: jax.Array
) -> Any:
    """Σ_i w_i ψ_i (ψ_iᵀ v) of a block."""

    def log_probs(params: Any) -> jax.Array:
        return jax.vmap(lambda s, a: policy.apply(params, s).log_prob(a))(observations, actions)

    values, along = jax.jvp(log_probs, (params,), (tangent,))
    return jax.vjp(log_probs, params)[1]((weights * along).astype(values.dtype))[0]


def _fisher_steps(
    env: Environment, policy: Policy, params: Any, key: Any, num_episodes: int, discount: Any, num_lanes: int | None
) -> tuple[Any, Any, jax.Array]:
    """Observations and actions [n, …] of episodes 0 … M − 1, and γ^t / M for each step; 0 for rows that are none."""
    sizes = {"num_episodes": num_episodes, "num_lanes": num_lanes}
    try:
        trajectory, _ = rollout.collect(env, policy, params, key, **sizes, final_rows=False)
    except ValueError as error:
        raise ValueError(f"num_fisher_episodes: the Fisher's episodes are kept in memory; {error}") from error
    discounts = jnp.asarray(discount, float_dtype()) ** trajectory.time
    step_weights = jnp.where(trajectory.valid, discounts, 0.0) / num_episodes
    steps = (trajectory.observation, trajectory.action, step_weights)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), steps)


def _default_fisher_episodes(env: Environment, num_episodes: int | str) -> int:
    """As many as the gradient has, if their steps fit into FISHER_BYTES."""
    if isinstance(num_episodes, str):
        raise ValueError("num_fisher_episodes must be given where num_episodes is 'auto'")
    bytes_per_step = 64 + row_bytes(check_structure(env).observation)  # 64: actions, rewards, flags.
    return max(min(num_episodes, FISHER_BYTES // (require_max_steps(env) * bytes_per_step)), 1)


def _check_solver(damping: Any, iterations: Any, tolerance: Any) -> None:
    _check.number("damping", damping, 0.0)
    _check.count("iterations", iterations)
    _check.positive("tolerance", tolerance)


def _dot(first: Any, second: Any) -> jax.Array:
    products = jax.tree.map(lambda a, b: jnp.vdot(a, b, precision="highest"), first, second)
    return sum(jax.tree.leaves(products), jnp.zeros(()))


def _num_steps(observations: Any, actions: Any, weights: Any) -> int:
    """n, the leading axis that all of them have."""
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves((observations, actions, weights))]
    n = shapes[0][0] if shapes and shapes[0] else 0
    if n == 0 or any(shape[:1] != (n,) for shape in shapes) or (weights is not None and shapes[-1] != (n,)):
        raise ValueError(f"observations, actions and weights must be [n, …], [n, …] and [n], n ≥ 1; got {shapes}")
    return n
