"""Figure of a trial: UA of its inner folds' valid speakers, pooled."""

import numpy as np

from ser_peft.errors import InputError
from ser_peft.evaluation.metrics import (
    from_confusion,
    speaker_confusions,
    speaker_interval,
)
from ser_peft.evaluation.paired import paired_difference
from ser_peft.evaluation.runs import (
    paired_predictions,
    pooled_predictions,
    read_runs,
)

__all__ = ["compared", "outcome"]


def outcome(runs, held_out):
    """Pool the predictions of a trial's finished trainings.

    Arguments
    ---------
    runs : list of Training
        One an inner fold and seed; those that are not finished are left out.
    held_out : list of str
        Speakers whom nothing may have been scored on.

    Returns
    -------
    dict
        ``ua`` (fraction; each utterance counts once a seed), ``ua_ci95`` over
        speakers (or None), ``start_ua`` (the same of what the trainings
        started from; None where that was not measured), ``seconds`` of
        training, ``done`` (how many are finished) and ``units``: fold ->
        seed -> UA of each valid speaker.

    Raises
    ------
    InputError
        If one was scored on test speakers, has no classes, or its fold had
        other utterances than that of another seed.
    """
    found = _read([run for run in runs if run.finished], held_out)
    if not found:
        return {"done": 0, "units": {}}
    classes = found[0]["classes"]
    pooled = pooled_predictions(found)
    ends, _ = speaker_interval(*pooled, classes)
    units = {}
    for run in found:
        _, counts = speaker_confusions(*pooled_predictions([run]), len(classes))
        seeds = units.setdefault(run["fold"], {})
        seeds[run["seed"]] = from_confusion(counts).tolist()
    starts = [(run.get("start") or {}).get("valid_confusion") for run in found]
    return {
        "ua": _ua([run["confusion"] for run in found]),
        "ua_ci95": ends,
        "start_ua": None if None in starts else _ua(starts),
        "seconds": sum(run["train_seconds"] for run in found),
        "done": len(found),
        "units": units,
    }


def compared(first, second, held_out):
    """Difference of two trials, paired over speakers.

    Arguments
    ---------
    first, second : list of Training
        All finished; of the same folds and seeds in the same order.
    held_out : list of str
        See `outcome`.

    Returns
    -------
    dict
        See `ser_peft.evaluation.paired.paired_difference`.

    Raises
    ------
    InputError
        See `outcome`; also if the corpus has changed between the two.
    """
    rows = []
    for pair in zip(first, second, strict=True):
        one, other = _read(pair, held_out)
        rows += paired_predictions(one, other)
    speakers, *judged = zip(*rows, strict=True)
    return paired_difference(*judged, speakers, one["classes"])


def _read(runs, held_out):
    """Results of trainings, proven to be of inner folds."""
    if not runs:
        return []
    found = read_runs([run.results for run in runs])
    for run in found:
        predictions = (run["predictions"] or {}).values()
        heard = {speaker for speaker, *_ in predictions}
        if (
            run.get("scored_on") != "valid"
            or run.get("test_reads", 0)
            or heard & {*held_out}
        ):
            raise InputError(
                f"{run['file']}: is not of inner folds: test speakers were "
                "scored; delete its folder, and start again"
            )
        if not heard:
            raise InputError(
                f"{run['file']}: has no classes, or no predictions.csv beside "
                "it; trials are judged by their UA"
            )
    return found


def _ua(confusions):
    return float(from_confusion(np.sum(confusions, 0)))
