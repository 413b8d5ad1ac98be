"""Figures for papers: matplotlib axes in and out, colours for readers with any colour vision.

`learning_curves` draws the seeds of one setting; `sweep_curves`, `heatmap` and `sensitivity` draw the datasets of
sweeps, `performance_profiles` scores over tasks, `snr_against_batch_size` the noise of gradients and `return_landscape`
the objective around parameters. Each takes `ax=None`, which makes axes of a paper column's width, and gives them back.
"""

from jaxpg.plot.curves import learning_curves, mean_and_interval, on_common_steps
from jaxpg.plot.gradients import snr_against_batch_size
from jaxpg.plot.heatmaps import heatmap
from jaxpg.plot.landscapes import return_landscape
from jaxpg.plot.profiles import performance_profiles
from jaxpg.plot.sensitivities import sensitivity
from jaxpg.plot.style import PAPER_STYLE, paper_figure, paper_style
from jaxpg.plot.sweeps import sweep_curves

__all__ = [
    "PAPER_STYLE",
    "heatmap",
    "learning_curves",
    "mean_and_interval",
    "on_common_steps",
    "paper_figure",
    "paper_style",
    "performance_profiles",
    "return_landscape",
    "sensitivity",
    "snr_against_batch_size",
    "sweep_curves",
]
