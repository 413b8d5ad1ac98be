"""Drawings of the classic-control environments from what the policy observes.

A drawing is (observation, action) -> Canvas; the action is the one taken in the observation, None in the last frame.
Geometry is that of the environments' default parameters, as gymnasium draws them.
"""

import math
from typing import Any

import numpy as np

from jaxpg.render_canvas import COLORS, Canvas

__all__ = ["acrobot", "cart_pole", "mountain_car", "mountain_car_continuous", "pendulum"]

SIZE = (480, 320)


def cart_pole(observation: np.ndarray, action: Any) -> Canvas:
    """(x, ẋ, θ, θ̇): θ = 0 is upright, positive to the right. An arrow shows the push; marks the limits x = ±2.4."""
    x, theta = float(observation[0]), float(observation[2])
    canvas = Canvas((480, 270), left=-2.7, right=2.7, bottom=-0.75)
    canvas.line([(-3.5, 0), (3.5, 0)], 0.02, COLORS["line"])
    for limit in (-2.4, 2.4):
        canvas.line([(limit, -0.08), (limit, 0.08)], 0.03, COLORS["vermillion"])
    for wheel in (-0.2, 0.2):
        canvas.circle((x + wheel, 0.09), 0.09, COLORS["ink"])
        canvas.circle((x + wheel, 0.09), 0.035, COLORS["fill"])
    canvas.rectangle((x - 0.36, 0.12), (x + 0.36, 0.42), COLORS["ink"], rounding=0.05)
    axle = (x, 0.4)
    tip = (x + math.sin(theta), axle[1] + math.cos(theta))
    canvas.line([axle, tip], 0.12, COLORS["orange"])
    canvas.circle(axle, 0.045, COLORS["paper"])
    if action is not None:
        side = 1 if int(action) == 1 else -1
        canvas.arrow((x + side * 0.46, 0.27), (x + side * 0.82, 0.27), 0.05, COLORS["blue"])
    return canvas


def pendulum(observation: np.ndarray, action: Any) -> Canvas:
    """(cos θ, sin θ, θ̇): θ = 0 is upright, positive counterclockwise. An arc shows the torque, full at ±2."""
    cosine, sine = float(observation[0]), float(observation[1])
    canvas = Canvas(SIZE, left=-2.25, right=2.25, bottom=-1.6)
    canvas.arc((0, 0), 1.15, 0, 360, 0.012, COLORS["fill"])
    canvas.line([(0, 1.1), (0, 1.2)], 0.03, COLORS["green"])
    tip = (-sine, cosine)
    canvas.line([(0, 0), tip], 0.2, COLORS["vermillion"])
    canvas.circle(tip, 0.05, COLORS["paper"])
    canvas.circle((0, 0), 0.06, COLORS["ink"])
    torque = 0.0 if action is None else float(np.clip(np.ravel(action)[0], -2.0, 2.0))
    if abs(torque) > 0.02:
        _turning_arrow(canvas, 0.42, torque / 2.0)
    return canvas


def _turning_arrow(canvas: Canvas, radius: float, share: float) -> None:
    """An arc from the top, 150 degrees long for a share of 1 (counterclockwise) or −1, with a head at its end."""
    end = 90 + 150 * share
    canvas.arc((0, 0), radius, min(90, end), max(90, end), 0.05, COLORS["blue"])
    angle, side = math.radians(end), math.copysign(1.0, share)
    outward = np.array([math.cos(angle), math.sin(angle)])
    onward = side * np.array([-outward[1], outward[0]])
    base = (radius - 0.025) * outward
    canvas.polygon(
        [tuple(base + 0.08 * outward), tuple(base - 0.08 * outward), tuple(base + 0.15 * onward)], COLORS["blue"]
    )


def acrobot(observation: np.ndarray, action: Any) -> Canvas:
    """(cos θ₁, sin θ₁, cos θ₂, sin θ₂, …): both 0 hang down, θ₂ relative to the first link. The goal is the line."""
    del action
    first = math.atan2(float(observation[1]), float(observation[0]))
    second = first + math.atan2(float(observation[3]), float(observation[2]))
    canvas = Canvas(SIZE, left=-3.6, right=3.6, bottom=-2.35)
    _dashed(canvas, y=1.0, left=-3.6, right=3.6, color=COLORS["green"])
    elbow = (math.sin(first), -math.cos(first))
    tip = (elbow[0] + math.sin(second), elbow[1] - math.cos(second))
    canvas.line([(0, 0), elbow], 0.2, COLORS["blue"])
    canvas.line([elbow, tip], 0.2, COLORS["sky"])
    for joint in ((0, 0), elbow):
        canvas.circle(joint, 0.07, COLORS["ink"])
    canvas.circle(tip, 0.07, COLORS["paper"])
    return canvas


def _dashed(canvas: Canvas, y: float, left: float, right: float, color: str) -> None:
    for x in np.arange(left, right, 0.2):
        canvas.line([(x, y), (x + 0.1, y)], 0.02, color)


def mountain_car(observation: np.ndarray, action: Any) -> Canvas:
    """(x, ẋ) on the hill y = sin 3x, goal at 0.5; actions 0, 1, 2 push left, not, right."""
    push = 0.0 if action is None else float(int(action) - 1)
    return _hill(float(observation[0]), push, goal=0.5)


def mountain_car_continuous(observation: np.ndarray, action: Any) -> Canvas:
    """(x, ẋ) on the hill y = sin 3x, goal at 0.45; the action is the push in [−1, 1]."""
    push = 0.0 if action is None else float(np.clip(np.ravel(action)[0], -1.0, 1.0))
    return _hill(float(observation[0]), push, goal=0.45)


def _height(x: Any) -> Any:
    return 0.36 * np.sin(3 * x)


def _hill(x: float, push: float, goal: float) -> Canvas:
    canvas = Canvas(SIZE, left=-1.25, right=0.65, bottom=-0.55)
    ground = np.linspace(-1.25, 0.65, 160)
    outline = [(float(p), float(_height(p))) for p in ground]
    canvas.polygon([*outline, (0.65, -1.0), (-1.25, -1.0)], COLORS["fill"])
    canvas.line(outline, 0.012, COLORS["muted"])
    foot = (goal, float(_height(goal)))
    canvas.line([foot, (goal, foot[1] + 0.17)], 0.009, COLORS["ink"])
    canvas.polygon([(goal, foot[1] + 0.17), (goal + 0.1, foot[1] + 0.13), (goal, foot[1] + 0.09)], COLORS["green"])

    along = np.array([1.0, 1.08 * math.cos(3 * x)])
    along /= np.linalg.norm(along)
    upward = np.array([-along[1], along[0]])

    def on_car(right: float, up: float) -> tuple[float, float]:
        place = np.array([x, _height(x)]) + right * along + up * upward
        return float(place[0]), float(place[1])

    body = [(-0.085, 0.028), (0.085, 0.028), (0.085, 0.06), (0.045, 0.066), (0.022, 0.1), (-0.05, 0.1), (-0.085, 0.064)]
    canvas.polygon([on_car(*corner) for corner in body], COLORS["vermillion"])
    canvas.polygon(
        [on_car(*corner) for corner in [(0.0, 0.07), (0.032, 0.07), (0.015, 0.091), (0.0, 0.091)]], COLORS["paper"]
    )
    for wheel in (-0.05, 0.05):
        canvas.circle(on_car(wheel, 0.026), 0.026, COLORS["ink"])
        canvas.circle(on_car(wheel, 0.026), 0.01, COLORS["fill"])
    if abs(push) > 0.02:
        start = math.copysign(0.105, push)
        canvas.arrow(on_car(start, 0.065), on_car(start + 0.12 * push, 0.065), 0.014, COLORS["blue"])
    return canvas
