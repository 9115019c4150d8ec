#!/usr/bin/env python3
"""Emotion recognition on a corpus of one's own, described by a csv.

> python train.py hparams/whisper_lora.yaml --data_folder=my.csv
> torchrun --nproc_per_node=2 train.py hparams/whisper_lora.yaml \
      --data_folder=my.csv
"""

import sys

from custom_prepare import prepare_custom

from ser_peft.recipe import train_emotion

if __name__ == "__main__":
    train_emotion(sys.argv[1:], prepare_custom)
