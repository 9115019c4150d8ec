#!/usr/bin/env python3
"""Emotion recognition on IEMOCAP, tested on actors never heard in training.

> python train.py hparams/wavlm_lora.yaml --data_folder=/data/IEMOCAP
> torchrun --nproc_per_node=2 train.py hparams/wavlm_lora.yaml \
      --data_folder=/data/IEMOCAP
"""

import sys

from iemocap_prepare import prepare_iemocap

from ser_peft.recipe import train_emotion

if __name__ == "__main__":
    train_emotion(sys.argv[1:], prepare_iemocap)
