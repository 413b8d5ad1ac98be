"""The noise of gradient estimates against the number of their episodes."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxpg import _check
from jaxpg._estimate import GradientEstimate
from jaxpg.plot.style import LINE_STYLES, axes_or_own, legend_above, short
from jaxpg.render_canvas import COLORS

__all__ = ["snr_against_batch_size"]

QUANTITIES = {"snr": "gradient signal-to-noise ratio", "noise_scale": "noise scale B (episodes)"}


GUIDE: dict[str, Any] = {"linewidth": 0.8, "linestyle": (0, (1, 2))}


class _Batch(NamedTuple):
    """The estimates of one size: N, ‖∇J‖² and tr Σ / N averaged over them, and those of each, [estimate]."""

    num_episodes: int
    signal: float
    noise: float
    signals: np.ndarray
    noises: np.ndarray


def snr_against_batch_size(
    estimates: Any, *, quantity: str = "snr", guide: bool = True, show_estimates: bool = True, ax: Any = None
) -> Any:
    """Signal to noise of a gradient against the number of episodes N, on log axes: it grows as √(N / B).

        snr = ‖∇J‖ / √(tr Σ / N),        B = tr Σ / ‖∇J‖²  (the noise scale; McCandlish et al., 2018)

    Of several estimates of one N (or replicates, from `jax.vmap` over keys) signal and noise are averaged before the
    ratio is taken. The guide is √(N / B) with the B of the largest batch that saw a signal, whose own is known best.
    Estimates that see no signal (‖ĝ‖² below its noise) have no place on a log axis: they are triangles at its edge.

    Args:
      estimates: `GradientEstimate`s of different `num_episodes`; or label -> such, at most 8.
      quantity: "snr", or "noise_scale", which is constant where the estimates are right.
      guide: draw √(N / B), or the constant B; the legend has its value in any case.
      show_estimates: draw the single estimates behind an average, too.
      ax: matplotlib axes to draw on; None makes some.
    Returns:
      The axes.
    Raises:
      TypeError: what is not an estimate.
      ValueError: no estimates, too many labels, or estimates without a variance (of one group of episodes).
    """
    _check.named("quantity", quantity, QUANTITIES)
    series = _series(estimates)
    own = ax is None
    with axes_or_own(ax) as ax:
        ax.set_xscale("log")
        ax.set_yscale("log")
        all_sizes = {batch.num_episodes for batches in series.values() for batch in batches}
        if len(all_sizes) == 1:  # No range to take the axis from.
            ax.set_xlim(0.5 * min(all_sizes), 2.0 * min(all_sizes))
        unseen = []
        for style, (label, batches) in zip(LINE_STYLES, series.items()):
            sizes = np.array([batch.num_episodes for batch in batches])
            values = _value(quantity, sizes, *np.array([batch[1:3] for batch in batches]).T)
            seen = np.isfinite(values) & (values > 0)
            unseen += list(sizes[~seen])
            if show_estimates:
                _draw_each(ax, quantity, batches, style["color"])
            if seen.any():
                scale = _draw_guide(ax, quantity, batches[np.flatnonzero(seen)[-1]], sizes, style["color"], guide)
                label = f"{label} ({scale})"
            ax.plot(
                sizes[seen], values[seen], markersize=3.5, linewidth=1.2, zorder=4, markeredgecolor="white",
                markeredgewidth=0.5, label=label, **style,
            )  # fmt: skip
        if unseen:
            edge, marker = (0.0, "v") if quantity == "snr" else (1.0, "^")
            ax.plot(
                unseen, [edge] * len(unseen), marker, color=COLORS["ink"], markersize=4, clip_on=False, zorder=5,
                transform=ax.get_xaxis_transform(), label="no signal seen", linestyle="none",
            )  # fmt: skip
        if quantity == "snr":
            ax.axhline(1.0, color=COLORS["muted"], linewidth=0.7, zorder=1)
        if guide and quantity == "snr":
            ax.plot([], [], color=COLORS["muted"], **GUIDE, label="√(N / B)")
        _ticks(ax, all_sizes)
        ax.set_xlabel("episodes N")
        ax.set_ylabel(QUANTITIES[quantity])
        legend_above(ax, grow=own)
    return ax


def _series(estimates: Any) -> dict[str, list[_Batch]]:
    """label -> batches, by rising N."""
    if isinstance(estimates, Mapping):
        if not 0 < len(estimates) <= len(LINE_STYLES):
            raise ValueError(f"estimates must have 1 to {len(LINE_STYLES)} labels; got {len(estimates)}")
        return {str(label): _batches(f"estimates[{label!r}]", given) for label, given in estimates.items()}
    return {"estimates": _batches("estimates", estimates)}


def _batches(argument: str, estimates: Any) -> list[_Batch]:
    if isinstance(estimates, GradientEstimate):
        estimates = [estimates]  # Itself a tuple.
    if not isinstance(estimates, Iterable):
        raise TypeError(f"{argument} must be GradientEstimates; got {type(estimates).__name__}")
    found: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
    for place, estimate in enumerate(estimates):
        estimate = _check.instance(f"{argument}[{place}]", estimate, GradientEstimate)
        noise = np.ravel(np.asarray(estimate.trace, float))
        signal = np.ravel(np.asarray(estimate.gradient_norm, float)) ** 2 - noise
        if not np.isfinite(noise).all():
            raise ValueError(
                f"{argument}[{place}] must have a finite variance; got trace={estimate.trace} (one group of episodes "
                f"tells nothing of the noise)"
            )
        size = int(np.ravel(estimate.num_episodes)[0])
        found.setdefault(size, []).append((signal, noise))
    if not found:
        raise ValueError(f"{argument} must hold at least one GradientEstimate; got none")
    batches = []
    for size in sorted(found):
        signals, noises = (np.concatenate(parts) for parts in zip(*found[size]))
        batches.append(_Batch(size, float(signals.mean()), float(noises.mean()), signals, noises))
    return batches


def _value(quantity: str, num_episodes: Any, signal: Any, noise: Any) -> np.ndarray:
    """The ratio, or N times one over its square; 0 and infinity where no signal is seen."""
    signal = np.maximum(signal, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.sqrt(signal / noise) if quantity == "snr" else num_episodes * noise / signal


def _draw_each(ax: Any, quantity: str, batches: list[_Batch], color: str) -> None:
    several = [batch for batch in batches if len(batch.signals) > 1]
    if not several:
        return
    x = np.concatenate([np.full(len(batch.signals), batch.num_episodes) for batch in several])
    y = np.concatenate([_value(quantity, batch.num_episodes, batch.signals, batch.noises) for batch in several])
    shown = np.isfinite(y) & (y > 0)
    ax.plot(x[shown], y[shown], "o", color=color, markersize=2, alpha=0.35, markeredgewidth=0, zorder=2)


def _draw_guide(ax: Any, quantity: str, batch: _Batch, sizes: np.ndarray, color: str, draw: bool) -> str:
    """Draws the curve that this batch's noise scale predicts, and says what that is."""
    scale = float(_value("noise_scale", batch.num_episodes, batch.signal, batch.noise))
    ends = np.array([sizes[0], sizes[-1]], float)
    if draw:
        ax.plot(ends, np.sqrt(ends / scale) if quantity == "snr" else np.full(2, scale), color=color, zorder=1, **GUIDE)
    return f"B = {short(float(f'{scale:.3g}'))}"


def _ticks(ax: Any, sizes: set[int]) -> None:
    """The batch sizes themselves, where they are few; on the other axis 2s and 5s where it has few powers of ten."""
    from matplotlib.ticker import LogLocator, NullFormatter

    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(lambda value, _: short(value))
        axis.set_minor_formatter(NullFormatter())
    if len(sizes) <= 6:
        ax.set_xticks(sorted(sizes), [f"{size:,}" for size in sorted(sizes)])
        ax.set_xticks([], minor=True)
    low, high = ax.get_ylim()
    if high < 100 * low:
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
