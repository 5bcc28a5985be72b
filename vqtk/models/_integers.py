"""The autoregressive prior in whole numbers: the same probabilities on every machine, as an entropy coder needs them.

A decoder that computes one probability differently from the encoder, by as little as rounding, decodes noise from there
on, and floating-point sums depend on their order: on the library, the number of threads, and how many codes are
computed at once. Here weights and activations are multiples of a power of two. Products of whole numbers and their sums
are exact in float64 below 2^53, whatever their order, and the nonlinear functions are tables of whole numbers.

Source: Ballé et al. 2019, Integer Networks for Data Compression with Latent-Variable Models.
"""

from __future__ import annotations

from collections.abc import Generator
from decimal import Decimal, localcontext
from functools import cache

import torch
from torch import Tensor, nn

from vqtk.errors import VqtkError
from vqtk.models._base import Model
from vqtk.models._codebook import Prior

WEIGHT, ACTIVATION = 16, 15
"""Weights are multiples of 2^-16, activations of 2^-15; their products and sums therefore of 2^-31."""
_SUM = WEIGHT + ACTIVATION
_STEP = 10
"""The tables have 2^10 entries for each unit of their argument."""
_SIGMOID_TO, _EXP_TO = 8, 20
_EXP = 30
"""Entries of the table of exp are multiples of 2^-30."""
_EXACT = 2**53


class IntegerPrior:
    """p(codes), autoregressive over the stages, as frequencies that sum to `total`; computed on the CPU.

    Raises: VqtkError if a weight is too large for exact sums.
    """

    def __init__(self, prior: Prior, *, total: int):
        network = prior.codes
        self.stages, self.options, self.total = prior.stages, network.output.out_features, total
        self._embedding = _whole(network.embedding.weight, ACTIVATION)
        self._initial = _whole(network.initial[:, 0], ACTIVATION)
        self._layers = [
            [_whole(network.gru.get_parameter(f"{name}_l{layer}"), WEIGHT if "weight" in name else _SUM)
             for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
            for layer in range(network.gru.num_layers)
        ]  # fmt: skip
        self._output = _whole(network.output.weight, WEIGHT), _whole(network.output.bias, _SUM)
        self._check_exact()

    def walk(self, n: int) -> Generator[Tensor, Tensor, None]:
        """Yield the frequencies (n, k) of each stage of n codes; each stage's codes (n,) are sent back."""
        state = [layer.expand(n, -1) for layer in self._initial]
        entering = torch.zeros_like(state[0])
        for _ in range(self.stages):
            for index, weights in enumerate(self._layers):
                state[index] = entering = _cell(entering, state[index], weights)
            codes = yield self._frequencies(_linear(entering, *self._output))
            entering = self._embedding[codes]

    def _frequencies(self, logits: Tensor) -> Tensor:
        """Return frequencies of at least 1: logits (n, k), multiples of 2^-31."""
        best = logits.max(1, keepdim=True)
        below = (best.values - logits) >> (_SUM - _STEP)
        likely = _exp_table()[below.clamp(max=(_EXP_TO << _STEP) - 1)]
        frequencies = 1 + likely * (self.total - self.options) // likely.sum(1, keepdim=True)
        left = self.total - frequencies.sum(1, keepdim=True)  # What rounding down left.
        return frequencies.scatter_add_(1, best.indices, left)

    def _check_exact(self) -> None:
        """Raise VqtkError unless every sum is below 2^53."""
        state = max(1 << ACTIVATION, int(self._initial.abs().max()))
        entering = max(state, int(self._embedding.abs().max()))
        sums = [
            int(weight.abs().sum(1).max()) * most + int(bias.abs().max())
            for one, two, bias, other in self._layers
            for weight, bias, most in ((one, bias, entering), (two, other, state))
        ]
        sums.append(int(self._output[0].abs().sum(1).max()) * state + int(self._output[1].abs().max()))
        # Of the new state, a sum is multiplied by a gate, up to 2^15, in 64-bit integers.
        if max(sums) >= min(_EXACT, 1 << (62 - ACTIVATION)):
            raise VqtkError(
                "the weights of this model's prior are too large to compute with exactly, so nothing can be coded by "
                "it. Use another prior, such as markov."
            )


def integer_prior(model: Model, *, total: int) -> IntegerPrior:
    """Return a model's own autoregressive prior in whole numbers. Raises: VqtkError if it has none."""
    prior = getattr(model, "prior", None)
    if not isinstance(prior, Prior):
        raise VqtkError(
            f"the prior autoregressive: this model ({type(model).__name__}) has none. The models vqvae and residual_vq "
            "have one, if trained with model.prior=autoregressive. Use another prior, such as markov."
        )
    return IntegerPrior(prior, total=total)


def _whole(values: Tensor | nn.Parameter, bits: int) -> Tensor:
    """Return values as int64 multiples of 2^-bits."""
    return (values.detach().cpu().double() * 2**bits).round().long()


def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the exact x W^T + b of whole numbers, through float64, whose matrix products are fast."""
    return (x.double() @ weight.double().mT).long() + bias


def _cell(entering: Tensor, state: Tensor, weights: list[Tensor]) -> Tensor:
    """Return the next state (n, width) of a GRU layer, as `nn.GRU` defines it."""
    weight_in, weight_state, bias_in, bias_state = weights
    from_input = _linear(entering, weight_in, bias_in).chunk(3, 1)
    from_state = _linear(state, weight_state, bias_state).chunk(3, 1)
    reset, update = (_sigmoid(from_input[gate] + from_state[gate]) for gate in (0, 1))
    new = _tanh(from_input[2] + ((reset * from_state[2]) >> ACTIVATION))
    return new + ((update * (state - new)) >> ACTIVATION)


def _sigmoid(x: Tensor) -> Tensor:
    """Return the sigmoid of multiples of 2^-31, as multiples of 2^-15."""
    half = _SIGMOID_TO << _STEP
    return _sigmoid_table()[(x >> (_SUM - _STEP)).clamp(-half, half - 1) + half]


def _tanh(x: Tensor) -> Tensor:
    return 2 * _sigmoid(2 * x) - (1 << ACTIVATION)


@cache
def _sigmoid_table() -> Tensor:
    half, one = _SIGMOID_TO << _STEP, Decimal(1)
    with localcontext() as context:  # Correctly rounded, unlike the exp of a mathematical library.
        context.prec = 30
        middles = (Decimal(2 * index + 1) / (2 << _STEP) for index in range(-half, half))
        return torch.tensor([int((1 << ACTIVATION) / (one + (-x).exp()) + Decimal("0.5")) for x in middles])


@cache
def _exp_table() -> Tensor:
    with localcontext() as context:
        context.prec = 30
        middles = (Decimal(2 * index + 1) / (2 << _STEP) for index in range(_EXP_TO << _STEP))
        return torch.tensor([int((1 << _EXP) * (-x).exp()) for x in middles])
