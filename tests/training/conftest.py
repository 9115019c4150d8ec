"""What the Brains' tests share."""

from inspect import signature

import pytest
from ruamel.yaml import YAML

from ser_peft.data import datasets, prepare
from ser_peft.settings.yamls import build, read_command_line, read_settings
from ser_peft.training import EmotionBrain


@pytest.fixture(scope="session")
def new_brain(arguments):
    """Function: output folder, overrides -> an EmotionBrain, untrained."""

    def make(output, **overrides):
        file, options, given = read_command_line(arguments(output, **overrides))
        reads = {*EmotionBrain.reads, *signature(prepare).parameters}
        text = read_settings(file, given, reads, options)
        settings = YAML().load(text)
        about, sets = datasets(
            settings["manifests_folder"],
            settings["max_seconds"],
            settings["crop"] if settings["augment"] else 1.0,
        )
        return EmotionBrain(build(file, text), options, about, sets)

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
