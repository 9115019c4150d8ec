"""Members of an ensemble, and what they answer on test sets."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ser_peft.data.provenance import pairs_of, record_of, speakers_of
from ser_peft.errors import InputError
from ser_peft.evaluation.calibration import scale
from ser_peft.evaluation.elsewhere import measure
from ser_peft.evaluation.runs import folder_of, names_of, read_runs
from ser_peft.inference import read_model
from ser_peft.storage.cells import of_cell
from ser_peft.storage.released import is_name

__all__ = ["Member", "ScoredSet", "read_members"]


@dataclass
class ScoredSet:
    """A test set.

    Arguments
    ---------
    about : dict
        Entries of ``protocol.json`` that say what it is.
    entries : dict
        Id -> speaker, emotion, dimensions, and corpus in a pool of corpora;
        all of a manifest's entry where it is from one.
    """

    about: dict
    entries: dict

    @property
    def speakers(self):
        """Pairs (corpus, speaker), see `speakers_of`."""
        return speakers_of(self.about, self.entries.values())

    def without(self, heard):
        """This set without speakers of whom some are heard.

        Arguments
        ---------
        heard : set of tuple
            Pairs (corpus, speaker).

        Returns
        -------
        ScoredSet
        """
        kept = {
            id_: entry
            for id_, entry in self.entries.items()
            if not speakers_of(self.about, [entry]) & heard
        }
        return ScoredSet(self.about, kept)


class Member:
    """A model of an ensemble.

    Arguments
    ---------
    name : str
        Name for tables.
    folder : Path
        Model folder.
    run : dict or None
        From `ser_peft.evaluation.runs.read_runs`; None of a model without a
        test set of its own.
    trust : bool
        Take it without a record of the speakers it has heard.
    """

    def __init__(self, name, folder, run, trust):
        self.name, self.run = name, run
        self.folder, self.about = read_model(folder)
        self.heard = pairs_of(record_of("member", self.folder, trust).speakers)
        self.test = self._answers = None
        if run:
            self.test, self._answers = _read_answers(run)

    def answers(self, test, model, device, batch_seconds):
        """Calibrated answers: those of its run, or new ones.

        Arguments
        ---------
        test : ScoredSet
            Utterances, from manifests unless its run has them all.
        model : EmotionModel
            The member, loaded.
        device : str
            Device that it is on.
        batch_seconds : float
            Seconds of audio in a batch.

        Returns
        -------
        np.ndarray
            Probabilities, then dimensions, in the order of the sorted ids,
            [N, C + D].
        """
        if self.has(test):
            return np.array(
                [self._answers[id_] for id_ in sorted(test.entries)]
            )
        found = measure(model, test.about, test.entries, device, batch_seconds)
        parts = []
        if test.about["classes"]:
            chances = scale(found["probabilities"], model.temperature)
            parts.append(chances)
        if test.about["dimensions"]:
            parts.append(found["predicted_values"])
        return np.concatenate(parts, 1)

    def forget_answers(self):
        """Answer everything anew."""
        self._answers = None

    def has(self, test):
        """Whether its run has answered all utterances of a test set."""
        return test.entries.keys() <= (self._answers or {}).keys()


def read_members(paths, trust=False):
    """Read the models that an ensemble is to be made of.

    Arguments
    ---------
    paths : list of str or Path
        Finished runs, folders of them searched at any depth, model folders,
        or names of models. Ensembles that are found are left out.
    trust : bool
        See `Member`.

    Returns
    -------
    list of Member

    Raises
    ------
    InputError
        If there are none, one is given twice, or something of it is missing.
    """
    models, searched = {}, []
    for path in paths:
        if is_name(path) or (Path(path) / "model.json").is_file():
            folder, _ = read_model(path)
            beside = folder.parent / "results.json"
            if folder.name != "model" or not beside.is_file():
                models[folder.resolve()] = None
                continue
            path = beside
        searched.append(path)
    runs = [
        run
        for run in (read_runs(searched) if searched else [])
        if "ensemble" not in run
    ]
    if not (runs or models):
        raise InputError(
            f"{', '.join(map(str, paths))}: holds ensembles alone; give the "
            "runs that they were made of"
        )
    places = [folder_of(run["file"]) for run in runs]
    found = [*zip(places, runs, strict=True), *models.items()]
    names = names_of([place for place, _ in found])
    if len(names) == 1:
        names = [found[0][0].name]
    return [
        Member(
            name,
            place / "model" if run else place,
            # Of an inner fold: valid is no test.
            run if run and run.get("scored_on", "test") == "test" else None,
            trust,
        )
        for name, (place, run) in zip(names, found, strict=True)
    ]


def _read_answers(run):
    """Test set of a run, and id -> calibrated answers, [C + D]."""
    path = folder_of(run["file"]) / "predictions.csv"
    taken = "corpus protocol protocol_sha fold folds_total classes".split()
    about = {
        **{key: run.get(key) for key in taken},
        "dimensions": [*run.get("ccc", ())],
        "shares_speakers": run.get("shares_speakers", False),
        "leaks": run.get("leaks", {}),
    }
    columns = [f"{name}_calibrated" for name in about["classes"]]
    columns += [f"predicted {name}" for name in about["dimensions"]]
    entries, answers = {}, {}
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            head = [*map(of_cell, next(reader))]
            for cells in reader:
                row = dict(zip(head, cells, strict=True))
                id_, speaker = of_cell(row["id"]), of_cell(row["speaker"])
                entry = {"speaker": speaker}
                if about["classes"]:
                    entry["emotion"] = of_cell(row["label"])
                if about["corpus"] == "pooled":
                    entry["corpus"] = speaker.partition("/")[0]
                for name in about["dimensions"]:
                    entry[name] = float(row[name])
                entries[id_] = entry
                answers[id_] = [float(row[name]) for name in columns]
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); an ensemble is "
            "scored by it: test the run again (--test_only=True)"
        ) from error
    except (csv.Error, KeyError, StopIteration, ValueError) as error:
        raise InputError(
            f"{path}: not the calibrated predictions of {run['file']} "
            f"({error!r}); test the run again (--test_only=True)"
        ) from error
    return ScoredSet(about, entries), answers
