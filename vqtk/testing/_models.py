"""The contract of a model, and of a component within one: codes, training, saving, recomputation and precision."""

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
from vqtk.testing._case import EXAMPLES, STAGES, Case, Clause, Untouched, apart, check_gradients, near
from vqtk.testing._surroundings import model_of


def encodes_each_example_independently(case: Case) -> None:
    """Codes are (n, stages), int64 in [0, options), and the same again and for an example alone."""
    model, _, target = _model(case)
    inputs = Untouched(case, target=target)
    codes = model.encode(target)
    inputs.check("encode")
    expected = (EXAMPLES, model.stages)
    if codes.dtype != torch.int64 or tuple(codes.shape) != expected:
        case.fail(
            f"encoding returns {codes.dtype} of shape {tuple(codes.shape)}.", f"Return int64 of shape {expected}."
        )
    if not ((codes >= 0) & (codes < model.options)).all():
        case.fail(
            f"encoding returns codes from {int(codes.min())} to {int(codes.max())}.",
            f"Codes must be from 0 to {model.options - 1}.",
        )
    if not torch.equal(model.encode(target), codes):
        case.fail("encoding again returns other codes.", "Encoding must not be random.")
    if not torch.equal(torch.cat([model.encode(example[None]) for example in target]), codes):
        case.fail(
            "an example has other codes when it is encoded alone than in a batch.",
            "Look for BatchNorm, or anything else that is computed over the first axis.",
        )


def decodes_to_the_same_reconstruction_as_encoding(case: Case) -> None:
    """Decoding, which computes only the chosen options, ends at the reconstruction of encoding."""
    model, _, target = _model(case)
    codes = model.encode(target)
    decoded = model.decode(codes)
    expected = (EXAMPLES, *model.loss.shape)
    if tuple(decoded.shape) != expected or not decoded.isfinite().all():
        case.fail(
            f"decoding returns shape {tuple(decoded.shape)}, or values that are not finite.",
            f"Return finite values of shape {expected}.",
        )
    if not torch.equal(model.decode(codes), decoded):
        case.fail("decoding again returns something else.", "Decoding must not be random.")
    if model.stepwise:
        stages = iter(codes.unbind(1))
        walk = model.walk(target, selector=lambda grid, draws: next(stages))
        if not near(decoded, walk.reconstruction):
            case.fail(
                f"decoding returns another reconstruction than encoding: {apart(decoded, walk.reconstruction)}.",
                "Let `choose` compute the same as the full computation, and `advance` return the same state.",
            )


def uses_every_parameter_in_a_trial(case: Case) -> None:
    """A trial pass, as in `vqtk validate`, has a gradient for every parameter."""
    model, _, target = _model(case)
    outcome = model.trial(target)
    if outcome.dim() or not outcome.isfinite():
        case.fail(f"a trial returns {outcome}.", "`trial` must return one finite number.")
    outcome.backward()
    check_gradients(case, model, over="a trial")


def trains_every_parameter(case: Case) -> None:
    """A training pass has a gradient for every parameter, and after an update weights and loss are finite."""
    model, _, target = _model(case)
    _update(model, target)
    check_gradients(case, model, over="a pass through the stages")
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            case.fail(f"after an update, the parameter `{name}` is not finite.", "Check `after_update`.")
    if not _pass(model, target, recompute=0)[0].isfinite():
        case.fail("after an update, the loss is not finite.", "Check `after_update`.")


def is_unchanged_by_saving_and_loading(case: Case) -> None:
    """Recipe, codes and reconstructions are the same after loading from a weights file alone."""
    model, recipe, target = _model(case)
    model.float()
    target = target.float() if target.is_floating_point() else target
    if model.stepwise:
        _update(model, target)
    with use_plugins(case.plugins), tempfile.TemporaryDirectory() as folder:
        save_weights(Path(folder) / "it.safetensors", model, recipe)
        loaded, same = load_weights(Path(folder) / "it.safetensors")
    channels_last(model)  # The layout of loaded models: another one rounds in another order.
    if same.plain() != recipe.plain():
        case.fail("the recipe differs after loading.", "Settings must be plain values that a recipe can express.")
    model.eval()
    codes, again = (one.encode(target) for one in (model, loaded))
    if not torch.equal(codes, again) or not torch.equal(model.decode(codes), loaded.decode(codes)):
        case.fail(
            "a model with it differs after saving and loading.",
            "All that it computes with must be a parameter or a persistent buffer (`register_buffer`), or follow from "
            "its settings.",
        )


def trains_identically_with_recomputed_activations(case: Case) -> None:
    """Loss and gradients are the same with `train.gradient_checkpointing: true`."""
    found: list[tuple[Tensor, dict[str, Tensor]]] = []
    for recompute in (0, STAGES):
        model, _, target = _model(case)
        loss, _ = _pass(model, target, recompute=recompute)
        loss.backward()
        found.append((loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}))
    (plain, expected), (again, recomputed) = found
    if not near(again, plain):
        case.fail(f"with gradient checkpointing the loss differs: {apart(again, plain)}.", _RECOMPUTED)
    for name, gradient in expected.items():
        if name not in recomputed or not near(recomputed[name], gradient, tolerance=1e-7):
            case.fail(f"with gradient checkpointing the gradient of `{name}` differs.", _RECOMPUTED)


def trains_and_decodes_under_autocast(case: Case) -> None:
    """Losses, gradients and reconstructions are finite in bfloat16, as with `train.precision: bfloat16`."""
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


_RECOMPUTED = "Each stage is then computed twice: it must not be random, nor remember earlier calls."

ANY_MODEL: list[Clause] = [
    encodes_each_example_independently,
    decodes_to_the_same_reconstruction_as_encoding,
    uses_every_parameter_in_a_trial,
    is_unchanged_by_saving_and_loading,
]
STEPWISE: list[Clause] = [
    trains_every_parameter,
    trains_identically_with_recomputed_activations,
    trains_and_decodes_under_autocast,
]


def _model(case: Case) -> tuple[Any, Any, Tensor]:
    case.place = "in a model"
    return model_of(case)


def _pass(model: VQDraw, target: Tensor, *, recompute: int) -> tuple[Tensor, Tensor]:
    """Return the loss of a training pass, and how often each option was the best (s, k)."""
    draws = model.draw(len(target), torch.Generator().manual_seed(0), progress=0.5)
    walk = model(target, draws=draws, recompute=recompute)
    return walk.choice + 0.5 * walk.all + 0.1 * walk.final, usage_of(walk.best, model.options)


def _update(model: VQDraw, target: Tensor) -> None:
    """Do one update as training does, and let the model revive unused options; the gradients are kept."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loss, usage = _pass(model, target, recompute=0)
    loss.backward()
    optimizer.step()
    model.after_update(optimizer, usage)


def checks(case: Case) -> list[Clause]:
    """Return the checks of a model with the component in it; a model that is not stepwise has fewer."""
    walks = case.registry.kind != "model" or getattr(case.entry.component, "stepwise", False)
    return [*ANY_MODEL, *STEPWISE] if walks else ANY_MODEL
