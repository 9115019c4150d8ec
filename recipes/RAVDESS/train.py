#!/usr/bin/env python3
"""Emotion recognition on RAVDESS, on actors never heard in training.

> python train.py hparams/whisper_lora.yaml --data_folder=/data/RAVDESS
> torchrun --nproc_per_node=2 train.py hparams/whisper_lora.yaml \
      --data_folder=/data/RAVDESS
"""

import sys

import speechbrain as sb
from ravdess_prepare import prepare_ravdess
from speechbrain.utils.distributed import ddp_init_group, run_on_main

from ser_peft.brains import EmotionBrain
from ser_peft.data import datasets
from ser_peft.errors import one_line_errors
from ser_peft.recipe import finished, load_hparams


def main(argv):
    """Prepare, train, test once, report."""
    hparams_file, run_opts, overrides = sb.parse_arguments(argv)
    ddp_init_group(run_opts)
    hparams = load_hparams(hparams_file, overrides, EmotionBrain.reads)
    folder = hparams["output_folder"]
    if finished(hparams_file, overrides, folder):
        print(f"{folder}/results.json: this run is finished")
        return
    run_on_main(
        prepare_ravdess,
        kwargs={
            "data_folder": hparams["data_folder"],
            "save_folder": hparams["manifests_folder"],
            "fold": hparams["fold"],
            "classes": hparams["classes"],
        },
    )
    about, sets = datasets(hparams["manifests_folder"], hparams["max_seconds"])
    sb.create_experiment_directory(folder, hparams_file, overrides)
    brain = EmotionBrain(hparams, run_opts, about, sets)
    brain.fit(
        hparams["epoch_counter"], brain.train_loader(), brain.eval_loader("valid")
    )
    brain.report()


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
