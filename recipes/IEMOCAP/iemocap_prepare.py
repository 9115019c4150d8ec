"""Data preparation of IEMOCAP: published folder -> SpeechBrain manifests."""

from ser_peft.data import prepare


def prepare_iemocap(
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
        The published release: ``Session1`` to ``Session5``.
    save_folder : str
        Gets ``train.json``, ``valid.json``, ``test.json`` and
        ``protocol.json``.
    fold : int
        From 1, as many as the protocol has.
    classes : int or dict
        4 (excited is happy), 5 (and frustrated), 6 (excited apart), or a map
        from the corpus's codes.
    protocol : str, optional
        One of `ser_peft.corpora.iemocap.PROTOCOLS`.
    dimensions : list of str
        Of ``arousal``, ``valence`` and ``dominance`` those to predict;
        utterances that lack one are left out. With ``classes`` 0 they are
        predicted alone.

    Raises
    ------
    ser_peft.errors.InputError
        If the folder is not IEMOCAP or a file in it is broken.

    Example
    -------
    >>> prepare_iemocap(
    ...     "/data/IEMOCAP_full_release", "manifests"
    ... )  # doctest: +SKIP
    """
    prepare(
        "iemocap", data_folder, save_folder, classes, fold, protocol, dimensions
    )
