"""Data preparation of MSP-Podcast: its release -> SpeechBrain manifests."""

from ser_peft.data import prepare


def prepare_msp_podcast(
    data_folder,
    save_folder,
    fold=1,
    classes=4,
    protocol=None,
    dimensions=(),
):
    """Write the manifests of one fold.

    Arguments
    ---------
    data_folder : str
        A release, 1.6 to 1.12: ``Labels`` and ``Audios``.
    save_folder : str
        Gets ``train.json``, ``valid.json``, ``test.json`` and
        ``protocol.json``.
    fold : int
        1: the splits are official.
    classes : int or dict
        4 (neutral, angry, sad, happy), 8, or a map from the corpus's letters.
    protocol : str, optional
        One of `ser_peft.corpora.msp_podcast.PROTOCOLS`.
    dimensions : list of str
        Of ``arousal``, ``valence`` and ``dominance`` those to predict;
        utterances that lack one are left out. With ``classes`` 0 they are
        predicted alone.

    Raises
    ------
    ser_peft.errors.InputError
        If the folder is not MSP-Podcast or a file in it is broken.

    Example
    -------
    >>> prepare_msp_podcast("/data/MSP-Podcast", "manifests")  # doctest: +SKIP
    """
    prepare(
        "msp-podcast",
        data_folder,
        save_folder,
        classes,
        fold,
        protocol,
        dimensions,
    )
