"""Data preparation of one's own corpus: csv -> SpeechBrain manifests."""

from ser_peft.data import prepare
from ser_peft.settings.flags import place


def prepare_custom(
    data_folder,
    save_folder,
    fold=1,
    classes="all",
    protocol=None,
    dimensions=(),
):
    """Write the manifests of one fold.

    Arguments
    ---------
    data_folder : str
        A csv, or a folder that holds just one; or ``emobox:NAME@FOLDER``: a
        corpus that EmoBox describes, and EmoBox's ``data`` folder.
    save_folder : str
        Gets ``train.json``, ``valid.json``, ``test.json`` and
        ``protocol.json``.
    fold : int
        1 to 5, or to the number of speakers of the rarest class if they are
        fewer; 1 with a column ``split``; EmoBox's.
    classes : str, int or dict
        ``all`` labels, 4 (neutral, angry, sad, happy) where these occur, or
        a map from the labels.
    protocol : str, optional
        There is but one to choose from.
    dimensions : list of str
        Of the csv's columns ``arousal``, ``valence`` and ``dominance`` those
        to predict; utterances that lack one are left out. With ``classes`` 0
        they are predicted alone.

    Raises
    ------
    ser_peft.errors.InputError
        If a cell or a recording cannot be used.

    Example
    -------
    >>> prepare_custom("my.csv", "manifests")  # doctest: +SKIP
    """
    corpus = "custom"
    if data_folder.startswith("emobox:"):
        corpus, _, data_folder = data_folder.partition("@")
        data_folder = place(data_folder, "data_folder")
    prepare(
        corpus, data_folder, save_folder, classes, fold, protocol, dimensions
    )
