"""Emotion scores from the hidden states of encoders."""

from ser_peft.heads.fusion import FUSIONS, FusionHead, ThreeMHead
from ser_peft.heads.speech import (
    HEADS,
    AttentivePoolingHead,
    Head,
    LayerMixHead,
    LinearHead,
    MeanHead,
    ProbeMixHead,
    StatisticsHead,
    masked_mean,
)

__all__ = [
    "FUSIONS",
    "HEADS",
    "Head",
    "AttentivePoolingHead",
    "FusionHead",
    "LayerMixHead",
    "LinearHead",
    "MeanHead",
    "ProbeMixHead",
    "StatisticsHead",
    "ThreeMHead",
    "masked_mean",
]
