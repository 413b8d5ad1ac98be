"""A drawing surface in world coordinates: x to the right, y upward, smooth edges by supersampling."""

import functools
from collections.abc import Sequence
from typing import Any

__all__ = ["COLORS", "Canvas"]

Point = tuple[float, float]

# Okabe & Ito's colours, which readers with any colour vision tell apart, and quiet neutrals.
COLORS = {
    "blue": "#0072B2", "orange": "#E69F00", "green": "#009E73", "vermillion": "#D55E00", "purple": "#CC79A7",
    "sky": "#56B4E9", "yellow": "#F0E442",
    "paper": "#FBFAF7", "ink": "#22303C", "muted": "#7B8794", "line": "#C9CED4", "fill": "#E4E7EB",
}  # fmt: skip

SUPERSAMPLING = 3


class Canvas:
    """A picture of `size` pixels showing the world from `left` to `right`, with y = `bottom` at its lower edge.

    Lengths and widths are in world units, except for text, whose size is in pixels of the finished picture.
    """

    def __init__(
        self, size: tuple[int, int], left: float, right: float, bottom: float, background: str = COLORS["paper"]
    ):
        from PIL import Image, ImageColor, ImageDraw

        self.size = size
        self._scale = size[0] * SUPERSAMPLING / (right - left)  # Drawn pixels per world unit.
        self._left, self._bottom = left, bottom
        self._image = Image.new("RGB", (size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING), background)
        self._draw = ImageDraw.Draw(self._image)
        self._texts: list[tuple[Any, ...]] = []
        self._is_dark = sum(ImageColor.getrgb(background)) < 3 * 128

    def picture(self) -> Any:
        """The finished picture, a PIL image in RGB."""
        from PIL import ImageDraw

        picture = self._image.reduce(SUPERSAMPLING)
        draw = ImageDraw.Draw(picture)
        for place, text, height, color, anchor in self._texts:
            draw.text(place, text, font=_font(height), fill=color, anchor=anchor)
        return picture

    def line(self, points: Sequence[Point], width: float, color: str) -> None:
        """A polyline with round joints and ends."""
        pixels, thickness = [self._pixel(p) for p in points], max(round(width * self._scale), 1)
        self._draw.line(pixels, fill=color, width=thickness, joint="curve")
        for end in (pixels[0], pixels[-1]):
            self._disk(end, thickness / 2, color)

    def polygon(self, points: Sequence[Point], color: str) -> None:
        self._draw.polygon([self._pixel(p) for p in points], fill=color)

    def circle(self, center: Point, radius: float, color: str) -> None:
        self._disk(self._pixel(center), radius * self._scale, color)

    def rectangle(self, lower_left: Point, upper_right: Point, color: str, rounding: float = 0.0) -> None:
        (x0, y1), (x1, y0) = self._pixel(lower_left), self._pixel(upper_right)
        self._draw.rounded_rectangle((x0, y0, x1, y1), rounding * self._scale, fill=color)

    def arc(self, center: Point, radius: float, start: float, end: float, width: float, color: str) -> None:
        """From angle `start` to `end`, in degrees counterclockwise from the x axis."""
        (x, y), r = self._pixel(center), radius * self._scale
        # PIL counts clockwise.
        self._draw.arc((x - r, y - r, x + r, y + r), -end, -start, fill=color, width=max(round(width * self._scale), 1))

    def arrow(self, tail: Point, tip: Point, width: float, color: str) -> None:
        """A straight arrow; its head is three times as wide as its shaft."""
        (x0, y0), (x1, y1) = tail, tip
        length = max(((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5, 1e-9)
        ux, uy = (x1 - x0) / length, (y1 - y0) / length
        head = min(2.4 * width, length)
        base = (x1 - ux * head, y1 - uy * head)
        if head < length:
            self.line([tail, base], width, color)
        aside_x, aside_y = -uy * head / 1.6, ux * head / 1.6
        self.polygon([tip, (base[0] + aside_x, base[1] + aside_y), (base[0] - aside_x, base[1] - aside_y)], color)

    def pixels(self, colors: Any, lower_left: Point, upper_right: Point) -> None:
        """An array [height, width, 3] of uint8, stretched over a rectangle."""
        from PIL import Image

        (x0, y1), (x1, y0) = self._pixel(lower_left), self._pixel(upper_right)
        size = (round(x1 - x0), round(y1 - y0))
        self._image.paste(Image.fromarray(colors).resize(size, Image.Resampling.NEAREST), (round(x0), round(y0)))

    def headline(self, left: str, right: str) -> None:
        """A line of text along the upper edge."""
        self.text((14, 12), left, 14, COLORS["paper" if self._is_dark else "ink"])
        self.text((self.size[0] - 14, 12), right, 12, COLORS["line" if self._is_dark else "muted"], "rt")

    def text(
        self, place: tuple[int, int], text: str, height: int, color: str = COLORS["ink"], anchor: str = "lt"
    ) -> None:
        """Text at a pixel of the finished picture, counted from its upper left; `anchor` as in PIL."""
        self._texts.append((place, text, height, color, anchor))

    def _pixel(self, point: Point) -> Point:
        return (point[0] - self._left) * self._scale, self._image.height - (point[1] - self._bottom) * self._scale

    def _disk(self, pixel: Point, radius: float, color: str) -> None:
        (x, y), r = pixel, max(radius, 0.5)
        self._draw.ellipse((x - r, y - r, x + r, y + r), fill=color)


@functools.cache
def _font(height: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(height)
