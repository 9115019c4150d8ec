#!/usr/bin/env python3
"""Recipe for training a speech emotion recogniser: one script for all yamls.

> python train.py hparams/wavlm_lora.yaml --data_folder=/data/RAVDESS
> python train.py hparams/wavlm_lora.yaml --data_folder=... --method=dora
> torchrun --nproc_per_node=2 train.py hparams/wavlm_lora.yaml \
      --data_folder=/data/RAVDESS
> python train.py hparams/wavlm_lora.yaml --help

The yaml says which corpus, which model and, by its Brain, which way of
training: emotion recognition, distillation, TAPT or P-TAPT.

Authors
 * The ser_peft developers 2026
"""

import sys

from ser_peft.errors import one_line_errors
from ser_peft.settings.arguments import parse_arguments


def train(hparams_file, run_opts, overrides):
    """Train, test once, report; or go on where a killed run was."""
    # Check all that can be checked before anything is written, and see that
    # no other process writes to the same folders.
    with checked_run(hparams_file, run_opts, overrides) as run:
        if run.finished:
            return
        hparams = run.values

        # Data preparation, to be run on only one process.
        run_on_main(
            prepare,
            kwargs={
                "corpus": hparams["corpus"],
                "data_folder": hparams["data_folder"],
                "save_folder": hparams["manifests_folder"],
                "classes": hparams["classes"],
                "fold": hparams["fold"],
                "protocol": hparams.get("protocol"),
                "dimensions": hparams.get("dimensions", ()),
                "train_classes": hparams.get("train_classes"),
            },
        )
        # P-TAPT needs pseudo-labels, which come from a training of its own.
        run.brain.prepare_labels(run, train)

        # Datasets: in training, clips are cut to a random part.
        about, datasets = run.brain.datasets(
            hparams["manifests_folder"],
            hparams["max_seconds"],
            hparams.get("crop", 1.0) if hparams.get("augment") else 1.0,
            hparams.get("first_seconds"),
        )
        # Load the hyperparameters: build what the yaml describes.
        hparams = load_hyperpyyaml(run.yaml(about))
        run.check_built(hparams)
        brain = hparams["brain"](
            modules=hparams["modules"],
            opt_class={
                "adapter_opt": hparams["adapter_opt"],
                "head_opt": hparams["head_opt"],
            },
            hparams=hparams,
            run_opts=run.run_opts,
            checkpointer=hparams["checkpointer"],
            about=about,
            datasets=datasets,
        )
        brain.look_for_kept()
        loaders = brain.train_loader(), brain.eval_loader("valid")

        # Create experiment directory: it keeps a copy of this script.
        sb.create_experiment_directory(hparams["output_folder"])
        run.begin(brain, hparams["train_logger"])

        # Training goes on where it was, between two epochs.
        brain.fit(hparams["epoch_counter"], *loaders)

        # Load what valid chose, test it once, write the report.
        brain.evaluate_kept()
        brain.report()


if __name__ == "__main__":
    with one_line_errors():
        arguments = parse_arguments(sys.argv[1:])

        # Imported only now: a wrong flag is told before these take seconds.
        import speechbrain as sb
        from hyperpyyaml import load_hyperpyyaml
        from speechbrain.utils.distributed import run_on_main

        from ser_peft.training import checked_run, ddp_group, prepare

        with ddp_group(arguments):
            train(*arguments)
