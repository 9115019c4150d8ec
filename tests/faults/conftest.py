"""Runs that are disturbed, and one that is not.

`make test` takes a few of each kind; with SER_PEFT_SOAK=1, as of `make soak`,
there are many.
"""

import os

import pytest
from outcomes import same

# Everything random is in play: crops, augmentation, dropout, the order.
SETTINGS = {
    "keep": "average",
    "keep_best": 2,
    "adapter_lr": 0.005,
    "max_seconds": 0.4,
    "number_of_epochs": 3,
}


@pytest.fixture(scope="session")
def soak():
    """Whether to take the time for many."""
    return os.environ.get("SER_PEFT_SOAK") == "1"


@pytest.fixture(scope="session")
def argv_of(arguments):
    """Function: folder, overrides -> command line of a run."""

    def make(folder, **overrides):
        given = {"manifests_folder": None, **SETTINGS, **overrides}
        return arguments(folder, **given)

    return make


@pytest.fixture(scope="session")
def run(train, argv_of):
    """Function: folder, how to disturb it, overrides -> how it ended."""

    def start(folder, overrides=(), **how):
        return train(argv_of(folder, **dict(overrides)), **how)

    return start


@pytest.fixture(scope="session")
def unbroken(run, tmp_path_factory):
    """How a run ended that nothing disturbed, with its `folder`.

    Run twice, or no other could be judged.
    """
    folders = [tmp_path_factory.mktemp("unbroken") / name for name in "ab"]
    for folder in folders:
        end = run(folder)
        assert end.code == 0, end.log
    same(*folders)
    end.folder = folders[0]
    return end
