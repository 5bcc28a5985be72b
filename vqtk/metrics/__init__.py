"""Metrics: measured numbers of a model on test examples, each with its units and the direction that is better."""

from vqtk.metrics._base import (
    Better,
    CurveMetric,
    LossMetric,
    Metric,
    ReconstructionMetric,
    RetrievalMetric,
    SampleMetric,
    UsageMetric,
    is_of_the_loss,
    metric_class,
)
from vqtk.metrics._measure import (
    COMPARABLE,
    Measured,
    measure,
    measure_stages,
    routine_metrics,
)
from vqtk.metrics._retrieval import Retrieval, retrieval, retrieval_metrics
from vqtk.metrics.mse import decibels

__all__ = [
    "COMPARABLE",
    "Better",
    "CurveMetric",
    "LossMetric",
    "Measured",
    "Metric",
    "ReconstructionMetric",
    "Retrieval",
    "RetrievalMetric",
    "SampleMetric",
    "UsageMetric",
    "decibels",
    "is_of_the_loss",
    "measure",
    "measure_stages",
    "metric_class",
    "retrieval",
    "retrieval_metrics",
    "routine_metrics",
]
