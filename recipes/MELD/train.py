#!/usr/bin/env python3
"""Emotion recognition on MELD, the TV series Friends.

> python train.py hparams/whisper_lora.yaml --data_folder=/data/MELD.Raw
> torchrun --nproc_per_node=2 train.py hparams/whisper_lora.yaml \
      --data_folder=/data/MELD.Raw
"""

import sys

from meld_prepare import prepare_meld

from ser_peft.recipe import train_emotion

if __name__ == "__main__":
    train_emotion(sys.argv[1:], prepare_meld)
