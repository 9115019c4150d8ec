#!/usr/bin/env python3
"""Emotion recognition on CREMA-D, tested on actors never heard in training.

> python train.py hparams/whisper_lora.yaml --data_folder=/data/CREMA-D
> torchrun --nproc_per_node=2 train.py hparams/whisper_lora.yaml \
      --data_folder=/data/CREMA-D
"""

import sys

from crema_d_prepare import prepare_crema_d

from ser_peft.recipe import train_emotion

if __name__ == "__main__":
    train_emotion(sys.argv[1:], prepare_crema_d)
