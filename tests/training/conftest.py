"""What the Brains' tests share."""

import pytest
from hyperpyyaml import load_hyperpyyaml

from ser_peft.settings.arguments import parse_arguments
from ser_peft.training import Run


@pytest.fixture(scope="session")
def brain_from():
    """Function: arguments of train.py -> its Brain, untrained."""

    def make(argv):
        run = Run(*parse_arguments(argv))
        values = run.values
        about, datasets = run.brain.datasets(
            values["manifests_folder"],
            values["max_seconds"],
            values.get("crop", 1.0) if values.get("augment") else 1.0,
            values.get("first_seconds"),
        )
        hparams = load_hyperpyyaml(run.yaml(about))
        return hparams["brain"](
            modules=hparams["modules"],
            opt_class={k: hparams[k] for k in ("adapter_opt", "head_opt")},
            hparams=hparams,
            run_opts=run.run_opts,
            checkpointer=hparams["checkpointer"],
            about=about,
            datasets=datasets,
        )

    return make


@pytest.fixture(scope="session")
def new_brain(arguments, brain_from):
    """Function: output folder, overrides -> an EmotionBrain, untrained."""

    def make(output, **overrides):
        return brain_from(arguments(output, **overrides))

    return make


@pytest.fixture(scope="session")
def fit():
    """Function: trains a Brain as the recipes do, and returns it."""

    def run(brain):
        brain.fit(
            brain.hparams.epoch_counter,
            brain.train_loader(),
            brain.eval_loader("valid"),
        )
        return brain

    return run
