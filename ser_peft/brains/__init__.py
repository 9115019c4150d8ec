"""One Brain a way of training."""

from ser_peft.brains.emotion import EmotionBrain
from ser_peft.brains.pretraining import PtaptBrain, StateBrain, TaptBrain

__all__ = ["EmotionBrain", "PtaptBrain", "StateBrain", "TaptBrain"]
