"""Brains, one a way of training, and the run around them."""

from ser_peft.training.base import PeftBrain
from ser_peft.training.distillation import DistillBrain
from ser_peft.training.emotion import EmotionBrain
from ser_peft.training.pretraining import TaptBrain
from ser_peft.training.ptapt import PtaptBrain, StateBrain
from ser_peft.training.run import Run, checked_run, ddp_group, prepare

__all__ = [
    "DistillBrain",
    "EmotionBrain",
    "PeftBrain",
    "PtaptBrain",
    "Run",
    "StateBrain",
    "TaptBrain",
    "checked_run",
    "ddp_group",
    "prepare",
]
