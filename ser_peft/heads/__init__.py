"""Emotion scores from the hidden states of encoders."""

from ser_peft.heads.base import Head, masked_mean
from ser_peft.heads.fusion import FUSIONS, FusionHead, ThreeMHead
from ser_peft.heads.speech import (
    HEADS,
    LayerMixHead,
    LinearHead,
    MeanHead,
    ProbeMixHead,
    StatisticsHead,
)

__all__ = [
    "FUSIONS",
    "HEADS",
    "FusionHead",
    "Head",
    "LayerMixHead",
    "LinearHead",
    "MeanHead",
    "ProbeMixHead",
    "StatisticsHead",
    "ThreeMHead",
    "masked_mean",
]
