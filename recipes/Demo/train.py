#!/usr/bin/env python3
"""Emotion recognition on the Demo corpus, tested on voices never heard.

> python make_corpus.py demo_data
> python train.py hparams/whisper_lora.yaml --data_folder=demo_data
"""

import sys

from demo_prepare import prepare_demo

from ser_peft.recipe import train_emotion

if __name__ == "__main__":
    train_emotion(sys.argv[1:], prepare_demo)
