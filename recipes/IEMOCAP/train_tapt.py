#!/usr/bin/env python3
"""Wav2vec 2.0's own pretraining (TAPT) on IEMOCAP's training sessions.

> python train_tapt.py hparams/tapt.yaml --data_folder=/data/IEMOCAP
> python train.py hparams/vft.yaml --data_folder=/data/IEMOCAP \
      --init_from=results/tapt/fold1/8
"""

import sys

from iemocap_prepare import prepare_iemocap

from ser_peft.recipe import train_tapt

if __name__ == "__main__":
    train_tapt(sys.argv[1:], prepare_iemocap)
