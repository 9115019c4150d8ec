"""Whether a model that others start from, or learn of, heard the test set."""

import json
import logging
from pathlib import Path

from ser_peft.errors import InputError

__all__ = ["check_unheard"]

logger = logging.getLogger(__name__)

RECORDS = ("results.json", "pretraining.json")


def check_unheard(model, about, test_speakers, key):
    """Refuse a model that may have been trained on this run's test speakers.

    Arguments
    ---------
    model : str or Path
        ``model/`` folder; beside it lies what its run measured.
    about : dict
        ``protocol.json`` of this run's manifests.
    test_speakers : set of str
        Of this run.
    key : str
        Of the yaml, for the message.

    Returns
    -------
    str or None
        ``protocol_sha`` of the model's run, where that is known.

    Raises
    ------
    InputError
        If it was trained on the same corpus and other folds than this run.
    """
    model = Path(model)
    record = next(
        (
            path
            for path in (model.parent / name for name in RECORDS)
            if model.name == "model" and path.exists()
        ),
        None,
    )
    if record is None:
        logger.warning(
            "%s %s: has no results.json beside it, so that nobody can tell "
            "whether it has heard those whom this run tests", key, model,
        )  # fmt: skip
        return None
    try:
        run = json.loads(record.read_text(encoding="utf-8"))
        names = ("protocol", "fold", "protocol_sha", "corpus")
        protocol, fold, sha, corpus = (run[name] for name in names)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{record}: cannot be read ({error!r}); copy it again"
        ) from error
    unheard = corpus != about["corpus"] or sha == about["protocol_sha"]
    if "test_speakers" in run:  # as of other classes of the same fold
        unheard |= set(test_speakers) <= set(run["test_speakers"])
    else:
        unheard |= (protocol, fold) == (about["protocol"], about["fold"])
    if not unheard:
        raise InputError(
            f"{key} {model}: is of {protocol}, fold {fold}, and may have heard "
            f"those whom this run tests; give one of {about['protocol']}, fold "
            f"{about['fold']}"
        )
    return sha
