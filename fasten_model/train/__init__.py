"""Training: what it takes, what it leaves, and the loop between."""

from fasten_model.train.config import TrainConfig
from fasten_model.train.cross_entropy import train_cross_entropy
from fasten_model.train.fasten import Trained, train
from fasten_model.train.method import OURS, PAPER, Method
from fasten_model.train.metrics import EpochMetrics, OnEpoch
from fasten_model.train.training_set import TrainingSet

__all__ = [
    "OURS",
    "PAPER",
    "EpochMetrics",
    "Method",
    "OnEpoch",
    "TrainConfig",
    "Trained",
    "TrainingSet",
    "train",
    "train_cross_entropy",
]
