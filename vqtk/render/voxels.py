"""Draw voxel grids in three dimensions, and write them as meshes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from itertools import combinations
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange, reduce
from PIL import Image, ImageDraw
from torch import Tensor

from vqtk.errors import VqtkError
from vqtk.files import replacing
from vqtk.nn.types import Size

SIDE = 96
"""The width and height of a view in pixels."""

_FINE = 2
_AZIMUTH, _ELEVATION = np.radians(-58.0), np.radians(28.0)
_COLOUR = np.array([0.42, 0.63, 0.87])
_SHADES = np.array([0.62, 0.82, 1.15])
_FARTHEST = 0.7
_EDGE = 176


@dataclass(frozen=True)
class _Faces:
    """The faces across one axis that each line of sight crosses, from near to far.

    `voxels` (lines, planes) are indices into the flattened grid, or its length where the line is outside the grid;
    `distance`, of the same shape, runs from 0 at the nearest corner of the grid to 1 at the farthest.
    """

    voxels: np.ndarray
    distance: np.ndarray


def render_voxels(grids: Tensor) -> Tensor:
    """Draw grids (n, 1, x, y, z) of probabilities, solid from 0.5 on, the third axis up → (n, 3, 96, 96) in [0, 1].

    An empty grid is drawn as the edges of its box, so that it does not look like a missing image.
    """
    solid = (grids.detach().float().cpu().numpy() >= 0.5).reshape(len(grids), *grids.shape[2:])
    views = [torch.from_numpy(_view(grid)) for grid in solid]
    return torch.stack(views) if views else torch.empty(0, 3, SIDE, SIDE)


def _view(solid: np.ndarray) -> np.ndarray:
    """Return the view of one grid (x, y, z) of bools: (3, 96, 96) in [0, 1], on white."""
    if not solid.any():
        return _box(solid.shape)
    flat = np.append(solid.ravel(), False)
    found = [_nearest(flat, faces) for faces in _lines_of_sight(solid.shape)]
    distance = np.stack(found)
    axis = distance.argmin(0)
    nearest = distance.min(0)
    hit = np.isfinite(nearest)
    picture = np.ones((len(hit), 3), dtype=np.float32)
    depth = 1 - (1 - _FARTHEST) * nearest[hit]
    picture[hit] = np.minimum(1, _COLOUR * (_SHADES[axis[hit]] * depth)[:, None])
    fine = rearrange(picture, "(h w) c -> c h w", h=SIDE * _FINE)
    return reduce(fine, "c (h fh) (w fw) -> c h w", "mean", fh=_FINE, fw=_FINE)


@lru_cache(maxsize=1)
def _box(size: Size) -> np.ndarray:
    """Return the edges of a grid's box as a view: (3, 96, 96) in [0, 1]."""
    canvas = Image.new("L", (SIDE * _FINE, SIDE * _FINE), 255)
    draw = ImageDraw.Draw(canvas)
    corners, (right, up, _) = _corners(size), _axes()
    reach = _reach(size)
    across, along = ((corners - np.array(size) / 2) @ axis / reach for axis in (right, up))
    places = [((1 + x) * SIDE, (1 - y) * SIDE) for x, y in zip(across, along, strict=True)]
    for one, other in combinations(range(len(corners)), 2):
        if (corners[one] != corners[other]).sum() == 1:
            draw.line([places[one], places[other]], fill=_EDGE, width=_FINE)
    fine = np.repeat(np.asarray(canvas, dtype=np.float32)[None] / 255, 3, 0)
    return reduce(fine, "c (h fh) (w fw) -> c h w", "mean", fh=_FINE, fw=_FINE)


def _corners(size: Size) -> np.ndarray:
    return np.stack(np.meshgrid(*([0, side] for side in size), indexing="ij"), -1).reshape(-1, 3)


def _reach(size: Size) -> float:
    """Return the largest distance from the centre of the view at which a grid of that size is seen."""
    right, up, _ = _axes()
    seen = (_corners(size) - np.array(size) / 2) @ np.stack([right, up], 1)
    return float(np.abs(seen).max() * (1 + 2 / SIDE))


def _nearest(flat: np.ndarray, faces: _Faces) -> np.ndarray:
    """Return the distance of the nearest solid face on each line of sight (lines,); infinity if there is none."""
    solid = flat[faces.voxels]
    first = solid.argmax(1)[:, None]
    distance = np.take_along_axis(faces.distance, first, 1)
    return np.where(np.take_along_axis(solid, first, 1), distance, np.inf)[:, 0]


@lru_cache(maxsize=1)
def _lines_of_sight(size: Size) -> list[_Faces]:
    """Return the faces that the lines of sight, one for each pixel of the fine view, cross in a grid, by axis."""
    right, up, ahead = _axes()
    centre, reach = np.array(size) / 2, _reach(size)
    steps = (np.arange(SIDE * _FINE) + 0.5) / (SIDE * _FINE) * 2 * reach - reach
    down, across = np.meshgrid(-steps, steps, indexing="ij")
    origins = centre + across.reshape(-1, 1) * right + down.reshape(-1, 1) * up
    near, far = np.sort((_corners(size) - centre) @ ahead)[[0, -1]]
    return [_across(axis, size, origins, ahead, (near, far)) for axis in range(3)]


def _across(axis: int, size: Size, origins: np.ndarray, ahead: np.ndarray, reach: tuple[float, float]) -> _Faces:
    """Return the faces across one axis on the lines of sight, which start at `origins` (lines, 3)."""
    backwards = ahead[axis] < 0
    order = np.arange(size[axis])[:: -1 if backwards else 1]
    time = (order + backwards - origins[:, axis, None]) / ahead[axis]
    voxels, inside = np.zeros(time.shape, dtype=np.int32), np.ones(time.shape, dtype=bool)
    for other, side in enumerate(size):
        place = order if other == axis else np.floor(origins[:, other, None] + time * ahead[other]).astype(np.int32)
        inside &= (place >= 0) & (place < side)
        voxels = voxels * side + place
    distance = (time - reach[0]) / (reach[1] - reach[0])
    return _Faces(np.where(inside, voxels, prod(size)).astype(np.int32), distance.astype(np.float32))


def _axes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the viewer's right, up and ahead as directions in the grid."""
    sine, cosine = np.sin(_AZIMUTH), np.cos(_AZIMUTH)
    low, high = np.cos(_ELEVATION), np.sin(_ELEVATION)
    right = np.array([-sine, cosine, 0])
    up = np.array([-high * cosine, -high * sine, low])
    return right, up, -np.array([low * cosine, low * sine, high])


_NEEDED = {"skimage": "scikit-image", "trimesh": "trimesh"}


def check_meshes(kind: str) -> None:
    """Raise VqtkError if data of that kind are not voxels, or the libraries that meshes need are not installed."""
    if kind != "voxels":
        raise VqtkError(f"--stl: this model's data are of kind {kind}; only voxels can be written as meshes.")
    missing = [name for module, name in _NEEDED.items() if find_spec(module) is None]
    if missing:
        raise VqtkError(
            f"--stl: meshes need {' and '.join(missing)}, not installed here. Run: pip install 'vqtk[voxels]'."
        )


def write_meshes(grids: Tensor, folder: Path) -> tuple[list[Path], list[int]]:
    """Write grids (n, 1, x, y, z) of probabilities, solid from 0.5 on, as sample_000.stl …; a voxel is one unit wide.

    Return the files, and the indices of the empty grids, which have none. Raises: VqtkError if one cannot be written.
    """
    written, empty = [], []
    for index, grid in enumerate(grids.detach().float().cpu().numpy()[:, 0] >= 0.5):
        if not grid.any():
            empty.append(index)
            continue
        path = folder / f"sample_{index:03d}.stl"
        try:
            with replacing(path) as temporary:
                temporary.write_bytes(as_mesh(grid).export(file_type="stl"))
        except OSError as error:
            raise VqtkError(
                f"{path}: the mesh cannot be written ({error}). Choose another folder with --stl."
            ) from None
        written.append(path)
    return written, empty


def as_mesh(solid: np.ndarray) -> Any:
    """Return the surface of a non-empty grid (x, y, z) of bools as a watertight `trimesh.Trimesh`."""
    from skimage.measure import marching_cubes
    from trimesh import Trimesh

    padded = np.pad(solid, 1).astype(np.float32)
    # "lewiner" leaves cracks in grids of 0 and 1, whose faces are all ambiguous; "ascent" makes the normals point out.
    vertices, faces, _, _ = marching_cubes(padded, level=0.5, method="lorensen", gradient_direction="ascent")
    # Voxel i of the padded grid is centred at i; it is voxel i - 1 of the grid, which is centred at i - 0.5.
    return Trimesh(vertices - 0.5, faces)
