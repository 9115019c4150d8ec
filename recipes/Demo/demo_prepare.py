"""Data preparation of the Demo corpus -> SpeechBrain manifests."""

from ser_peft.data import prepare


def prepare_demo(data_folder, save_folder, fold=1, classes=4, protocol=None):
    """Write the manifests of one speaker-independent fold.

    Arguments
    ---------
    data_folder : str
        What ``make_corpus.py`` wrote.
    save_folder : str
        Gets ``train.json``, ``valid.json``, ``test.json`` and
        ``protocol.json``.
    fold : int
        1 to 4; each voice is tested once.
    classes : int or dict
        4 (neutral, angry, sad, happy), or a map from these labels.

    Raises
    ------
    ser_peft.errors.InputError
        If the folder is not the Demo corpus or a file in it is broken.
    """
    prepare("demo", data_folder, save_folder, classes, fold, protocol)
