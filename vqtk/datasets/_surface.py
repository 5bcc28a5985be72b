"""The voxels that a surface of triangles passes through, found exactly rather than by sampling points."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

_AT_ONCE = 300_000
"""The number of candidate voxels that are tested together, which bounds the memory."""
_TOLERANCE = 1e-9
"""In voxels: a triangle that touches a voxel within this distance passes through it."""
_SLIVER = 1e-9
"""Triangles thinner than this fraction of their length have no reliable plane and are left out."""


def surface_voxels(triangles: np.ndarray, size: int) -> np.ndarray:
    """Mark the voxels that triangles pass through.

    Along the axis that a triangle faces, its plane crosses at most three voxels of each column that its outline
    overlaps; these are tested against its outlines along the other two axes. A triangle overlaps a box exactly if their
    bounds, the plane and the three outlines do.

    Shapes: corners (t, 3, 3) in voxels, from 0 to `size` → (size, size, size), bool.
    Source: the separating planes of Schwarz and Seidel 2010.
    """
    marked = np.zeros((size,) * 3, dtype=bool)
    edges = np.roll(triangles, -1, axis=1) - triangles
    normals = np.cross(edges[:, 0], edges[:, 1])
    longest = (edges**2).sum(2).max(1, initial=0)
    kept = np.abs(normals).max(1, initial=0) > _SLIVER * np.maximum(longest, _TOLERANCE)
    triangles, normals = triangles[kept], normals[kept]

    # Rotate the axes so that the one which the triangle faces comes last.
    order = (np.abs(normals).argmax(1)[:, None] + np.array([1, 2, 0])) % 3
    triangles = np.take_along_axis(triangles, order[:, None], axis=2)
    normals = np.take_along_axis(normals, order, axis=1)
    first = _voxel(triangles.min(1) - _TOLERANCE, size)
    last = _voxel(triangles.max(1) + _TOLERANCE, size)
    for part in _parts(np.prod(last[:, :2] - first[:, :2] + 1, axis=1)):
        which, voxels = _crossed(triangles[part], normals[part], first[part], last[part])
        positions = np.empty_like(voxels)
        np.put_along_axis(positions, order[part][which], voxels, axis=1)
        marked[tuple(positions.T)] = True
    return marked


def _crossed(
    triangles: np.ndarray, normals: np.ndarray, first: np.ndarray, last: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return overlapping pairs: the triangle (p,) and the voxel (p, 3). The triangles face the last axis."""
    wide = last[:, :2] - first[:, :2] + 1
    which, offset = _counted(wide.prod(1))
    columns = first[which, :2] + np.stack([offset // wide[which, 1], offset % wide[which, 1]], 1)
    overlapping = _outlines_overlap(triangles[:, :, :2], which, columns)
    which, columns = which[overlapping], columns[overlapping]

    slopes = normals[:, :2] / normals[:, 2:]
    away = columns + 0.5 - triangles[which, 0, :2]
    height = triangles[which, 0, 2] - (slopes[which] * away).sum(1)
    reach = np.abs(slopes).sum(1)[which] / 2 + _TOLERANCE
    low = np.maximum(np.floor(height - reach).astype(np.int64), first[which, 2])
    high = np.minimum(np.floor(height + reach).astype(np.int64), last[which, 2])
    column, offset = _counted(np.maximum(high - low + 1, 0))
    which, voxels = which[column], np.column_stack([columns[column], low[column] + offset])
    for axes in ([1, 2], [2, 0]):
        overlapping = _outlines_overlap(triangles[:, :, axes], which, voxels[:, axes])
        which, voxels = which[overlapping], voxels[overlapping]
    return which, voxels


def _outlines_overlap(outlines: np.ndarray, which: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """Test pairs of flat triangles, `outlines` (t, 3, 2)[which], and unit squares at (p, 2) whose bounds overlap.

    They do not overlap if the square is entirely beyond one of the edges.
    """
    edges = np.roll(outlines, -1, axis=1) - outlines
    twice_area = edges[:, 0, 0] * edges[:, 1, 1] - edges[:, 0, 1] * edges[:, 1, 0]
    turn = np.where(twice_area < 0, -1.0, 1.0)[:, None, None]
    inward = turn * np.stack([-edges[..., 1], edges[..., 0]], axis=-1)
    farthest = np.maximum(inward, 0).sum(2) - (inward * outlines).sum(2)
    beyond = np.zeros(len(which), dtype=bool)
    for edge in range(3):
        beyond |= (inward[which, edge] * squares).sum(1) + farthest[which, edge] < -_TOLERANCE
    return ~beyond


def _voxel(positions: np.ndarray, size: int) -> np.ndarray:
    return np.clip(np.floor(positions).astype(np.int64), 0, size - 1)


def _counted(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each index repeated by its count, and a running number: (2, 3) → (0, 0, 1, 1, 1), (0, 1, 0, 1, 2)."""
    which = np.repeat(np.arange(len(counts)), counts)
    return which, np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)


def _parts(counts: np.ndarray) -> Iterator[slice]:
    """Cut a sequence into parts whose counts sum to about `_AT_ONCE`."""
    bounds = np.flatnonzero(np.diff(np.cumsum(counts) // _AT_ONCE)) + 1
    ends = [0, *bounds.tolist(), len(counts)]
    yield from (slice(start, end) for start, end in pairwise(ends))
