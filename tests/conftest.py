"""Tests run two at a time, so each takes one thread."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
