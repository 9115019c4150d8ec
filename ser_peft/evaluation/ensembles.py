"""Ensembles of runs, tested on speakers whom none of their members heard."""

import logging
from pathlib import Path

import numpy as np

from ser_peft.corpora.splits import fingerprint
from ser_peft.data import measured_on
from ser_peft.errors import InputError
from ser_peft.evaluation.elsewhere import fitting, of_manifests
from ser_peft.evaluation.ensemble_scores import (
    compare_with_members,
    scores_with_intervals,
)
from ser_peft.evaluation.members import ScoredSet, read_members
from ser_peft.evaluation.reads import note_read
from ser_peft.evaluation.results import (
    UNTRAINED,
    corpus_scores,
    run_results,
    versions,
)
from ser_peft.evaluation.runs import manifests_of
from ser_peft.inference import load_model
from ser_peft.inference.export import assemble

__all__ = ["ensembles"]

logger = logging.getLogger(__name__)


def ensembles(
    paths,
    out,
    test=None,
    trust_start=False,
    device="cpu",
    batch_seconds=60,
    **places,
):
    """Make ensembles of runs, one for each set of test speakers.

    An ensemble's probabilities are the mean of the calibrated ones of its
    members. It is tested on its members' own test set, by what their runs
    answered there, and only on speakers whom none of the members has heard.

    Arguments
    ---------
    paths : list of str or Path
        See `ser_peft.evaluation.members.read_members`. Runs that were tested
        on the same speakers, as with several seeds, are one ensemble; models
        without a test set of their own join every one.
    out : str or Path
        Folder of the ensemble; of several, each has a folder ``fold<K>`` in
        it.
    test : str or Path, optional
        Manifests to test on instead, see
        `ser_peft.evaluation.elsewhere.of_manifests`: all models are one
        ensemble then.
    trust_start : bool
        Take models without a record of the speakers they have heard.
    device : str
        Device to compute on.
    batch_seconds : float
        Seconds of audio in a batch.
    **places
        Places of the encoders, see `ser_peft.inference.load_model`.

    Returns
    -------
    found : dict
        ``corpus``, ``protocol``, ``classes``, ``dimensions``, ``versions``;
        ``ensembles``, one dict each: ``fold``, ``folder`` (in `out`),
        ``members`` (see below), ``test_speakers``, ``test_utterances``,
        ``left_out`` (test speakers whom members have heard) and the entries of
        `compare_with_members`; and ``pooled``, those of all test sets
        together. A member has ``name``, ``backbone``, ``method``, ``seed``
        and ``scores`` as in `compare_with_members`.
    runs : list of dict
        Of each ensemble ``folder``, ``results`` and ``predictions``, as
        `ser_peft.report.run_page.write_report` takes them.

    Raises
    ------
    InputError
        If something of the models is missing, they differ in classes or
        dimensions, there is no test set, or nobody in one whom no member has
        heard.
    """
    out = Path(out)
    groups = [
        (members, *_unheard(members, tested))
        for members, tested in _groups(read_members(paths, trust_start), test)
    ]
    entries, answers, runs = [], [], []
    for members, tested, left_out in groups:
        name = f"fold{tested.about['fold']}" if len(groups) > 1 else "."
        results, whole, own, told = _make(
            members, tested, out / name, trust_start, device, batch_seconds,
            places,
        )  # fmt: skip
        entry = {
            "fold": results["fold"],
            "folder": name,
            "members": [
                {**one, "scores": scores_with_intervals([each], tested.about)}
                for one, each in zip(told, own, strict=True)
            ],
            "test_speakers": results["test_speakers"],
            "test_utterances": results["test_utterances"],
            "left_out": left_out,
            **compare_with_members([(whole, own)], tested.about),
        }
        results["ensemble"] = entry
        runs.append(
            {"folder": out / name, "results": results, "predictions": whole}
        )
        entries.append(entry)
        answers.append((whole, own))
    kept = ("corpus", "protocol", "classes", "dimensions")
    found = {
        **{key: tested.about[key] for key in kept},
        "ensembles": entries,
        "pooled": compare_with_members(answers, tested.about),
        "versions": versions(),
    }
    return found, runs


def _groups(members, test):
    """Lists of members with the test set of each, in the order of folds."""
    alone = [one for one in members if one.test is None]
    if test:
        for one in members:
            # Ids may be those of its own test set, of other recordings.
            one.forget_answers()
        first = members[0].about
        told = first["classes"], [*first["dimensions"]]
        about, entries = fitting(*of_manifests(Path(test)), *told, test)
        about["protocol_sha"] = fingerprint({"test": entries})
        return [(members, ScoredSet(about, entries))]
    if len(alone) == len(members):
        raise InputError(
            f"{members[0].name}: has no test set of its own, nor has any of "
            "the others; give one by --test: a folder of manifests, or a "
            "split in one"
        )
    groups, titles = {}, {}
    for one in members:
        if one.test is None:
            continue
        titles.setdefault(
            tuple(str(one.test.about[k]) for k in ("corpus", "protocol")), one
        )
        groups.setdefault(frozenset(one.test.speakers), []).append(one)
    if len(titles) > 1:
        told = [
            f"{one.name}: {', '.join(title)}" for title, one in titles.items()
        ]
        raise InputError(
            f"{'; '.join(told)}: tested by different protocols; give those of "
            "one, or a set for all by --test"
        )
    return sorted(
        ((own + alone, own[0].test) for own in groups.values()),
        key=lambda group: group[1].about["fold"],
    )


def _unheard(members, tested):
    """Test set without speakers whom members heard; and these, by name."""
    heard = set().union(*(one.heard for one in members))
    left_out = sorted(speaker for _, speaker in tested.speakers & heard)
    if not left_out:
        return tested, []
    names = ", ".join(left_out[:5] + ["..."] * (len(left_out) > 5))
    about = tested.about
    where = f"{about['corpus']}, {about['protocol']}, fold {about['fold']}"
    rest = tested.without(heard)
    if not rest.entries:
        raise InputError(
            f"{where}: every test speaker has been heard by one of the "
            f"{len(members)} members ({names}): nobody is left whom an "
            "ensemble of these could be tested on; give runs of one fold, or "
            "another set by --test"
        )
    logger.warning(
        "%s: %d of the %d test speakers are left out, whom members have heard: "
        "%s", where, len(left_out), len(tested.speakers), names,
    )  # fmt: skip
    sha = fingerprint({"test": rest.entries})
    rest.about = {
        **about,
        "protocol": f"{about['protocol']}, unheard",
        "protocol_sha": sha,
    }
    return rest, left_out


def _make(members, tested, folder, trust, device, batch_seconds, places):
    """Write an ensemble's model; answer its test set.

    Returns
    -------
    results : dict
        ``results.json``, but for ``ensemble``.
    whole : dict
        Answers of the ensemble, see `run_results`.
    own : list of dict
        The same of each member.
    told : list of dict
        Of each member ``name``, ``backbone``, ``method`` and ``seed``.
    """
    about = tested.about
    if not all(one.has(tested) for one in members) and not any(
        "wav" in entry for entry in tested.entries.values()
    ):
        source, manifests = manifests_of(
            [one.run for one in members if one.run]
        )
        about = {**about, "data_folder": source["data_folder"]}
        entries = {id_: manifests["test"][id_] for id_ in tested.entries}
        tested = ScoredSet(about, entries)
    (folder / "results.json").unlink(missing_ok=True)
    reads = note_read(folder, f"ensemble of {len(members)}")
    heard = assemble([one.folder for one in members], folder / "model", trust)
    model = load_model(folder / "model", device=device, **places)
    answers = [
        one.answers(tested, network, device, batch_seconds)
        for one, network in zip(members, model.members, strict=True)
    ]

    def measured(numbers):
        chances, guesses = np.split(numbers, [len(about["classes"])], 1)
        ids = sorted(tested.entries)
        return measured_on(tested.entries, ids, about, chances, guesses)

    whole = measured(np.mean(answers, 0))
    results = run_results(
        about,
        None,
        whole,
        {},
        model,
        **corpus_scores(tested.entries, whole, about["classes"]),
        **UNTRAINED,
        kept=f"the mean of the calibrated probabilities of {len(members)} "
        "models",
        train_seconds=sum(
            one.run["train_seconds"] for one in members if one.run
        ),
        test_reads=reads,
        device=str(device),
        heard=heard,
    )
    told = [
        {
            "name": one.name,
            **{k: network.describe()[k] for k in ("backbone", "method")},
            "seed": one.run and one.run["seed"],
        }
        for one, network in zip(members, model.members, strict=True)
    ]
    return results, whole, [measured(one) for one in answers], told
