"""Coders: codes as bytes, bit-packed or entropy-coded by the probabilities of a prior."""

from vqtk.coders._base import Coder, coder_of
from vqtk.coders._entropy import Entropy, quantised

__all__ = ["Coder", "Entropy", "coder_of", "quantised"]
