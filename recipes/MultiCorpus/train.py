#!/usr/bin/env python3
"""Emotion recognition on several corpora at once, or across corpora.

> python train.py hparams/whisper_lora.yaml --data_folder=/data
> python train.py hparams/whisper_lora.yaml --data_folder=/data \
      --train_corpora="[iemocap, crema-d]" --test_corpora="[msp-improv]"
> torchrun --nproc_per_node=2 train.py hparams/whisper_lora.yaml \
      --data_folder=/data
"""

import sys

from multicorpus_prepare import prepare_multicorpus

from ser_peft.recipe import train_emotion

if __name__ == "__main__":
    train_emotion(sys.argv[1:], prepare_multicorpus)
