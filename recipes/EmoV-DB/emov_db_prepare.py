"""Data preparation of EmoV-DB: published folder -> SpeechBrain manifests."""

from ser_peft.data import prepare


def prepare_emov_db(data_folder, save_folder, fold=1, classes=5, protocol=None):
    """Write the manifests of one speaker-independent fold.

    Arguments
    ---------
    data_folder : str
        Holds ``bea_Amused`` and so on, or ``bea/Amused``.
    save_folder : str
        Gets ``train.json``, ``valid.json``, ``test.json`` and
        ``protocol.json``.
    fold : int
        1 to 4: Bea, Jenie, Josh or Sam is tested.
    classes : int or dict
        5 (neutral, angry, amused, disgust, sleepy), 3 (neutral, amused,
        sleepy: what everybody acts), or a map from the corpus's labels.
    protocol : str, optional
        One of `ser_peft.corpora.emov_db.PROTOCOLS`.

    Raises
    ------
    ser_peft.errors.InputError
        If the folder is not EmoV-DB or a file in it is broken.

    Example
    -------
    >>> prepare_emov_db("/data/EmoV-DB", "manifests")  # doctest: +SKIP
    """
    prepare("emov-db", data_folder, save_folder, classes, fold, protocol)
