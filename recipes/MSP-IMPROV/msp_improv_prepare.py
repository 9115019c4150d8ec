"""Data preparation of MSP-IMPROV: published folder -> SpeechBrain manifests."""

from ser_peft.data import prepare


def prepare_msp_improv(
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
        The published release: ``Evalution.txt`` and ``Audio``.
    save_folder : str
        Gets ``train.json``, ``valid.json``, ``test.json`` and
        ``protocol.json``.
    fold : int
        1 to 6: the session that is tested.
    classes : int or dict
        4 (neutral, angry, sad, happy), or a map from the corpus's letters.
    protocol : str, optional
        One of `ser_peft.corpora.msp_improv.PROTOCOLS`.
    dimensions : list of str
        Of ``arousal``, ``valence`` and ``dominance`` those to predict;
        utterances that lack one are left out. With ``classes`` 0 they are
        predicted alone.

    Raises
    ------
    ser_peft.errors.InputError
        If the folder is not MSP-IMPROV or a file in it is broken.

    Example
    -------
    >>> prepare_msp_improv("/data/MSP-IMPROV", "manifests")  # doctest: +SKIP
    """
    prepare(
        "msp-improv",
        data_folder,
        save_folder,
        classes,
        fold,
        protocol,
        dimensions,
    )
