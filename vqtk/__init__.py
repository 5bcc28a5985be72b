"""vqtk: a modular research toolkit around VQ-DRAW (Nichol 2020, arXiv 2003.01599)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vqtk.process import VERSION, settle

settle()

__version__ = VERSION
__all__ = ["build", "load"]

if TYPE_CHECKING:
    from vqtk.io.weights import load as load
    from vqtk.recipe.build import build as build


def __getattr__(name: str) -> Any:
    """Import `build` and `load`, and with them torch, when first used."""
    if name == "build":
        from vqtk.recipe.build import build

        return build
    if name == "load":
        from vqtk.io.weights import load

        return load
    raise AttributeError(f"module 'vqtk' has no attribute {name!r}")
