"""The last parameters of a sweep's runs."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxpg.sweeps._batch import Results
from jaxpg.sweeps._dataset import labels
from jaxpg.sweeps.points import Points, plain, same

__all__ = ["RunParams"]


class RunParams:
    """`params(seed=3, learning_rate=1e-3)` are a run's last parameters; samples are chosen by `sample=`.

    `stacked()` has those of all runs, leaves [seed, hyperparameters…, …], where their shapes are the same.
    """

    def __init__(
        self, points: Points, seeds: Sequence[int], played: Sequence[tuple[list[tuple[int, int, int]], Results]]
    ):
        self._points, self._seeds = points, tuple(seeds)
        self._places = {
            (setting, seed): (results.params, column)
            for runs, results in played
            for column, setting, seed in runs
            if results.finished[column]
        }

    def __call__(self, *, seed: int, **setting: Any) -> Any:
        """The parameters of one run.

        Raises:
          ValueError: if there is no such run; what there is is listed.
        """
        seed = plain(seed)
        if seed not in self._seeds:
            raise ValueError(f"seed must be one of {list(self._seeds)}; got {seed!r}")
        return self._of(self._setting(setting), self._seeds.index(seed))

    def stacked(self) -> Any:
        """The parameters of all runs.

        Raises:
          ValueError: if their shapes differ.
        """
        trees = [self._of(i, j) for j in range(len(self._seeds)) for i in range(len(self._points.settings))]
        kinds = {str(jax.tree.map(lambda x: (x.shape, str(x.dtype)), tree)) for tree in trees}
        if len(kinds) > 1:
            raise ValueError("the parameters of the runs have different shapes: take them one by one")

        def stack(*leaves: np.ndarray) -> np.ndarray:
            return np.stack(leaves).reshape(len(self._seeds), *self._points.shape, *leaves[0].shape)

        return jax.tree.map(stack, *trees)

    def _of(self, setting: int, seed: int) -> Any:
        if (setting, seed) not in self._places:
            raise ValueError(
                f"the run of seed {self._seeds[seed]} with {self._points.settings[setting]} is not finished"
            )
        params, column = self._places[setting, seed]
        return jax.tree.map(lambda x: x[column], params)

    def _setting(self, wanted: dict[str, Any]) -> int:
        settings, axes = self._points.settings, self._points.axes
        wanted = {name: plain(value) for name, value in wanted.items()}
        if axes is None:
            sample = wanted.get("sample")
            if set(wanted) != {"sample"} or not isinstance(sample, int) or not 0 <= sample < len(settings):
                raise ValueError(f"the runs are those of samples: give sample=0 … {len(settings) - 1}; got {wanted}")
            return sample
        if set(wanted) != set(self._points.names):
            raise ValueError(f"give each of {['seed', *self._points.names]}; got {['seed', *wanted]}")
        places = [self._place(name, wanted[name], values) for name, values in axes.items()]
        return int(np.ravel_multi_index(places, self._points.shape)) if places else 0

    def _place(self, name: str, wanted: Any, values: Sequence[Any]) -> int:
        """Where the value is on its axis: itself, an equal one, or its name in the dataset."""
        for alike in (lambda value, text: value is wanted, lambda value, text: same(value, wanted),
                      lambda value, text: isinstance(wanted, (int, float)) and _is_close(value, wanted),
                      lambda value, text: isinstance(wanted, str) and str(text) == wanted):  # fmt: skip
            for i, (value, text) in enumerate(zip(values, labels(values).tolist())):
                if alike(value, text):
                    return i
        raise ValueError(f"{name} must be one of {labels(values).tolist()}; got {wanted!r:.80}")


def _is_close(value: Any, wanted: float) -> bool:
    """Whether a number was the other one before it was rounded to float32."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and bool(np.isclose(value, wanted, 1e-6, 0))
