"""Data sets: train and test splits, and the shape, range and normalisation of their examples."""

from vqtk.datasets._base import Dataset, Splits, data_root, fixed_subset
from vqtk.datasets._given import Units, given_splits
from vqtk.datasets._index import indexed_again
from vqtk.datasets._named import NamedExamples, examples_in, write_examples
from vqtk.datasets._order import Order
from vqtk.datasets._packing import pack_images
from vqtk.datasets._split import Files, Held, HeldBits, Split, Windows, batches_of

__all__ = [
    "Dataset",
    "Files",
    "Held",
    "HeldBits",
    "NamedExamples",
    "Order",
    "Split",
    "Splits",
    "Units",
    "Windows",
    "batches_of",
    "data_root",
    "examples_in",
    "fixed_subset",
    "given_splits",
    "indexed_again",
    "pack_images",
    "write_examples",
]
