#!/usr/bin/env python3
"""Emotion recognition on EmoDB, tested on actors never heard in training.

> python train.py hparams/whisper_lora.yaml --data_folder=/data/EmoDB
> torchrun --nproc_per_node=2 train.py hparams/whisper_lora.yaml \
      --data_folder=/data/EmoDB
"""

import sys

from emodb_prepare import prepare_emodb

from ser_peft.recipe import train_emotion

if __name__ == "__main__":
    train_emotion(sys.argv[1:], prepare_emodb)
