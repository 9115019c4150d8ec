"""Data preparation of RAVDESS: published folder -> SpeechBrain manifests."""

from ser_peft.data import prepare


def prepare_ravdess(data_folder, save_folder, fold=1, classes=4, protocol=None):
    """Write the manifests of one speaker-independent fold.

    Arguments
    ---------
    data_folder : str
        The published speech archive: ``Actor_01`` to ``Actor_24``, wav or
        flac, any rate.
    save_folder : str
        Gets ``train.json``, ``valid.json``, ``test.json`` and
        ``protocol.json``.
    fold : int
        1 to 5, the folds of PEFT-SER.
    classes : int or dict
        4 (neutral, angry, sad, happy), 7 (PEFT-SER's: calm is neutral), 8,
        or a map from the corpus's labels.
    protocol : str, optional
        One of `ser_peft.corpora.ravdess.PROTOCOLS`.

    Raises
    ------
    ser_peft.errors.InputError
        If the folder is not RAVDESS or a file in it is broken.

    Example
    -------
    >>> prepare_ravdess("/data/RAVDESS", "results/manifests")  # doctest: +SKIP
    """
    prepare("ravdess", data_folder, save_folder, classes, fold, protocol)
