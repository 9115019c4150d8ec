#!/usr/bin/env python3
"""Distillation on IEMOCAP: a small student of a larger model.

> python train.py hparams/3mser_teacher.yaml --data_folder=/data/IEMOCAP
> python train_distill.py hparams/3mser_nanobert_kd.yaml \
      --data_folder=/data/IEMOCAP --teacher=results/3mser_teacher/fold1/8
"""

import sys

from iemocap_prepare import prepare_iemocap

from ser_peft.recipe import train_distill

if __name__ == "__main__":
    train_distill(sys.argv[1:], prepare_iemocap)
