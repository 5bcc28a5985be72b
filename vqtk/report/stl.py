"""Voxel grids as watertight meshes in STL files."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from vqtk.errors import VqtkError
from vqtk.io.atomic import replacing

_NEEDED = {"skimage": "scikit-image", "trimesh": "trimesh"}


def check_meshes(kind: str) -> None:
    """Raise VqtkError if data of that kind are no voxels, or the libraries that meshes need are not installed."""
    if kind != "voxels":
        raise VqtkError(f"--stl: this model's data are of kind {kind}; only voxels can be written as meshes.")
    missing = [name for module, name in _NEEDED.items() if find_spec(module) is None]
    if missing:
        raise VqtkError(
            f"--stl: meshes need {' and '.join(missing)}, not installed here. Install with: pip install 'vqtk[voxels]'."
        )


def write_meshes(grids: Tensor, folder: Path) -> tuple[list[Path], list[int]]:
    """Write grids (n, 1, x, y, z) of probabilities, solid from 0.5 on, as sample_000.stl …; a voxel is a unit wide.

    Returns the files, and the indices of the empty grids, which have none. Raises: VqtkError if one cannot be written.
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
    """Return the surface of a grid (x, y, z) of bools that is not empty, as a watertight `trimesh.Trimesh`."""
    from skimage.measure import marching_cubes
    from trimesh import Trimesh

    padded = np.pad(solid, 1).astype(np.float32)
    # "lewiner" leaves cracks in grids of 0 and 1, whose faces are all ambiguous; "ascent" lets the normals point out.
    vertices, faces, _, _ = marching_cubes(padded, level=0.5, method="lorensen", gradient_direction="ascent")
    # Voxel i of the padded grid has its centre at i, and should have that of i - 1 of the grid, at i - 0.5.
    return Trimesh(vertices - 0.5, faces)
