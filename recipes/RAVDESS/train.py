#!/usr/bin/env python3
"""Emotion recognition on RAVDESS, tested on actors never heard in training.

> python train.py hparams/whisper_lora.yaml --data_folder=/data/RAVDESS
> torchrun --nproc_per_node=2 train.py hparams/whisper_lora.yaml \
      --data_folder=/data/RAVDESS
"""

import sys

from ravdess_prepare import prepare_ravdess

from ser_peft.recipe import train_emotion

if __name__ == "__main__":
    train_emotion(sys.argv[1:], prepare_ravdess)
