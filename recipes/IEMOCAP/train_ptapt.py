#!/usr/bin/env python3
"""Pretraining on IEMOCAP by pseudo-labels (P-TAPT), of the training sessions.

> python train_ptapt.py hparams/ptapt.yaml --data_folder=/data/IEMOCAP
> python train.py hparams/vft.yaml --data_folder=/data/IEMOCAP \
      --init_from=results/ptapt/fold1/8
"""

import sys

from iemocap_prepare import prepare_iemocap

from ser_peft.recipe import train_ptapt

if __name__ == "__main__":
    train_ptapt(sys.argv[1:], prepare_iemocap)
