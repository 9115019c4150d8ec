"""Data preparation of CREMA-D: published folder -> SpeechBrain manifests."""

from ser_peft.data import prepare


def prepare_crema_d(data_folder, save_folder, fold=1, classes=4, protocol=None):
    """Write the manifests of one speaker-independent fold.

    Arguments
    ---------
    data_folder : str
        The published folder: ``AudioWAV``, ``VideoDemographics.csv`` and
        ``processedResults/summaryTable.csv``.
    save_folder : str
        Gets ``train.json``, ``valid.json``, ``test.json`` and
        ``protocol.json``.
    fold : int
        1 to 5, the folds of PEFT-SER.
    classes : int or dict
        4 (neutral, angry, sad, happy), 6 (also fearful, disgust), or a map
        from the corpus's labels.
    protocol : str, optional
        One of `ser_peft.corpora.crema_d.PROTOCOLS`.

    Raises
    ------
    ser_peft.errors.InputError
        If the folder is not CREMA-D or a file in it is broken.

    Example
    -------
    >>> prepare_crema_d("/data/CREMA-D", "manifests")  # doctest: +SKIP
    """
    prepare("crema-d", data_folder, save_folder, classes, fold, protocol)
