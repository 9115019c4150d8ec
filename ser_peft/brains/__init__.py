"""One Brain a way of training."""

from ser_peft.brains.distillation import DistillBrain
from ser_peft.brains.emotion import EmotionBrain
from ser_peft.brains.pretraining import PtaptBrain, StateBrain, TaptBrain

__all__ = [
    "DistillBrain",
    "EmotionBrain",
    "PtaptBrain",
    "StateBrain",
    "TaptBrain",
]
