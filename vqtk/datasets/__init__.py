"""Data sets: train and test splits, and the shape, range and normalisation of their examples."""

from vqtk.datasets._base import Dataset, Splits, data_root, fixed_subset
from vqtk.datasets._given import Units, given_splits
from vqtk.datasets._named import NamedExamples, examples_in, write_examples
from vqtk.datasets._split import Files, Held, HeldBits, Order, Split, Windows, batches_of

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
    "write_examples",
]
