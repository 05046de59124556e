"""The words that instructions are made of: colours, backgrounds, lights and styles, shared by all worlds and judges."""

from __future__ import annotations

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.14, 0.16),
    "orange": (0.96, 0.55, 0.12),
    "yellow": (0.96, 0.86, 0.20),
    "green": (0.20, 0.65, 0.27),
    "blue": (0.16, 0.36, 0.85),
    "purple": (0.55, 0.24, 0.72),
    "pink": (0.97, 0.58, 0.74),
    "white": (0.95, 0.95, 0.94),
}
"""Colour names and their sRGB values in [0, 1]."""

PLACES = ("left", "right")

LIGHTS: dict[str, tuple[float, float]] = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "above": (0.0, -1.0)}
"""Where light comes from: the direction towards the lamp in image coordinates (x right, y down)."""

TINTS: dict[str, tuple[float, float, float]] = {"warm": (1.14, 0.98, 0.74), "cold": (0.78, 0.96, 1.18)}
"""The colour of a light, as a factor per channel (its mean is about 1)."""

BACKGROUNDS = ("beach", "meadow", "night sky", "brick wall", "snowy hill", "desert", "wooden wall", "sunset")

STYLES = ("pencil sketch", "mosaic", "sepia photograph", "blueprint")
