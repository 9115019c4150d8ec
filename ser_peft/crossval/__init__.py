"""Cross-validation: one training a fold and seed, here or on a cluster."""

from ser_peft.crossval.runner import crossval
from ser_peft.crossval.trainings import check, numbers, trainings

__all__ = ["check", "crossval", "numbers", "trainings"]
