"""Densities in the plane, as functions that draw points from about -1 to 1, and the part that each belongs to."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Drawn = tuple[np.ndarray, np.ndarray]
"""Points (n, 2), float64, and the index of the part that each belongs to (n,): a moon, a ring, an arm, a square, …"""


def moons(n: int, random: np.random.Generator) -> Drawn:
    """Draw from two interleaved half circles."""
    part = random.integers(2, size=n)
    angle = np.pi * random.random(n)
    upper = np.stack([np.cos(angle) - 0.5, np.sin(angle) - 0.25], 1)
    return _blurred(np.where(part[:, None] == 0, upper, -upper) / 1.6, 0.04, random), part


def rings(n: int, random: np.random.Generator) -> Drawn:
    """Draw from three concentric circles with the same density along their lines."""
    radii = np.array([0.3, 0.6, 0.9])
    part = random.choice(3, size=n, p=radii / radii.sum())
    return _blurred(_polar(radii[part], 2 * np.pi * random.random(n)), 0.02, random), part


def spiral(n: int, random: np.random.Generator) -> Drawn:
    """Draw from two spiral arms, about evenly along their lines."""
    part = random.integers(2, size=n)
    radius = np.sqrt(random.uniform(0.02, 0.9, n))
    return _blurred(_polar(radius, 3 * np.pi * radius + np.pi * part), 0.02, random), part


def checkerboard(n: int, random: np.random.Generator) -> Drawn:
    """Draw uniformly from the eight dark squares of a board of four by four."""
    part = random.integers(8, size=n)
    row = part // 2
    column = 2 * (part % 2) + row % 2
    return (np.stack([column, row], 1) + random.random((n, 2))) / 2 - 1, part


def gaussians(n: int, random: np.random.Generator) -> Drawn:
    """Draw from eight normal distributions around a circle."""
    part = random.integers(8, size=n)
    return _blurred(_polar(np.full(n, 0.8), np.pi / 4 * part), 0.06, random), part


def pinwheel(n: int, random: np.random.Generator) -> Drawn:
    """Draw from five bent blades around the centre."""
    part = random.integers(5, size=n)
    along, across = 0.55 + 0.16 * random.standard_normal(n), 0.055 * random.standard_normal(n)
    turn = 2 * np.pi / 5 * part + 2.2 * along
    return _polar(along, turn) + _polar(across, turn + np.pi / 2), part


def darkness(picture: np.ndarray, n: int, random: np.random.Generator) -> np.ndarray:
    """Draw points (n, 2) from a grey image (side, side), with a density proportional to its darkness.

    The lightest pixel has density 0.
    """
    weight = picture.max() - picture.astype(np.float64)
    pixel = random.choice(weight.size, size=n, p=(weight / weight.sum()).ravel())
    row, column = np.divmod(pixel, picture.shape[1])
    x, y = column + random.random(n), row + random.random(n)
    return np.stack([2 * x / picture.shape[1] - 1, 1 - 2 * y / picture.shape[0]], 1)


DENSITIES: dict[str, Callable[[int, np.random.Generator], Drawn]] = {
    function.__name__: function for function in (moons, rings, spiral, checkerboard, gaussians, pinwheel)
}


def _polar(radius: np.ndarray, angle: np.ndarray) -> np.ndarray:
    return radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)


def _blurred(points: np.ndarray, deviation: float, random: np.random.Generator) -> np.ndarray:
    return points + deviation * random.standard_normal(points.shape)
