#!/usr/bin/env python3
"""Pretraining on RAVDESS by pseudo-labels (P-TAPT), of the training actors.

> python train_ptapt.py hparams/whisper_ptapt.yaml --data_folder=/data/RAVDESS
> python train.py hparams/whisper_vft.yaml --data_folder=/data/RAVDESS \
      --init_from=results/whisper_ptapt/fold1/8
"""

import sys

from ravdess_prepare import prepare_ravdess

from ser_peft.recipe import train_ptapt

if __name__ == "__main__":
    train_ptapt(sys.argv[1:], prepare_ravdess)
