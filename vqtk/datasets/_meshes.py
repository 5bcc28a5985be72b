"""Meshes in OFF files as solid voxel grids, each computed once and cached."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from vqtk.datasets._paths import check_regular, check_size, derived_cache
from vqtk.datasets._stored import read_arrays
from vqtk.datasets._surface import surface_voxels
from vqtk.errors import DataError
from vqtk.files import replacing

METHOD = 1
"""The version of the conversion from meshes to grids; a new one invalidates the cache."""
_WORKERS = min(4, os.cpu_count() or 1)
_FEW = 4
_BYTES_AT_MOST = 1 << 28
_SMALLEST, _LARGEST = 1e-100, 1e100
"""Extents of a mesh for which the squares and cross products of coordinates stay finite and positive."""
_INWARDS = 1 - 1e-6
"""Scales a mesh so that a plane exactly between two voxels belongs to the inner one."""


def mesh_grids(paths: Sequence[Path], *, size: int, variations: int) -> Iterator[np.ndarray | DataError]:
    """Yield the grids of each file (variations, bytes), packed by `numpy.packbits`, or the error of the file.

    Variation 0 is the unrotated mesh. The others are rotated at random, uniformly over all rotations, seeded by the
    file's name, so that they are the same everywhere.

    Raises: DataError if a mesh must be read and trimesh is not installed.
    """
    cached = [_cached(path, size, variations) for path in paths]
    absent = [path for path, grids in zip(paths, cached, strict=True) if grids is None]
    if absent:
        _check_installed()
    with ThreadPoolExecutor(_WORKERS if len(absent) > _FEW else 1) as pool:
        made = pool.map(lambda path: _made(path, size, variations), absent)
        yield from (next(made) if grids is None else grids for grids in cached)


def cache_folder() -> Path:
    """Return the folder of cached grids: $XDG_CACHE_HOME/vqtk/voxels, by default in ~/.cache."""
    return derived_cache() / "voxels"


def read_off(path: Path) -> np.ndarray:
    """Return the triangles of an OFF file as corners (t, 3, 3). Raises: DataError that says what is wrong with it."""
    try:
        check_regular(path)
        check_size(path, _BYTES_AT_MOST, advice="Simplify the mesh.")
        triangles = _parsed(re.sub(r"#.*", "", path.read_bytes().decode("ascii", errors="replace")))
        _check_extent(triangles)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read as a mesh: {error}. Expected a complete OFF file: OFF, the numbers of vertices and "
            "faces, then one vertex or face on each line. Replace or delete the file."
        ) from None
    return triangles


def solid(triangles: np.ndarray, size: int) -> np.ndarray:
    """Return the grid of a mesh, centred and scaled so that its longest side fills the grid.

    A voxel is set if the surface passes through it, or if it cannot be reached from outside through the faces of unset
    voxels. So a mesh need not be closed or consistently wound; one with an opening wider than a voxel becomes a shell.

    Shapes: corners (t, 3, 3) in any unit → (size, size, size), bool; the axes are the mesh's x, y, z.
    """
    from scipy.ndimage import binary_fill_holes

    low, high = triangles.min((0, 1)), triangles.max((0, 1))
    scale = size * _INWARDS / (high - low).max()
    return binary_fill_holes(surface_voxels((triangles - (low + high) / 2) * scale + size / 2, size))


def rotation(name: str, variation: int) -> np.ndarray:
    """Return the rotation (3, 3) of a file's variation: the identity for variation 0, otherwise a random one."""
    from scipy.spatial.transform import Rotation

    if variation == 0:
        return np.eye(3)
    seed = int.from_bytes(hashlib.sha256(f"{name} {variation}".encode()).digest()[:8], "big")
    return Rotation.from_quat(np.random.default_rng(seed).standard_normal(4)).as_matrix()


def _parsed(text: str) -> np.ndarray:
    """Return the triangles of an OFF file's text, which has no comments. Raises: ValueError if any of it is wrong."""
    import trimesh

    promised = _promised_faces(text)
    try:
        mesh = trimesh.load_mesh(io.BytesIO(text.encode()), file_type="off", process=False)
    except Exception:  # What it raises depends on how the file is damaged.
        raise ValueError("a line is not three coordinates, or not a number of corners and their indices") from None
    if len(mesh.faces) < promised:
        raise ValueError(f"only {len(mesh.faces):,} of its {promised:,} faces are complete")
    if mesh.faces.min() < 0 or mesh.faces.max() >= len(mesh.vertices):
        raise ValueError("a face has an index beyond its vertices")
    return np.asarray(mesh.triangles, dtype=np.float64)


def _promised_faces(text: str) -> int:
    """Return the number of faces in the header. Raises: ValueError if it, or the number of lines, is wrong."""
    header = re.match(r"\s*C?OFF\s*(\d+)[ \t]+(\d+).*", text)
    if not header:
        raise ValueError("it does not start with OFF and the numbers of vertices and faces" if text else "it is empty")
    vertices, faces = map(int, header.groups())
    lines = sum(bool(line.strip()) for line in text[header.end() :].split("\n"))
    if not faces:
        raise ValueError("it has no faces")
    if not vertices or lines != vertices + faces:
        raise ValueError(f"its header promises {vertices:,} vertices and {faces:,} faces, and {lines:,} lines follow")
    return faces


def _check_extent(triangles: np.ndarray) -> None:
    """Raise ValueError if a mesh with these corners (t, 3, 3) cannot be scaled to a grid."""
    if not np.isfinite(triangles).all():
        raise ValueError("a corner is not a finite number")
    with np.errstate(over="ignore"):
        extent = np.ptp(triangles, axis=(0, 1)).max()
    if not extent > 0:
        raise ValueError("all corners are the same point")
    if not _SMALLEST < extent < _LARGEST or np.abs(triangles).max() > _LARGEST:
        raise ValueError(f"its coordinates are too large or too small: its longest side is {extent:.3g}")


def _check_installed() -> None:
    if find_spec("trimesh") is None:
        raise DataError("reading meshes needs trimesh, which is not installed. Run: pip install 'vqtk[voxels]'")


def _made(path: Path, size: int, variations: int) -> np.ndarray | DataError:
    try:
        triangles = read_off(path)
    except DataError as error:
        return error
    grids = [solid(triangles @ rotation(path.name, variation).T, size) for variation in range(variations)]
    if not all(grid.any() for grid in grids):
        return DataError(f"{path} has no surface: all of its faces are lines or points. Replace or delete the file.")
    packed = np.stack([np.packbits(grid) for grid in grids])
    try:
        with replacing(_cache_file(path, size, variations)) as temporary:
            np.savez_compressed(temporary, grids=packed)
    except OSError:
        pass  # Without a cache the grids are computed again next time.
    return packed


def _cached(path: Path, size: int, variations: int) -> np.ndarray | None:
    """Return a file's grids from the cache; None if they are missing or damaged."""
    try:
        grids = read_arrays(_cache_file(path, size, variations), "grids")["grids"]
    except Exception:  # What NumPy raises depends on how the file is damaged.
        return None
    whole = grids.dtype == np.uint8 and grids.shape == (variations, -(-(size**3) // 8)) and grids.any(1).all()
    return grids if whole else None


def _cache_file(path: Path, size: int, variations: int) -> Path:
    """Return the cache file of a file's grids. Its key includes the file's name, which seeds the rotations."""
    content = hashlib.sha256(path.read_bytes()).hexdigest()
    key = f"{METHOD} {size} {variations} {path.name} {content}"
    return cache_folder() / f"{hashlib.sha256(key.encode()).hexdigest()}.npz"
