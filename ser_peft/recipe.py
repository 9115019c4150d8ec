"""What the scripts of every recipe do.

The command line is checked first: what trains takes seconds to import.
"""

import logging

from ser_peft.errors import one_line_errors
from ser_peft.settings.yamls import read_command_line

__all__ = ["train_distill", "train_emotion", "train_ptapt", "train_tapt"]


def train_emotion(argv, prepare):
    """Prepare a corpus, train, test once, report.

    Started again after a kill it goes on where it was; started again after
    the end it says so.

    Arguments
    ---------
    argv : list of str
        A yaml and its overrides, as of ``python train.py``.
    prepare : callable
        Writes the manifests to ``save_folder``. Its other parameters are
        keys of the yaml, as ``data_folder``, ``fold``, ``classes``,
        ``protocol``.
    """
    _run("train_emotion", argv, prepare)


def train_distill(argv, prepare):
    """Prepare a corpus, train a student of a teacher, test once, report.

    Arguments
    ---------
    argv, prepare
        See `train_emotion`.
    """
    _run("train_distill", argv, prepare)


def train_tapt(argv, prepare):
    """Prepare a corpus, continue wav2vec 2.0's pretraining on it.

    Arguments
    ---------
    argv, prepare
        See `train_emotion`.
    """
    _run("train_tapt", argv, prepare)


def train_ptapt(argv, prepare):
    """Prepare a corpus, pretrain on it by pseudo-labels: all three phases.

    Each goes on where it was, or is skipped if it is finished.

    Arguments
    ---------
    argv, prepare
        See `train_emotion`. The yaml's ``states`` names the yaml of phase 1,
        which lies beside it and gets all keys that it shares with it and
        that say which corpus, fold, seed, backbone and layer; without one
        the frames of the backbone as it is are clustered.
    """
    _run("train_ptapt", argv, prepare)


def _run(name, argv, prepare):
    with one_line_errors():
        arguments = read_command_line(argv)
        # SpeechBrain misses torchvision, which nothing here needs: of a start
        # that is refused one line is read.
        logging.disable(logging.WARNING)
        from ser_peft.training import runs as training

        logging.disable(logging.NOTSET)
        getattr(training, name)(prepare, *arguments)
