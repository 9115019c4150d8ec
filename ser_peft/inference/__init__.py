"""A trained run or a released model: from recordings to emotions."""

from ser_peft.inference.loading import load_model, read_model
from ser_peft.inference.model import EmotionModel, check_scores, identities
from ser_peft.inference.windows import by_window

__all__ = [
    "EmotionModel",
    "by_window",
    "check_scores",
    "identities",
    "load_model",
    "read_model",
]
