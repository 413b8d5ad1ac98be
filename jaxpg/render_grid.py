"""Drawings of observations that are grids: numbers [height, width], or [height, width, channels] as in MinAtar."""

import colorsys
from typing import Any

import numpy as np

from jaxpg.envs.spaces import Box
from jaxpg.render_canvas import COLORS, Canvas

__all__ = ["grid_drawing"]

_SIDE = 320  # Pixels, about, of the longer side.
_ROUNDED = 12  # Pixels of a cell from which on cells are drawn apart.
_NIGHT, _CELL = "#16202B", "#1E2B38"
_CHANNELS = ("sky", "orange", "yellow", "vermillion", "purple", "green", "blue")


def grid_drawing(space: Any) -> Any:
    """(observation, action) -> Canvas for a space of grids, or None for other spaces.

    Three channels of uint8 are an RGB picture; other channels have a colour each, and the last one that is set in a
    cell is seen.
    """
    if not isinstance(space, Box) or len(space.shape) not in (2, 3) or min(space.shape[:2]) < 2:
        return None
    height, width = space.shape[:2]
    cell = max(_SIDE // max(height, width), 1)
    size = (max(width * cell + 32, _SIDE), height * cell + 60)
    left = (width - size[0] / cell) / 2  # The grid stands in the middle.
    is_rgb = space.shape[2:] == (3,) and np.dtype(space.dtype) == np.uint8

    def draw(observation: np.ndarray, action: Any) -> Canvas:
        del action
        colors = np.asarray(observation) if is_rgb else channel_colors(np.asarray(observation), space)
        canvas = Canvas(size, left=left, right=left + size[0] / cell, bottom=-16 / cell, background=_NIGHT)
        if cell < _ROUNDED:
            canvas.pixels(colors, (0, 0), (width, height))
            return canvas
        for row in range(height):
            for column in range(width):
                color = "#{:02x}{:02x}{:02x}".format(*colors[row, column])
                y = height - row
                canvas.rectangle((column + 0.04, y - 0.96), (column + 0.96, y - 0.04), color, rounding=0.12)
        return canvas

    return draw


def channel_colors(grid: np.ndarray, space: Box) -> np.ndarray:
    """Each cell's colour, uint8 [height, width, 3]: that of its last channel that is set.

    A value between the space's bounds mixes the channel's colour with the empty cell's; without bounds, all that is not
    0 is set.
    """
    grid = grid.reshape(*grid.shape[:2], -1).astype(float)
    low, high = (np.broadcast_to(bound, space.shape).reshape(grid.shape) for bound in (space.low, space.high))
    bounded = np.isfinite(low) & np.isfinite(high) & (high > low)
    span = np.where(bounded, high - low, 1.0)
    share = np.where(bounded, (grid - np.where(bounded, low, 0.0)) / span, grid != 0)
    share = np.clip(np.nan_to_num(share), 0.0, 1.0)
    palette = np.array([_channel_color(c) for c in range(grid.shape[2])])
    last = np.where(share > 0, np.arange(grid.shape[2]), 0).max(axis=2)
    strength = np.take_along_axis(share, last[..., None], axis=2)
    return np.round(strength * palette[last] + (1 - strength) * _from_hex(_CELL)).astype(np.uint8)


def _channel_color(channel: int) -> np.ndarray:
    """The colours of the first channels are Okabe & Ito's; further ones are light shades of hues that lie apart."""
    if channel < len(_CHANNELS):
        return _from_hex(COLORS[_CHANNELS[channel]])
    return 255.0 * np.array(colorsys.hls_to_rgb((0.13 + 0.382 * channel) % 1.0, 0.75, 0.6))


def _from_hex(color: str) -> np.ndarray:
    return np.array([int(color[k : k + 2], 16) for k in (1, 3, 5)], float)
