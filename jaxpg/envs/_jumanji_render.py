"""Pictures by jumanji's viewers, which draw on pyplot's figures and show them in windows: here off the screen."""

import contextlib
import copy
import importlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

__all__ = ["renderer"]

_DOTS_PER_INCH = 50  # The viewers' figures are ten inches wide.


def renderer(jumanji_env: Any) -> Callable[[Any], np.ndarray] | None:
    """A function of jumanji's state, or None where the environment has no viewer."""
    kind = importlib.import_module("jumanji.viewer").Viewer
    found = [(attribute, value) for attribute, value in vars(jumanji_env).items() if isinstance(value, kind)]
    if not found:
        return None
    attribute, viewer = found[0]

    def render(state: Any) -> np.ndarray:
        pictures = []

        def keep(figure: Any) -> None:
            figure.canvas.draw()
            pictures.append(np.array(figure.canvas.buffer_rgba())[..., :3])

        drawing, shown = copy.copy(viewer), copy.copy(jumanji_env)
        drawing._display = keep  # Some environments do not return what their viewer does.
        setattr(shown, attribute, drawing)
        with _off_screen():
            returned = shown.render(state)
        return np.asarray(pictures[-1] if pictures else returned, np.uint8)

    return render


@contextlib.contextmanager
def _off_screen() -> Iterator[None]:
    """pyplot draws into memory; its figures and settings are afterwards what they were."""
    import matplotlib
    from matplotlib import pyplot

    before, figures = matplotlib.get_backend(), set(pyplot.get_fignums())
    with matplotlib.rc_context({"figure.dpi": _DOTS_PER_INCH}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # That a figure in memory cannot be shown.
        pyplot.switch_backend("agg")
        try:
            yield
        finally:
            for figure in set(pyplot.get_fignums()) - figures:
                pyplot.close(figure)
            pyplot.switch_backend(before)
