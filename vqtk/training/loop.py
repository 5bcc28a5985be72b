"""The training loop, and one update of it.

batches = next(Batches(…))                   one, or `accumulate` of them (batches.py)
objective.draw(batch)                        the selector's random draws, for the whole batch
for each piece of a batch:                   the whole batch, or `micro_batch` examples
    objective.prepare(piece)                 what has no gradient: the path of a search
    passed = objective(piece)                forward: the encoding pass and its losses
    (passed.loss · share).backward()         backward: gradients add up
add gradients                                over all processes, if there are several
clip, optimizer.step()                       at the schedule's learning rate
model.after_update(), _revive(…)             a refiner's own revival; that of `revive`
objective.after_update()                     moves codebooks, for example
average the weights                          with `ema`
log, evaluate, draw, save                    when due
"""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

# `Callback`, `Progress` and `Order` also for plugins of earlier versions, which import them from here.
from vqtk.callbacks import Callback as Callback
from vqtk.callbacks import Progress as Progress
from vqtk.callbacks import Row
from vqtk.datasets import Order as Order
from vqtk.datasets import Split
from vqtk.errors import DivergenceError, RecipeError
from vqtk.io.weights import load
from vqtk.models import Model, usage_of
from vqtk.models.vqdraw import VQDraw
from vqtk.nn.graph import CudaRecorder, Recorder
from vqtk.nn.stage import State, tree_map
from vqtk.objectives import Objective, Pass
from vqtk.optimizers import Average, Averaging, copy_weights, evaluating
from vqtk.process import generator
from vqtk.recipe.affordable import check_update
from vqtk.recipe.recipe import Recipe
from vqtk.revivals import Revival
from vqtk.training.batches import Batches, Passes
from vqtk.training.capture import CapturedUpdate, rates_of, restore
from vqtk.training.distributed import Processes, computing
from vqtk.training.execution import Execution, prepare, resolve

if TYPE_CHECKING:
    from vqtk.training.sharding import HeldParts

LOG_EVERY = 10
"""Updates between two readings of the training metrics; to read them is to wait for the device."""
FIRST_PICTURES_S = 60.0
"""Seconds until the first images of a run are drawn."""
_ADVICE = "Lower train.optimizer.lr, or give the schedule a `warmup`."


def training_loop(
    trainer: Trainer, data: Split, log: Callable[[dict[str, Any]], None], callbacks: Sequence[Callback]
) -> bool:
    """Train until the recipe's updates are done, or a callback stops the run; return whether they are done.

    The images and checkpoints that are due by the clock change no result.

    Raises: DivergenceError if the losses are no longer finite.
    """
    settings, updates = trainer.settings, trainer.settings.updates
    processes = trainer.processes
    pictures_every, checkpoints_every = 60 * settings.picture_minutes, 60 * settings.checkpoint_minutes
    pictures_at = time.monotonic() + min(FIRST_PICTURES_S, pictures_every)
    checkpoint_at = time.monotonic() + checkpoints_every
    row = Row()
    seconds_since_log, updates_since_log = 0.0, 0
    stopped = processes.any(any(callback.stop for callback in callbacks))
    with closing(Batches(trainer.recipe, trainer.model, data, done=trainer.done, processes=processes)) as batches:
        while trainer.done < updates and not stopped:
            started = time.perf_counter()
            trainer.update(next(batches), updates=updates)
            done = trainer.done
            logs = done % LOG_EVERY == 0 or done in (1, updates)
            if logs:
                row = Row(trainer.metrics(), before=row)
            seconds = time.perf_counter() - started
            trainer.seconds += seconds
            seconds_since_log, updates_since_log = seconds_since_log + seconds, updates_since_log + 1
            examples_per_s = updates_since_log * batches.examples_per_update / seconds_since_log
            progress = Progress(done, updates, row, examples_per_s)
            if logs:
                log({"update": done, **row, "step_ms": 1e3 * seconds_since_log / updates_since_log})
                seconds_since_log, updates_since_log = 0.0, 0
            trainer.logged = done

            now = time.monotonic()
            evaluates, draws, saves = done % settings.evaluate_every == 0, now >= pictures_at, now >= checkpoint_at
            if trainer.held:  # All processes take part in drawing and saving, and their clocks differ.
                draws, saves = processes.any(draws), processes.any(saves)
            for callback in callbacks:
                callback.on_update(progress)
                if evaluates and done < updates:
                    callback.on_evaluation_due(done)
                if draws:
                    callback.on_pictures_due(done)
                if saves:
                    callback.on_checkpoint_due(done)
                stopped = stopped or callback.stop
            stopped = processes.any(stopped)
            if draws:
                pictures_at = time.monotonic() + pictures_every
            if saves:
                checkpoint_at = time.monotonic() + checkpoints_every
    return trainer.done >= updates


class Trainer:
    """A model with its objective and optimiser, the number of updates done, and the seconds that they took.

    The model holds the weights that are trained. What evaluates, draws or saves it does so within `evaluated`.

    `execution` says how updates are computed; by default as the recipe asks, on the model's device. `processes` train
    together, by default this one alone.

    - `trained` holds the parameters that the optimiser changes: the model's or, with `held`, this process's parts.
    - `resumes_at` is the checkpoint that these parts will be read from.
    - `sound` is False from the optimiser's step to the end of the update.
    - `logged` is the last update whose metrics, if due, were written. After a failure, a checkpoint is written only if
      the state is sound and `logged` is `done`.

    Raises: RecipeError if model and objective do not fit, an update needs more memory than this machine has, weights
    would be averaged twice, or the processes cannot take equal parts of a batch.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: Model,
        execution: Execution | None = None,
        *,
        processes: Processes | None = None,
    ):
        check_update(recipe, model)
        self.processes = processes or Processes()
        self.processes.check_divides(recipe.batch)
        self.trained: nn.Module = model
        self.held: HeldParts | None = None
        self.resumes_at: Path | None = None
        self.recipe, self.model, self.settings = recipe, model, recipe.train
        self.objective = recipe.train.objective(model, load)
        self.execution = execution or resolve(recipe, model, processes=self.processes.size)
        self.optimizer, self.schedule = recipe.train.optimizer(model), recipe.train.schedule()
        self.rates = rates_of(self.optimizer)
        self.average = None if recipe.train.ema is None else Average(recipe.train.ema)
        if self.average and isinstance(self.optimizer, Averaging):
            raise RecipeError(
                f"train.ema: the optimizer averages weights itself ({type(self.optimizer).__name__}). Set `ema` to "
                "null, or choose another optimizer."
            )
        self.revival = recipe.train.revive(model) if recipe.train.revive else None
        if self.revival and isinstance(self.optimizer, Averaging):
            raise RecipeError(
                f"train.revive: the optimizer averages weights itself ({type(self.optimizer).__name__}), so options "
                "cannot be replaced. Set `revive` to null, or choose another optimizer."
            )
        if self.is_sharded:
            from vqtk.training.sharding import check_shards

            check_shards(recipe, model, self.optimizer)
        self.explores, self.bfloat16 = self.objective.explores, self.execution.precision == "bfloat16"
        self.done, self.seconds, self.rate = 0, 0.0, 0.0
        self.sound, self.logged = True, 0
        self.passes = Passes(self.processes)
        self.gradient_norm: Tensor | None = None
        self.captured: CapturedUpdate | None = None
        rows = recipe.batch // self.processes.size
        prepare(self.execution, model, min(rows, recipe.train.micro_batch or rows))
        if self.execution.graph:
            self.capture(CudaRecorder())

    @property
    def is_sharded(self) -> bool:
        """Whether the processes hold the refiners in parts, from the first update on."""
        return self.settings.shard and self.processes.size > 1

    def shard(self) -> None:
        """Keep this process's parts of the refiners, if they are to be held in parts; all processes do so together.

        Their models, and what is restored of the optimiser, must be equal.
        """
        if not self.is_sharded or self.held:
            return
        from vqtk.training.parts_checkpoint import read_manifest, read_parts
        from vqtk.training.sharding import HeldParts  # It imports torch's fully_shard, which takes a second.

        self.processes.copy_from_first(self.model)
        model, state = cast(VQDraw, self.model), self.optimizer.state_dict()
        self.held = held = HeldParts(model, self.processes)
        self.trained = held.trained
        self.optimizer = self.settings.optimizer(self.trained)
        self.rates = rates_of(self.optimizer)
        if state["state"]:
            restore(self.optimizer, held.parts_of_state(state))
        if self.average:
            self.average.values = [held.own(index, value) for index, value in enumerate(self.average.values)]
        if self.resumes_at:
            read_parts(self, self.resumes_at, read_manifest(self.resumes_at))

    def capture(self, recorder: Recorder) -> None:
        """Capture updates from the next one on; if that fails, compute them without graphs, with a warning."""
        self.captured = CapturedUpdate(self.backward, self.step, self.optimizer, recorder)

    def update(self, batches: Sequence[Tensor], *, updates: int) -> None:
        """Do one update of `updates` on batches (n, *data shape) in training units; gradients are summed over them.

        Of several processes, each has its rows of the batches.
        """
        if not self.model.training:
            self.model.train()
        if not self.done:
            self.objective.start(list(map(self.processes.gathered, batches)), generator(self.recipe.seed, "start"))
            if not self.is_sharded:
                self.processes.copy_from_first(self.model)
        self.shard()
        captured = self.captured
        backward = captured.backward if captured else self.backward
        (captured.zero_grad if captured else self.model.zero_grad)()
        weights = list(self.trained.parameters()) if self.average else []
        if self.average and not self.average.values:
            self.average.start(weights)
        self.passes = Passes(self.processes)
        for index, batch in enumerate(batches):
            self.passes.begin_batch()
            for piece, draws, share in self._pieces(batch, index, updates):
                with computing():
                    with torch.no_grad(), self._autocast(piece):
                        prepared = self.objective.prepare(piece, draws)
                    self.passes.add(share, backward(piece, prepared, share))
        if self.held:
            self.held.add_gradients()
        else:
            self.processes.add_gradients(self.model.parameters())
        self._set_rates(updates)
        self.sound = False  # Until the update is complete: a failure in between must not be saved.
        self.gradient_norm = captured.step() if captured else self.step()
        if self.model.revives:
            self.model.after_update(self.optimizer, self.usage())
        if self.revival and self.done < self.revival.until * updates:
            self._revive(self.revival, batches[-1])
        self.objective.after_update(self._read_passes(), generator(self.recipe.seed, "after update", self.done))
        self.done += 1
        if self.average:
            self.average.update(weights, self.done)
        self.sound = True

    def backward(self, piece: Tensor, draws: State, share: float) -> Pass:
        """Pass over a piece of a batch, and add its gradient, weighted by its share, without waiting for the device."""
        with self._autocast(piece):
            passed = self.objective(piece, draws=draws, recompute=self.execution.recompute)
        (passed.loss * share).backward()
        terms = {name: term.detach() for name, term in passed.terms.items()}
        return Pass(passed.loss.detach(), terms, passed.codes, passed.encoded)

    def _autocast(self, piece: Tensor) -> torch.autocast:
        # With autocast's cache, stages would share a weight's bfloat16 copy, and their gradients be summed in bfloat16.
        return torch.autocast(piece.device.type, torch.bfloat16, enabled=self.bfloat16, cache_enabled=False)

    def step(self) -> Tensor | None:
        """Clip the gradient and take the optimiser's step; return the norm of the gradient, None without `clip_norm`.

        The norm is measured after `clip_value` and before `clip_norm`. Does not wait for the device.
        """
        value, norm = self.settings.clip_value, self.settings.clip_norm
        weights, norm_found = list(self.trained.parameters()), None
        if value is not None:
            nn.utils.clip_grad_value_(weights, value)
        if norm is not None:
            gradients = [weight.grad for weight in weights if weight.grad is not None]
            norm_found = self.held.gradient_norm() if self.held else nn.utils.get_total_norm(gradients)
            nn.utils.clip_grads_with_norm_(weights, norm, norm_found)
        self.optimizer.step()
        return norm_found

    def _revive(self, revival: Revival, target: Tensor) -> None:
        """Count the usage of options, and at the end of a window revive idle ones, in the average as well.

        Every process revives them by the same draws and the whole batch, so that the weights stay equal.
        """
        weights = list(self.model.parameters())
        target = self.processes.gathered(target) if revival.closes_window else target
        before = [weight.detach().clone() for weight in weights] if self.average and revival.closes_window else None
        drawn_by = generator(self.recipe.seed, "revive", self.done)
        revival.after_update(self.optimizer, self.usage(), target, drawn_by)
        if self.average and before:
            self.average.adopt(before, weights)

    def _set_rates(self, updates: int) -> None:
        """Set the learning rate of the next update for each group of parameters; `rate` is the first group's."""
        rates = [self.schedule(self.done + 1, updates, rate) for rate in self.rates]
        self.rate = rates[0]
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            if isinstance(group["lr"], Tensor):  # A captured step reads this tensor.
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    @contextmanager
    def evaluated(self) -> Iterator[Model]:
        """Yield the model with the weights to evaluate, draw or save: the averaged ones, if there are any.

        With `held`, all processes enter it together.
        """
        whole = self.held.gathered() if self.held else nullcontext()
        with evaluating(self.trained, self.optimizer, self.average), whole:
            yield self.model

    def _pieces(self, batch: Tensor, index: int, updates: int) -> Iterator[tuple[Tensor, State, float]]:
        """Yield the pieces of a batch, each with the selector's draws for it and its share of the batch.

        The draws are made for the whole batch of all processes, so they depend neither on `micro_batch` nor on the
        number of processes.
        """
        draws, whole = None, len(batch) * self.processes.size
        if self.explores:
            drawn_by = generator(self.recipe.seed, "explore", self.done, index)
            drawn = self.objective.draw(whole, drawn_by, progress=self.done / updates)
            rows = self.processes.rows(whole)
            draws = tree_map(lambda value: value[rows].to(batch.device, non_blocking=True), drawn)
        size = self.settings.micro_batch or len(batch)
        for start in range(0, len(batch), size):
            piece = batch[start : start + size]
            piece_draws = None if draws is None else tree_map(partial(_rows, start, start + size), draws)
            yield piece, piece_draws, len(piece) / whole

    def _read_passes(self) -> list[Pass]:
        """Return the passes of the last update; with several processes, one over each whole batch if it is read."""
        is_read = type(self.objective).after_update is not Objective.after_update
        return self.passes.whole() if is_read and self.processes.size > 1 else self.passes.own()

    def usage(self) -> Tensor:
        """Return how often the examples of the last update used each option at each stage: (s, k), on the device."""
        return self.processes.total(usage_of(self.passes.codes(), self.model.options))

    def metrics(self) -> dict[str, float]:
        """Return the loss terms of the last update, as means over its batches before its step, and its code usage.

        With `clip_norm`, also the norm of its gradient before it was limited.

        Raises: DivergenceError if one of them is not finite.
        """
        if not self.passes:
            return {}
        means = self.processes.total(self.passes.terms().double().mean(0))
        counts = self.usage().sum(0)
        entropy, used = torch.special.entr(counts.double() / counts.sum()).sum(), (counts > 0).sum()
        found = {"entropy_pooled_nats": entropy, "used": used}
        if self.gradient_norm is not None:
            found["grad_norm"] = self.gradient_norm
        # One transfer from the device for all values.
        values = torch.cat([means, torch.stack([value.double() for value in found.values()])]).tolist()
        row = dict(zip([*self.passes.names, *found], values, strict=True))
        row["used"] = int(row["used"])
        _check_finite(row, self.done)
        return {**row, "lr": self.rate}

    def check_losses(self) -> None:
        """Raise DivergenceError if a loss term of the last update is not finite in the rows of this process."""
        if self.passes:
            row = dict(zip(self.passes.names, self.passes.terms().sum(0).tolist(), strict=True))
            norm = {} if self.gradient_norm is None else {"grad_norm": self.gradient_norm.item()}
            _check_finite({**row, **norm}, self.done)

    def check_finite(self) -> None:
        """Raise DivergenceError if a weight or a moment of the optimiser is not finite."""
        state = self.optimizer.state
        kept = [value for moments in state.values() for value in moments.values() if isinstance(value, Tensor)]
        kept += self.average.values if self.average else []
        own = [value.detach() for value in [*self.trained.parameters(), *self.model.buffers()]]
        finite = [value.isfinite().all() for value in [*own, *kept] if value.is_floating_point()]
        # An optimiser may keep counts on the CPU.
        broken = bool(finite) and not torch.stack([one.to(self.model.device) for one in finite]).all()
        if self.processes.any(broken) if self.held else broken:
            raise DivergenceError(f"training diverged: after update {self.done} the weights are not finite. {_ADVICE}")

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint stores besides the weights to evaluate: if these are averages, the trained ones."""
        state = {"done": self.done, "seconds": self.seconds, "optimizer": self.optimizer.state_dict()}
        if self.average or isinstance(self.optimizer, Averaging):
            state["weights"] = [weight.detach() for weight in self.model.parameters()]
        if self.revival:
            state["revival"] = self.revival.state_dict()
        return state

    def restore(self, state: dict[str, Any]) -> None:
        """Load a state that `state` returned; the model must hold the weights to evaluate that belong to it."""
        weights = list(self.model.parameters())
        if self.average:
            self.average.start(weights)
        if self.average or isinstance(self.optimizer, Averaging):
            copy_weights(state["weights"], weights)
        self.done, self.seconds = operator.index(state["done"]), float(state["seconds"])
        self.logged = self.done
        restore(self.optimizer, state["optimizer"])
        if self.revival:
            self.revival.load_state_dict(state["revival"])


def _rows(start: int, stop: int, value: Tensor) -> Tensor:
    return value[start:stop]


def _check_finite(row: dict[str, float], done: int) -> None:
    if not all(map(math.isfinite, row.values())):
        losses = ", ".join(f"{key} {value}" for key, value in row.items() if not math.isfinite(value))
        raise DivergenceError(f"training diverged: at update {done} the losses are not finite: {losses}. {_ADVICE}")
