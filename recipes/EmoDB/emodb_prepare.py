"""Data preparation of EmoDB: published folder -> SpeechBrain manifests."""

from ser_peft.data import prepare


def prepare_emodb(data_folder, save_folder, fold=1, classes=4, protocol=None):
    """Write the manifests of one speaker-independent fold.

    Arguments
    ---------
    data_folder : str
        Holds ``wav/03a01Fa.wav`` and so on.
    save_folder : str
        Gets ``train.json``, ``valid.json``, ``test.json`` and
        ``protocol.json``.
    fold : int
        1 to 5; with ``leave-one-speaker-out`` 1 to 10.
    classes : int or dict
        4 (neutral, angry, sad, happy), 7 (also bored, disgust, fearful), or
        a map from the corpus's labels.
    protocol : str, optional
        One of `ser_peft.corpora.emodb.PROTOCOLS`.

    Raises
    ------
    ser_peft.errors.InputError
        If the folder is not EmoDB or a file in it is broken.

    Example
    -------
    >>> prepare_emodb("/data/EmoDB", "manifests")  # doctest: +SKIP
    """
    prepare("emodb", data_folder, save_folder, classes, fold, protocol)
