"""Results, settings and predictions of finished runs, read back."""

import csv
import json
import re
from pathlib import Path

import numpy as np
from pydantic import BaseModel
from ruamel.yaml import YAML, YAMLError

from ser_peft.data.manifests import read_manifests
from ser_peft.errors import InputError
from ser_peft.evaluation.metrics import from_confusion, missing_classes
from ser_peft.evaluation.reads import count_reads
from ser_peft.settings.yamls import dump, map_texts
from ser_peft.storage.cells import of_cell
from ser_peft.storage.schema import Name, Number, Text, fit

__all__ = [
    "folder_of",
    "manifests_of",
    "names_of",
    "paired_predictions",
    "pooled_predictions",
    "read_runs",
]

_AGAIN = "copy it again, run that training again, or leave it out"
# Number at the end of a line.
_NUMBER = re.compile(r"(?<=: )[-+]?\d*\.?\d+(e[-+]?\d+)?$")
# End of a run's path, be it pretrained or teacher of the same fold.
_FOLD = re.compile(r"/fold\d+(/\d+)?(/model)?/?$")
# Keys that may differ within a group.
_FREE = re.compile(
    r"(__set_seed|seed|fold|\w+_folder|num_workers|ckpt_interval_minutes"
    r"|robustness|fairness_columns):"
)


class _Sizes(BaseModel):
    adapter: int
    head: int


class _Results(BaseModel, extra="allow"):
    """What is read of ``results.json``."""

    corpus: Text
    protocol: Text
    protocol_sha: Text
    fold: int | Text
    seed: int | None
    backbone: Text
    method: Text
    classes: list[Name]
    ua: Number | None
    wa: Number | None
    macro_f1: Number | None
    confusion: list[list[int]] | None
    trainable_parameters: _Sizes
    train_seconds: Number
    steps: int | None = None
    test_reads: int = 1
    start: dict | None = None
    votes: dict | None = None


class _Epoch(BaseModel, extra="allow"):
    """What is read of an entry of ``history.json``."""

    epoch: int
    valid_confusion: list[list[int]] = None


def read_runs(paths):
    """Read the results of runs and the files beside them.

    Arguments
    ---------
    paths : list of str or Path
        `results.json` files, or folders searched at any depth.

    Returns
    -------
    list of dict
        The content of each `results.json`, and: ``file`` (its path),
        ``n_classes``, ``settings`` (a tuple: lines of ``hyperparams.yaml``
        but for seed, fold and folders; empty without the file),
        ``predictions`` (id -> speaker, label and predicted class, as indices;
        None without ``predictions.csv`` or classes), ``start_predictions``
        (the same of what it started from), ``history`` (a list, see
        ``history.json``), ``scored_on``, ``test_reads``, ``step_seconds`` (None
        where steps were not counted) and ``model_bytes`` (of the folder
        ``model``, None without it).

    Raises
    ------
    InputError
        If nothing is found, a file is wrong, runs of one fold were not made
        on the same utterances, or runs list the same classes in another order.
    """
    runs = [_read(path) for path in _find(paths)]
    _refuse_mixed_classes(runs)
    _refuse_mixed_protocols(runs)
    return runs


def pooled_predictions(runs):
    """Labels, predictions and speakers of the test sets of several runs.

    Arguments
    ---------
    runs : list of dict
        From `read_runs`, with predictions.

    Returns
    -------
    tuple of (tuple of int, tuple of int, tuple of str)
    """
    rows = [row for run in runs for row in run["predictions"].values()]
    speakers, labels, predicted = zip(*rows, strict=True)
    return labels, predicted, speakers


def paired_predictions(first, second):
    """Predictions of two runs on the same test set.

    Arguments
    ---------
    first, second : dict
        From `read_runs`, with predictions.

    Returns
    -------
    list of tuple
        Speaker, label, first and second prediction of each utterance.
    """
    others = second["predictions"]
    return [(*row, others[id_][2]) for id_, row in first["predictions"].items()]


def names_of(paths):
    """Names of runs: the parts of their paths that differ.

    Arguments
    ---------
    paths : list of str or Path
        Folders of runs, or their `results.json`.

    Returns
    -------
    list of str

    Raises
    ------
    InputError
        If one is given twice.

    Example
    -------
    >>> names_of(["/a/lora/fold5/8", "/a/full/fold5/8"])
    ['lora', 'full']
    """
    parts = [list(folder_of(path).parts) for path in paths]
    for end in (-1, 0):
        while len({p[end] for p in parts}) == 1 < min(map(len, parts)):
            for p in parts:
                p.pop(end)
    names = ["/".join(p) for p in parts]
    for path, name in zip(paths, names, strict=True):
        if names.count(name) > 1:
            raise InputError(f"{path}: given twice; leave one out")
    return names


def folder_of(path):
    """Output folder of a run, given that or its `results.json`."""
    path = Path(path).resolve()
    return path.parent if path.name == "results.json" else path


def manifests_of(runs):
    """Manifests of one fold's runs, from the first run that has them.

    Arguments
    ---------
    runs : list of dict
        From `read_runs`.

    Returns
    -------
    tuple of dict
        See `ser_peft.data.manifests.read_manifests`.

    Raises
    ------
    InputError
        If none has them.
    """
    places = []
    for run in runs:
        folder = folder_of(run["file"])
        # A recipe's, and those that a probe was made of.
        places += [folder / "manifests", folder.parents[1]]
        yaml = folder / "hyperparams.yaml"
        if yaml.exists():
            line = r"^manifests_folder: *(.+?) *(?:#.*)?$"
            told = re.findall(line, yaml.read_text("utf-8"), re.MULTILINE)
            places += map(Path, told)
    for place in places:
        if (place / "protocol.json").exists():
            about, manifests = read_manifests(place)
            if about["protocol_sha"] == runs[0]["protocol_sha"]:
                return about, manifests
    raise InputError(
        f"{places[0]}: no manifests of this run's test set; copy those it was "
        "trained on there"
    )


def _find(paths):
    found = {}
    for path in map(Path, paths):
        if not path.exists():
            raise InputError(f"{path}: no such file or folder; check the path")
        files = [path]
        if path.is_dir():
            # A killed run leaves hidden scratch folders: not results.
            files = [
                file
                for file in sorted(path.rglob("results.json"))
                if "/." not in f"/{file.relative_to(path).as_posix()}"
            ]
        found |= {file.resolve(): file for file in files}
    if not found:
        raise InputError(
            f"no results.json under {', '.join(map(str, paths))}; give the "
            "output folders of finished runs"
        )
    return found.values()


def _read(path):
    found = _fitting(path, _Results, "not the results.json of a run")
    run = found.model_dump(exclude_unset=True)
    if run["classes"]:
        confusion = _square(path, run["confusion"], run["classes"])
        if None in (run["ua"], run["wa"], run["macro_f1"]):
            raise InputError(
                f"{path}: not the results.json of a run (classes, but no "
                f"score); {_AGAIN}"
            )
        # Earlier versions do not write these.
        run["weighted_f1"] = float(from_confusion(confusion, "weighted_f1"))
        run["missing_classes"] = missing_classes(confusion, run["classes"])
    predictions, started = (
        _predictions(path.with_name("predictions.csv"), run["classes"], column)
        for column in ("predicted", "start_predicted")
    )
    if predictions is not None:
        counted = np.zeros_like(confusion)
        for _, label, predicted in predictions.values():
            counted[label, predicted] += 1
        if (counted != confusion).any():
            raise InputError(
                f"{path.with_name('predictions.csv')}: not the predictions of "
                f"{path} (its confusion counts {confusion.sum()} utterances, "
                f"these {counted.sum()}, or others); copy both again, or test "
                "the run again (--test_only=True)"
            )
    model = path.with_name("model")
    files = [file for file in model.rglob("*") if file.is_file()]
    steps = run.get("steps")
    return {
        **run,
        "n_classes": len(run["classes"]),
        "file": str(path),
        "settings": _settings(path.with_name("hyperparams.yaml")),
        "scored_on": run.get("scored_on", "test"),
        # A later read may have left no results.
        "test_reads": max(run.get("test_reads", 1), count_reads(path.parent)),
        "history": _history(path.with_name("history.json"), run["classes"]),
        "step_seconds": run["train_seconds"] / steps if steps else None,
        "model_bytes": sum(f.stat().st_size for f in files) or None,
        "predictions": predictions,
        "start_predictions": started if run.get("start") else None,
    }


def _settings(path):
    """Settings of a run: lines of its yaml, but for `_FREE`."""
    if not path.exists():  # a probe has none
        return ()
    try:
        tree = YAML().load(path.read_text(encoding="utf-8"))
        folder = str(tree.get("output_folder", path))
    except (AttributeError, ValueError, YAMLError) as error:
        raise InputError(
            f"{path}: not the settings of a run ({error}); copy it again"
        ) from error
    # Other paths are in the folder.
    map_texts(tree, lambda text: _FOLD.sub("", text.replace(folder, "")))
    lines = dump(tree).splitlines()
    lines = [re.sub(r"(^|\s+)#.*", "", line) for line in lines]
    # 3e-5 and 0.00003 are one setting.
    lines = [_NUMBER.sub(lambda n: f"{float(n[0]):.12g}", x) for x in lines]
    return tuple(line for line in lines if line and not _FREE.match(line))


def _history(path, classes):
    """Epochs of a run, the start as epoch 0; empty where there is no file."""
    if not path.exists():
        return []
    found = _fitting(path, list[_Epoch], "not the epochs of a run")
    for past in found:
        if past.valid_confusion is not None:
            _square(path, past.valid_confusion, classes)
    return [past.model_dump(exclude_unset=True) for past in found]


def _fitting(path, schema, wrong):
    """JSON of a run, in which a figure that is not read here may be NaN."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # not JSON, or not text
        raise InputError(
            f"{path}: {wrong}, not whole JSON ({error}); {_AGAIN}"
        ) from error
    return fit(path, content, schema, wrong, _AGAIN)


def _square(path, confusion, classes):
    """Confusion as an array, [C, C]."""
    sizes = [len(row) for row in confusion or ()]
    if sizes != [len(classes)] * len(classes):
        raise InputError(
            f"{path}: a confusion of {len(sizes)} rows, not one of "
            f"{len(classes)} x {len(classes)} classes; {_AGAIN}"
        )
    return np.array(confusion)


def _predictions(path, classes, column="predicted"):
    """Id -> speaker, label and prediction of the scored set, if it is there."""
    if not classes or not path.exists():
        return None
    keys = ("id", "speaker", "label", column)
    try:
        with open(path, newline="", encoding="utf-8") as file:
            table = csv.DictReader(file)
            if column == "start_predicted" and column not in (
                table.fieldnames or ()
            ):
                return None
            rows = [[of_cell(row[key] or "") for key in keys] for row in table]
        return {
            id_: (speaker, classes.index(label), classes.index(predicted))
            for id_, speaker, label, predicted in rows
        }
    except (csv.Error, KeyError, ValueError) as error:
        raise InputError(
            f"{path}: not the predictions of {path.parent / 'results.json'} "
            f"({error}); copy both again, or run that training again"
        ) from error


def _refuse_mixed_classes(runs):
    """Refuse runs that list the same classes in another order."""
    first = {}
    for run in runs:
        keys = (run["corpus"], run["protocol"], *sorted(run["classes"]))
        other = first.setdefault(keys, run)
        if run["classes"] != other["classes"]:
            raise InputError(
                f"{run['file']} and {other['file']}: the same classes in "
                f"another order ({', '.join(run['classes'])} and "
                f"{', '.join(other['classes'])}); summarize them apart"
            )


def _refuse_mixed_protocols(runs):
    """Refuse runs of one fold that were tested on other utterances."""
    first = {}
    for run in runs:
        keys = ("corpus", "protocol", "n_classes", "fold")
        other = first.setdefault(tuple(run[key] for key in keys), run)
        if run["protocol_sha"] != other["protocol_sha"]:
            raise InputError(
                f"{run['file']} and {other['file']}: fold {run['fold']} of "
                f"{run['corpus']} ({run['protocol']}) was not the same "
                "utterances in both (protocol_sha differs); summarize them "
                "apart"
            )
