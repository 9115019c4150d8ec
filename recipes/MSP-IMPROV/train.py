#!/usr/bin/env python3
"""Emotion recognition on MSP-IMPROV, tested on actors never heard before.

> python train.py hparams/wavlm_lora.yaml --data_folder=/data/MSP-IMPROV
> torchrun --nproc_per_node=2 train.py hparams/wavlm_lora.yaml \
      --data_folder=/data/MSP-IMPROV
"""

import sys

from msp_improv_prepare import prepare_msp_improv

from ser_peft.recipe import train_emotion

if __name__ == "__main__":
    train_emotion(sys.argv[1:], prepare_msp_improv)
