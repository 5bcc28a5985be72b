"""The contract of a model, and of each component as a part of one: codes, training, saving, memory and precision."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vqtk.io.weights import load_weights, save_weights
from vqtk.models import usage_of
from vqtk.models.vqdraw import VQDraw
from vqtk.nn.convolution import channels_last
from vqtk.plugin.loading import use_plugins
from vqtk.testing._case import ITEMS, STAGES, Case, Clause, Untouched, apart, check_gradients, near
from vqtk.testing._surroundings import model_of


def encodes_each_item_to_codes_of_its_own(case: Case) -> None:
    """Codes (n, stages), int64 in [0, options), the same each time and for an item alone; the target stays."""
    model, _, target = _model(case)
    inputs = Untouched(case, target=target)
    codes = model.encode(target)
    inputs.check("encode")
    expected = (ITEMS, model.stages)
    if codes.dtype != torch.int64 or tuple(codes.shape) != expected:
        case.fail(f"encoding yields {codes.dtype} of shape {tuple(codes.shape)}.", f"Yield int64 of shape {expected}.")
    if not ((codes >= 0) & (codes < model.options)).all():
        case.fail(
            f"encoding yields codes from {int(codes.min())} to {int(codes.max())}.",
            f"Codes are from 0 to {model.options - 1}.",
        )
    if not torch.equal(model.encode(target), codes):
        case.fail("encoding again yields other codes.", "Encoding draws nothing at random.")
    if not torch.equal(torch.cat([model.encode(item[None]) for item in target]), codes):
        case.fail(
            "an item has other codes when it is encoded alone than in a batch.",
            "Look for BatchNorm, or for anything else computed over the first axis.",
        )


def decodes_codes_to_the_encoders_own_reconstruction(case: Case) -> None:
    """The decoder's path, of chosen options alone, ends where the walk of the encoder ended."""
    model, _, target = _model(case)
    codes = model.encode(target)
    decoded = model.decode(codes)
    expected = (ITEMS, *model.loss.shape)
    if tuple(decoded.shape) != expected or not decoded.isfinite().all():
        case.fail(f"decoding yields shape {tuple(decoded.shape)}, or what is not finite.", f"Yield {expected}, finite.")
    if not torch.equal(model.decode(codes), decoded):
        case.fail("decoding again yields something else.", "Decoding draws nothing at random.")
    if model.stepwise:
        stages = iter(codes.unbind(1))
        walk = model.walk(target, selector=lambda grid, draws: next(stages))
        if not near(decoded, walk.reconstruction):
            case.fail(
                f"decoding codes yields another reconstruction than encoding did: "
                f"{apart(decoded, walk.reconstruction)}.",
                "Let `choose` compute what the full path does, and `advance` give the same state after either.",
            )


def takes_part_in_a_trial_with_every_parameter(case: Case) -> None:
    """`vqtk validate` sees each of them."""
    model, _, target = _model(case)
    outcome = model.trial(target)
    if outcome.dim() or not outcome.isfinite():
        case.fail(f"a trial yields {outcome}.", "`trial` returns one finite number.")
    outcome.backward()
    check_gradients(case, model, over="a trial")


def trains_every_parameter(case: Case) -> None:
    """As training walks, with what its selector draws; and what follows an update leaves the weights finite."""
    model, _, target = _model(case)
    _update(model, target)
    check_gradients(case, model, over="a walk")
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            case.fail(f"after an update, the parameter `{name}` is not finite.", "Look at `after_update`.")
    if not _pass(model, target, recompute=0)[0].isfinite():
        case.fail("after an update, the loss is not finite.", "Look at `after_update`.")


def is_the_same_after_saving_and_loading(case: Case) -> None:
    """The same recipe, codes and reconstructions, from a weights file alone, after an update where it has stages."""
    model, recipe, target = _model(case)
    model.float()
    target = target.float() if target.is_floating_point() else target
    if model.stepwise:
        _update(model, target)
    with use_plugins(case.plugins), tempfile.TemporaryDirectory() as folder:
        save_weights(Path(folder) / "it.safetensors", model, recipe)
        loaded, same = load_weights(Path(folder) / "it.safetensors")
    channels_last(model)  # As loaded ones are: another layout rounds in another order.
    if same.plain() != recipe.plain():
        case.fail("the recipe is another after loading.", "Settings have to be plain values that a recipe can say.")
    model.eval()
    codes, again = (one.encode(target) for one in (model, loaded))
    if not torch.equal(codes, again) or not torch.equal(model.decode(codes), loaded.decode(codes)):
        case.fail(
            "a model with it is another after saving and loading.",
            "What it computes with has to be a parameter or a persistent buffer (`register_buffer`), or follow from "
            "its settings.",
        )


def trains_the_same_with_recomputed_activations(case: Case) -> None:
    """`train.gradient_checkpointing: true` gives the same loss and the same gradients."""
    found: list[tuple[Tensor, dict[str, Tensor]]] = []
    for recompute in (0, STAGES):
        model, _, target = _model(case)
        loss, _ = _pass(model, target, recompute=recompute)
        loss.backward()
        found.append((loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}))
    (plain, expected), (again, recomputed) = found
    if not near(again, plain):
        case.fail(f"with gradient checkpointing the loss is another: {apart(again, plain)}.", _RECOMPUTED)
    for name, gradient in expected.items():
        if name not in recomputed or not near(recomputed[name], gradient, tolerance=1e-7):
            case.fail(f"with gradient checkpointing the gradient of `{name}` is another.", _RECOMPUTED)


def trains_and_decodes_under_autocast(case: Case) -> None:
    """In bfloat16, as `train.precision: bfloat16` asks: losses, gradients and reconstructions are finite."""
    model, _, target = _model(case)
    model.float()
    target = target.float() if target.is_floating_point() else target
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = _pass(model, target, recompute=0)
        decoded = model.decode(model.encode(target))
    loss.backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    if not all(value.isfinite().all() for value in (loss, decoded, *gradients)):
        case.fail(
            "under autocast to bfloat16, a loss, a gradient or a reconstruction is not finite.",
            "Compute the part that overflows in float32: `with torch.autocast(x.device.type, enabled=False)`.",
        )


_RECOMPUTED = "A stage is computed twice then: draw nothing at random, and keep nothing from call to call."

ANY_MODEL: list[Clause] = [
    encodes_each_item_to_codes_of_its_own,
    decodes_codes_to_the_encoders_own_reconstruction,
    takes_part_in_a_trial_with_every_parameter,
    is_the_same_after_saving_and_loading,
]
STEPWISE: list[Clause] = [
    trains_every_parameter,
    trains_the_same_with_recomputed_activations,
    trains_and_decodes_under_autocast,
]


def _model(case: Case) -> tuple[Any, Any, Tensor]:
    case.place = "in a model"
    return model_of(case)


def _pass(model: VQDraw, target: Tensor, *, recompute: int) -> tuple[Tensor, Tensor]:
    """Return the loss of a walk as training does it, and how often each option was the best (s, k)."""
    draws = model.draw(len(target), torch.Generator().manual_seed(0), progress=0.5)
    walk = model(target, draws=draws, recompute=recompute)
    return walk.choice + 0.5 * walk.all + 0.1 * walk.final, usage_of(walk.best, model.options)


def _update(model: VQDraw, target: Tensor) -> None:
    """Do one update as training does it, and let the model revive options; the gradients stay."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loss, usage = _pass(model, target, recompute=0)
    loss.backward()
    optimizer.step()
    model.after_update(optimizer, usage)


def checks(case: Case) -> list[Clause]:
    """Return the checks of a model with the component in it; a model that has no stages to walk has fewer."""
    walks = case.registry.kind != "model" or getattr(case.entry.component, "stepwise", False)
    return [*ANY_MODEL, *STEPWISE] if walks else ANY_MODEL
