"""The objective of VQ-DRAW: the loss of each stage's best option, and a little of all options."""

from collections.abc import Callable

import torch
from torch import Tensor

from vqtk.errors import ShapeError
from vqtk.models.vqdraw import VQDraw
from vqtk.nn.stage import State
from vqtk.nn.types import Count, NonNegative
from vqtk.objectives._base import Load, Objective, Pass
from vqtk.registry import SearchFactory, objectives
from vqtk.searches.greedy import Greedy
from vqtk.searches.preselect import Preselect
from vqtk.selectors import Selector
from vqtk.selectors.argmin import Argmin


@objectives.register("stages")
class Stages(Objective):
    """The smallest loss of each stage (`choice`), the mean over all options (`all`), the last smallest loss (`final`).

    The loss is their sum, weighted by these coefficients. `sampled: m` takes the gradient of `all` over m options drawn
    uniformly for each example and stage: its expectation is the full gradient, and the backward pass computes only
    these and the best option. The logged value remains the mean over all options.

    With a `path`, such as `{name: beam, width: 4}`, that search first encodes the batch, and `choice` and `final` are
    the losses along its codes instead of those of the best options: training for encoding by this search. With
    `all: 0` only the deltas of these codes are computed then, a K-th of the pass; with the search `preselect`, training
    computes a few options of each stage, and `preselect_recall` is how often the best one is among them. With `path:
    greedy` and `all: 0` one pass chooses the codes and has the gradient.

    Raises: ShapeError if the model does not work stage by stage, or its selector explores although there is a `path`.
    Source: Nichol 2020, arXiv 2003.01599, section 3; the path, Vallaeys et al. 2025, QINCo2, arXiv 2501.03078.
    """

    def __init__(
        self,
        model: VQDraw,
        load: Load,
        *,
        choice: NonNegative = 1.0,
        all: NonNegative = 0.01,
        final: NonNegative = 0.0,
        sampled: Count | None = None,
        path: SearchFactory | None = None,
    ):
        if not model.stepwise:
            raise ShapeError(
                f"the objective `stages` does not fit {type(model).__name__}, which does not work stage by stage. Set "
                "`train.objective`: quantisation for vqvae and residual_vq, distillation for distilled."
            )
        if not (choice or all or final):
            raise ShapeError("`choice`, `all` and `final` are all 0, so there is nothing to minimise. Set one above 0.")
        self.model = model
        # Without a selector the walk takes the best option itself.
        self.selector = None if isinstance(model.selector, Argmin) else model.selector
        self.weights = {"choice": choice, "all": all, "final": final}
        self.sampled = sampled
        self.path = path() if path else None
        if path and self._selector_explores:
            raise ShapeError(
                f"the selector {type(model.selector).__name__} chooses the path, and so does `path`. Leave one out."
            )

    @property
    def in_one_pass(self) -> bool:
        """Whether one pass chooses greedily and has a gradient for the chosen options alone."""
        return isinstance(self.path, Greedy) and not self.weights["all"]

    @property
    def explores(self) -> bool:
        """Whether the recipe's selector draws anything, or options are sampled."""
        return self.sampled is not None or self._selector_explores

    @property
    def _selector_explores(self) -> bool:
        return type(self.model.selector).draw is not Selector.draw

    def draw(self, n: int, generator: torch.Generator, *, progress: float) -> dict[str, Tensor | None]:
        """Return the `draws` of the recipe's selector and the `sampled` options (n, stages, m), for `walk`."""
        chosen = self.model.draw(n, generator, progress=progress)
        if self.sampled is None:
            return {"draws": chosen}
        shape = (n, self.model.stages, self.sampled)
        return {"draws": chosen, "sampled": torch.randint(self.model.options, shape, generator=generator)}

    def prepare(self, batch: Tensor, draws: State) -> State:
        """Add the codes of the path (n, stages), if a search has to find it."""
        return {**(draws or {}), "along": self.path(self.model, batch)} if self.path and not self.in_one_pass else draws

    def __call__(self, batch: Tensor, *, draws: State, recompute: int) -> Pass:
        """Encode the batch through the stages; along a path, if no other option has a weight, decode it."""
        if self.path and not self.weights["all"] and not self.in_one_pass:
            return self._of_path(batch, draws["along"])
        walk = self.model.walk(
            batch, selector=self.selector, chosen_only=self.in_one_pass, recompute=recompute, **(draws or {})
        )
        terms = {"choice": walk.choice, "final": walk.final, "all": walk.all}
        minimised = terms if walk.sampled is None else {**terms, "all": walk.sampled.mean()}
        weighted = [weight * minimised[name] for name, weight in self.weights.items() if weight]
        return Pass(torch.stack(weighted).sum(), terms, walk.best)

    def _of_path(self, batch: Tensor, codes: Tensor) -> Pass:
        losses = self.model.loss(self.model.along(codes), batch)  # (n, s)
        terms = {"choice": losses.mean(), "final": losses[:, -1].mean()}
        return Pass(torch.stack([self.weights[name] * term for name, term in terms.items()]).sum(), terms, codes)

    @torch.no_grad()
    def figures(self, targets: Callable[[], Tensor]) -> dict[str, float]:
        """Return how often the path's pre-selection contains the best option, if it pre-selects."""
        if not isinstance(self.path, Preselect):
            return {}
        return {"preselect_recall": self.path.recall(self.model, targets())}
