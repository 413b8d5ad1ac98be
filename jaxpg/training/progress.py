"""A live progress bar for runs and comparisons, drawn between compiled blocks."""

import math
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxpg.training._hosts import is_writer

__all__ = ["Progress", "title"]


class Progress:
    """Shows steps, steps per second, the newest returns and the remaining time; silent if not wanted.

    `title` says what is run, `total` how many steps; `taken` are those that were done before, where a run goes on: they
    do not count for the speed. What is counted in something else than steps is told by `show`.
    """

    def __init__(self, title: str, total: int, wanted: bool | None, taken: int = 0):
        self._bar: Any = None
        self._total, self._before = total, taken
        self._start = time.perf_counter()
        self._return = "no episode has ended yet"
        if is_writer() and (sys.stderr.isatty() if wanted is None else wanted):
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress

            self._bar = RichProgress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[status]}", markup=False),
                TimeRemainingColumn(compact=True),
                console=Console(stderr=True),
                refresh_per_second=4,
            )
            self._task = self._bar.add_task(title, total=total, completed=min(taken, total), status="compiling")

    def __enter__(self) -> "Progress":
        if self._bar is not None:
            from rich.errors import LiveError

            try:
                self._bar.start()
            except LiveError:  # Something else is drawn already, and older versions of rich draw one thing at a time.
                self._bar = None
        return self

    def __exit__(self, *_: Any) -> None:
        if self._bar is not None:
            self._bar.stop()

    def note(self, text: str) -> None:
        """Prints a line above the bar."""
        if self._bar is not None:
            self._bar.console.print(text, style="dim", highlight=False, markup=False)

    def update(
        self,
        taken: int,
        blocks: Sequence[Mapping[str, np.ndarray]],
        evaluation: Mapping[str, float] | None = None,
    ) -> None:
        """`taken` steps are done; `blocks` hold the metrics, `evaluation` the newest evaluation's."""
        if self._bar is None:
            return
        returns = blocks[-1]["episode_return"] if blocks else np.empty(0)
        finished = returns[~np.isnan(returns)]
        if finished.size:
            self._return = f"return {finished[-1]:.1f}"
        rate = (taken - self._before) / max(time.perf_counter() - self._start, 1e-9)
        evaluated = "" if evaluation is None else f" · evaluated {evaluation['episode_return']:.1f}"
        self.show(
            taken, f"{_short(taken)} / {_short(self._total)} steps · {_short(rate)}/s · {self._return}{evaluated}"
        )

    def show(self, done: float, status: str) -> None:
        """`done` of the total are done; `status` stands behind the bar."""
        if self._bar is not None:
            self._bar.update(self._task, completed=min(done, self._total), status=status)


def title(algorithm: Any) -> str:
    """`ppo CartPole-v1`."""
    return f"{algorithm.name} {algorithm.env.name if algorithm.env is not None else ''}".strip()


def _short(number: float) -> str:
    """1234567 -> '1.23M'."""
    number = float(f"{number:.3g}")  # Rounded first: 999,999 is 1M.
    power = min(int(math.log10(max(number, 1)) // 3), 3)
    return f"{number / 1000**power:.3g}{['', 'k', 'M', 'G'][power]}"
