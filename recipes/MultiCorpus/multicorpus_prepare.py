"""Data preparation of several corpora: folders -> SpeechBrain manifests."""

from ser_peft.data.pool import prepare_pool


def prepare_multicorpus(
    corpora,
    save_folder,
    train_corpora,
    test_corpora,
    fold=1,
    classes=4,
    protocol="released",
    whole_targets=False,
):
    """Write the manifests of a training on several corpora.

    Arguments
    ---------
    corpora : dict
        Name -> its folder as published. Only those named below are read.
    save_folder : str
        Gets ``train.json``, ``valid.json``, ``test.json`` and
        ``protocol.json``.
    train_corpora : list of str
        Corpora to train and validate on.
    test_corpora : list of str
        Corpora to test on: their test splits, of unheard ones too.
    fold : int
        From 1; of corpora with more than one.
    classes : int or str
        A class set that all of them have, as 4.
    protocol : str, optional
        Of the corpora that have it; the others' first one.
    whole_targets : bool
        Corpora that are not trained on are tested whole, not their test
        splits alone.

    Raises
    ------
    ser_peft.errors.InputError
        If a folder is not the corpus it should be, or a file in it is broken.

    Example
    -------
    >>> prepare_multicorpus(
    ...     {"crema-d": "/data/CREMA-D", "ravdess": "/data/RAVDESS"},
    ...     "manifests",
    ...     train_corpora=["crema-d"],
    ...     test_corpora=["ravdess"],
    ... )  # doctest: +SKIP
    """
    prepare_pool(
        corpora,
        save_folder,
        train_corpora,
        test_corpora,
        classes,
        fold,
        protocol,
        whole_targets,
    )
