#!/usr/bin/env python3
"""Wav2vec 2.0's own pretraining (TAPT) on RAVDESS's training actors.

> python train_tapt.py hparams/tapt.yaml --data_folder=/data/RAVDESS
> python train.py hparams/whisper_vft.yaml --data_folder=/data/RAVDESS \
      --backbone=facebook/wav2vec2-base --init_from=results/tapt/fold1/8
"""

import sys

from ravdess_prepare import prepare_ravdess

from ser_peft.recipe import train_tapt

if __name__ == "__main__":
    train_tapt(sys.argv[1:], prepare_ravdess)
