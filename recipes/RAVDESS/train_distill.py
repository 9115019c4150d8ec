#!/usr/bin/env python3
"""Distillation on RAVDESS: a small student of a larger model.

> python train.py hparams/whisper_lora.yaml --data_folder=/data/RAVDESS
> python train_distill.py hparams/whisper_kd.yaml \
      --data_folder=/data/RAVDESS --teacher=results/whisper_lora/fold1/8
"""

import sys

from ravdess_prepare import prepare_ravdess

from ser_peft.recipe import train_distill

if __name__ == "__main__":
    train_distill(sys.argv[1:], prepare_ravdess)
