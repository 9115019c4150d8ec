"""One Brain a way of training."""

from ser_peft.training.distillation import DistillBrain
from ser_peft.training.emotion import EmotionBrain
from ser_peft.training.pretraining import PtaptBrain, StateBrain, TaptBrain

__all__ = [
    "DistillBrain",
    "EmotionBrain",
    "PtaptBrain",
    "StateBrain",
    "TaptBrain",
]
