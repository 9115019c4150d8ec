#!/usr/bin/env python3
"""Emotion recognition on MSP-Podcast, on its official splits.

> python train.py hparams/wavlm_lora.yaml --data_folder=/data/MSP-Podcast
> torchrun --nproc_per_node=2 train.py hparams/wavlm_lora.yaml \
      --data_folder=/data/MSP-Podcast
"""

import sys

from msp_podcast_prepare import prepare_msp_podcast

from ser_peft.recipe import train_emotion

if __name__ == "__main__":
    train_emotion(sys.argv[1:], prepare_msp_podcast)
