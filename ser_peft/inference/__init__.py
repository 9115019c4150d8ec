"""A trained run or a released model: from recordings to emotions."""

from ser_peft.inference.model import (
    EmotionModel,
    by_window,
    check_scores,
    identities,
    load_model,
    read_model,
)

__all__ = [
    "EmotionModel",
    "by_window",
    "check_scores",
    "identities",
    "load_model",
    "read_model",
]
