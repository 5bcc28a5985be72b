"""WikiText-2 as characters: its spec."""

from vqtk.datasets._base import LaterDataset
from vqtk.nn.types import Count, DataSpec
from vqtk.registry import datasets


@datasets.register("wikitext2")
class WikiText2(LaterDataset):
    """Windows of `length` characters of Wikipedia. Its recipe can be checked, not trained yet.

    Shapes: items (length,), indices into a vocabulary of `vocabulary` characters.
    Source: Merity et al. 2016.
    """

    def __init__(self, *, length: Count = 128, vocabulary: Count = 100):
        self.length = length
        self.vocabulary = vocabulary

    @property
    def spec(self) -> DataSpec:
        """What a model must know of the items."""
        return DataSpec("text", (self.length,), classes=self.vocabulary)
