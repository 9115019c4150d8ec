"""One Brain a way of training."""

from ser_peft.brains.emotion import EmotionBrain

__all__ = ["EmotionBrain"]
