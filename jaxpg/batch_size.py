"""How many episodes a gradient needs: the noise scale, and the angle to the truth against the batch size.

With Σ the covariance of one episode's term, the mean of N of them has E‖ĝ_N‖² = ‖∇J‖² + tr Σ / N. The noise scale
B = tr Σ / ‖∇J‖² is the N at which noise and signal are equal (McCandlish et al., 2018, "simple" noise scale): far below
it a doubled batch nearly halves the error's square relative to the step's, far above it is waste.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg import _check
from jaxpg._estimate import GradientEstimate
from jaxpg._show import compact

__all__ = ["NoiseScale", "cosine_similarity_curve", "noise_scale", "required_episodes", "two_batch_noise_scale"]


class NoiseScale(NamedTuple):
    """The noise of one episode's gradient against the signal.

    Fields:
      noise_scale: tr Σ / ‖∇J‖², in episodes; infinite where no signal is seen.
      squared_norm: ‖∇J‖², estimated without bias, so it may come out below 0.
      trace: tr Σ, likewise.
      squared_norm_error, trace_error: their standard errors over replicates; NaN without replicates.
    """

    noise_scale: jax.Array
    squared_norm: jax.Array
    trace: jax.Array
    squared_norm_error: jax.Array
    trace_error: jax.Array

    __repr__ = compact


def noise_scale(estimate: GradientEstimate) -> NoiseScale:
    """The noise scale from the spread within a batch: ‖∇J‖² ≈ ‖ĝ‖² − tr Σ̂ / N.

    Args:
      estimate: a `GradientEstimate`; or one of independent replicates, as `jax.vmap` over keys gives it, whose signal
        and noise are averaged before the ratio is taken, since a mean of ratios is biased.
    """
    estimate = _check.instance("estimate", estimate, GradientEstimate)
    return _over_replicates(
        estimate.gradient_norm**2 - estimate.trace, estimate.trace * estimate.num_episodes.astype(estimate.trace.dtype)
    )


def two_batch_noise_scale(
    small: Any, large: Any, num_small: Any = None, num_large: Any = None, *, replicated: bool = False
) -> NoiseScale:
    """The noise scale from gradients of two batch sizes n < N, which needs nothing but the gradients:

        ‖∇J‖² ≈ (N ‖ĝ_N‖² − n ‖ĝ_n‖²) / (N − n),        tr Σ ≈ (‖ĝ_n‖² − ‖ĝ_N‖²) / (1/n − 1/N).

    Both are unbiased, also where the small batch is part of the large one (one device's share, say). A single pair is
    noisy: average over many.

    Args:
      small, large: gradients from n and from N episodes: pytrees of one structure, or `GradientEstimate`s.
      num_small, num_large: n and N; not needed for `GradientEstimate`s.
      replicated: the leaves have a leading axis of independent replicates (known for `GradientEstimate`s). Signal and
        noise are averaged over it before the ratio.
    Raises:
      ValueError: num_small is not below num_large, or `small` and `large` differ in structure.
    Source: McCandlish et al. (2018), appendix A.1.
    """
    (small, few, small_replicated), (large, many, large_replicated) = (
        _gradient_and_count(which, given, count, replicated)
        for which, given, count in (("small", small, num_small), ("large", large, num_large))
    )
    if _check.is_concrete(few) and _check.is_concrete(many) and not np.all(np.asarray(few) < np.asarray(many)):
        raise ValueError(f"num_small must be below num_large; got {few} and {many}")
    shapes = [[jnp.shape(leaf) for leaf in jax.tree.leaves(tree)] for tree in (small, large)]
    if jax.tree.structure(small) != jax.tree.structure(large) or shapes[0] != shapes[1]:
        raise ValueError(f"small and large must be gradients of one structure; got leaves {shapes[0]} and {shapes[1]}")
    if small_replicated != large_replicated:
        raise ValueError("small and large must both have replicates, or none; only one of them has")
    few, many = (jnp.asarray(count, jnp.result_type(float)) for count in (few, many))
    norm_small, norm_large = _squared_norm(small, small_replicated), _squared_norm(large, large_replicated)
    return _over_replicates(
        (many * norm_large - few * norm_small) / (many - few), (norm_small - norm_large) / (1 / few - 1 / many)
    )


def required_episodes(
    estimate: Any, target_snr: float | None = None, target_relative_error: float | None = None
) -> int | float:
    """How many episodes reach a signal-to-noise ratio, or a relative standard error, of the gradient: N = B · snr².

    ‖∇J‖ / √(tr Σ / N) = √(N / B), and the relative error √(tr Σ / N) / ‖∇J‖ is one over it. The answer is as good as
    the noise scale: check the estimate's own snr. With a baseline made of the other episodes tr Σ falls a little with
    N, and the answer is a little high.

    Args:
      estimate: a `GradientEstimate`, a `NoiseScale`, or the noise scale B itself, in episodes.
      target_snr, target_relative_error: one of the two, above 0.
    Returns:
      N, at least 1; infinity where the noise scale is infinite.
    """
    scale = _scale_of(estimate)
    if (target_snr is None) == (target_relative_error is None):
        raise ValueError("give target_snr or target_relative_error, one of the two")
    if target_snr is not None:
        squared = float(_check.positive("target_snr", target_snr)) ** 2
    else:
        squared = float(_check.positive("target_relative_error", target_relative_error)) ** -2.0
    return max(math.ceil(scale * squared * (1 - 1e-12)), 1) if math.isfinite(scale) else math.inf


def cosine_similarity_curve(
    env: Any,
    policy: Any,
    params: Any,
    key: Any,
    *,
    num_episodes: Any = (16, 64, 256, 1024),
    num_replicates: int = 64,
    truth: Any = None,
    reference_episodes: int = 1_000_000,
    **options: Any,
) -> Any:
    """The angle between ĝ_N and ∇J, against N: where the curve bends is where more episodes stop to pay.

    Args:
      env, policy, params, key: as for `jaxpg.compare`; runs on the host.
      num_episodes: batch sizes N, rising.
      num_replicates: estimates for each N, at least 4. Different N use different keys.
      truth, reference_episodes: as for `jaxpg.compare`.
      options: arguments of `policy_gradient`: `weight`, `baseline`, ….
    Returns:
      An `xarray.Dataset` over `num_episodes`: `cosine_similarity` (mean over replicates), `mean_squared_error`,
      `bias_squared`, `variance`, each with `…_error`, its standard error; `prediction` = 1 / √(1 + B/N) with the noise
      scale B = tr Σ / ‖∇J‖²; and `prediction_transverse`, the same with B_⊥, made of the noise across ∇J only. Noise
      along the gradient does not turn it, so for large N the second is right for any unbiased estimator; the two agree
      where there are many parameters. Attributes: `noise_scale`, `noise_scale_transverse`, the truth's.
    Raises:
      ValueError, TypeError: as `jaxpg.compare`.
    """
    from jaxpg.comparison import replicates as run
    from jaxpg.comparison.contest import labelled
    from jaxpg.comparison.moments import cosines, gradient_moments, mean_and_error

    sizes = _batch_sizes(num_episodes)
    num_replicates = _check.count("num_replicates", num_replicates, 4)
    key = run.check_problem(env, policy, params, key)
    functions = [run.gradient_function("options", env, policy, {**options, "num_episodes": size}) for size in sizes]
    exact = run.find_truth(
        env, policy, params, truth, jax.random.fold_in(key, 0), reference_episodes,
        lambda: run.common_discount({"": options}, None),
    )  # fmt: skip

    rows, traces, transverse = [], [], []
    direction = exact.gradient / (np.linalg.norm(exact.gradient) or 1.0)
    for number, (size, function) in enumerate(zip(sizes, functions, strict=True)):
        keys = jax.random.split(jax.random.fold_in(key, number + 1), num_replicates)
        gradients = run.replicates(f"num_episodes={size}", function, params, keys, size * (env.max_steps or 1))
        cosine, cosine_error = mean_and_error(cosines(gradients, exact.gradient))
        moments = gradient_moments(gradients, exact)
        rows.append({"cosine_similarity": cosine, "cosine_similarity_error": cosine_error, **moments._asdict()})
        traces.append(size * moments.variance)
        transverse.append(size * (moments.variance - float(np.var(gradients @ direction, ddof=1))))
    squared_norm = float(exact.gradient @ exact.gradient) - exact.squared_error
    scale, across = (float(np.mean(x)) / squared_norm if squared_norm > 0 else math.inf for x in (traces, transverse))
    columns = {name: [row[name] for row in rows] for name in rows[0] if name != "squared_errors"}
    columns["prediction"] = [1 / math.sqrt(1 + scale / size) for size in sizes]
    columns["prediction_transverse"] = [1 / math.sqrt(1 + across / size) for size in sizes]
    attributes = {
        "environment": env.name, "num_replicates": num_replicates, "noise_scale": scale,
        "noise_scale_transverse": across, "truth": exact.description, "truth_squared_norm": squared_norm,
        "truth_squared_error": exact.squared_error,
    }  # fmt: skip
    variables = {name: ("num_episodes", np.array(values)) for name, values in columns.items()}
    return labelled(variables, {"num_episodes": sizes}, attributes, _DESCRIPTIONS)


_DESCRIPTIONS = {
    "cosine_similarity": ("mean cosine of the angle between ĝ and ∇J", "1"),
    "mean_squared_error": ("E‖ĝ − ∇J‖²", "g²"),
    "bias_squared": ("‖E ĝ − ∇J‖², estimated without bias", "g²"),
    "variance": ("tr Cov(ĝ)", "g²"),
    "prediction": ("1 / √(1 + B/N), B the noise scale", "1"),
    "prediction_transverse": ("1 / √(1 + B/N), B of the noise across ∇J only", "1"),
}


def _over_replicates(squared_norm: jax.Array, trace: jax.Array) -> NoiseScale:
    """The record from one value of each, or from replicates, [R]."""

    def mean_and_error(x):
        # The check of ndim is static: under vmap an estimate is again a single one.
        if x.ndim == 0 or x.shape[0] < 2:
            return jnp.mean(x), jnp.full((), jnp.nan, x.dtype)
        return jnp.mean(x), jnp.std(x, ddof=1) / math.sqrt(x.shape[0])

    (norm, norm_error), (trace, trace_error) = mean_and_error(squared_norm), mean_and_error(trace)
    scale = jnp.where(jnp.isnan(trace), jnp.nan, jnp.maximum(trace, 0.0) / jnp.maximum(norm, 0.0))
    return NoiseScale(scale, norm, trace, norm_error, trace_error)


def _gradient_and_count(which: str, given: Any, count: Any, replicated: bool) -> tuple[Any, Any, bool]:
    """The gradient, its number of episodes, and whether it has replicates."""
    if isinstance(given, GradientEstimate):
        counts = given.num_episodes
        if count is None:
            # Of a vmapped estimate the counts are all the same; under jit they are traced, and so is the first.
            count = counts.ravel()[0]
        return given.gradient, count, counts.ndim == 1
    if count is None:
        raise ValueError(f"num_{which} must be given where {which} is not a GradientEstimate")
    return given, _check.number(f"num_{which}", count, 1.0), replicated


def _squared_norm(tree: Any, replicated: bool) -> jax.Array:
    """‖g‖², a scalar, or [R]."""
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    floats = jnp.result_type(float)
    return sum(
        (jnp.sum(leaf.astype(floats) ** 2, axis=tuple(range(int(replicated), leaf.ndim))) for leaf in leaves),
        jnp.zeros((), floats),
    )


def _scale_of(estimate: Any) -> float:
    if isinstance(estimate, GradientEstimate):
        estimate = noise_scale(estimate)
    scale = estimate.noise_scale if isinstance(estimate, NoiseScale) else estimate
    if not _check.is_concrete(scale):
        raise TypeError("estimate must be known values: the answer is a Python number; got tracers")
    if isinstance(scale, (bool, str)) or np.ndim(scale) or not np.issubdtype(np.asarray(scale).dtype, np.number):
        raise TypeError(
            f"estimate must be a GradientEstimate, a NoiseScale, or a noise scale; got {type(estimate).__name__}"
        )
    scale = float(scale)
    if math.isnan(scale) or scale < 0:
        raise ValueError(
            f"estimate must have a noise scale; got {scale:g} (one group of episodes tells nothing of the noise)"
        )
    return scale


def _batch_sizes(num_episodes: Any) -> list[int]:
    if np.ndim(num_episodes) != 1 or not len(num_episodes):
        raise TypeError(f"num_episodes must be a sequence of batch sizes, such as (16, 64, 256); got {num_episodes!r}")
    sizes = [_check.count(f"num_episodes[{place}]", size) for place, size in enumerate(num_episodes)]
    if any(a >= b for a, b in zip(sizes, sizes[1:])):
        raise ValueError(f"num_episodes must rise; got {sizes}")
    return sizes
