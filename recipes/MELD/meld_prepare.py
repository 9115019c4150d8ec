"""Data preparation of MELD: published folder -> SpeechBrain manifests."""

from ser_peft.data import prepare


def prepare_meld(data_folder, save_folder, fold=1, classes=4, protocol=None):
    """Write the manifests of one split: the official one.

    Arguments
    ---------
    data_folder : str
        The published folder, with the sound extracted from the videos.
    save_folder : str
        Gets ``train.json``, ``valid.json``, ``test.json`` and
        ``protocol.json``.
    fold : int
        1.
    classes : int or dict
        4 (neutral, angry, sad, happy), 7 (also fearful, disgust,
        surprised), or a map from the corpus's labels.
    protocol : str, optional
        One of `ser_peft.corpora.meld.PROTOCOLS`.

    Raises
    ------
    ser_peft.errors.InputError
        If the folder is not MELD or a file in it is broken.

    Example
    -------
    >>> prepare_meld("/data/MELD.Raw", "manifests")  # doctest: +SKIP
    """
    prepare("meld", data_folder, save_folder, classes, fold, protocol)
