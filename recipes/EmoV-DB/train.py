#!/usr/bin/env python3
"""Emotion recognition on EmoV-DB, tested on a speaker never heard before.

> python train.py hparams/whisper_lora.yaml --data_folder=/data/EmoV-DB
> torchrun --nproc_per_node=2 train.py hparams/whisper_lora.yaml \
      --data_folder=/data/EmoV-DB
"""

import sys

from emov_db_prepare import prepare_emov_db

from ser_peft.recipe import train_emotion

if __name__ == "__main__":
    train_emotion(sys.argv[1:], prepare_emov_db)
