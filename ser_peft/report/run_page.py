"""Files of a finished run that people read: a page and a table."""

import csv
from pathlib import Path

import numpy as np

from ser_peft.evaluation.calibration import scale
from ser_peft.evaluation.metrics import from_confusion, speaker_confusions
from ser_peft.evaluation.results import below_start
from ser_peft.io import atomic_path, write_json
from ser_peft.report import figures
from ser_peft.report.clips import SECONDS, embed
from ser_peft.report.rendering import percent, render, write_page
from ser_peft.report.tables import epoch_table
from ser_peft.storage.cells import as_cell

__all__ = ["render_run", "write_report"]

_MISTAKES = 10


def write_report(
    folder,
    results,
    predictions,
    history=(),
    layer_weights=None,
    command="",
    recordings=(),
):
    """Write a run's results, predictions, confusion matrix and report.

    `results.json` is removed first and written last: where it exists, the
    run is finished and every file beside it belongs to it.

    Arguments
    ---------
    folder : str or Path
        Output folder of the run; created if absent.
    results : dict
        The content of `results.json`, complete: corpus, protocol,
        protocol_sha, fold, folds_total, seed, backbone, method, classes, ua,
        ua_ci95, ua_ci95_reason (why there is none), wa, macro_f1,
        weighted_f1, per_class_recall, missing_classes, confusion,
        test_utterances, test_speakers, trainable_parameters (adapter, head),
        total_parameters, valid_ua, best_epoch, epochs, train_seconds,
        peak_memory_mb, kept, versions; with a history kept_epochs; and
        optionally start (see `EmotionBrain.test_start`), worst_speaker,
        fairness, calibration, robustness, by_corpus. Rates are fractions.
        Of inner folds scored_on is "valid".
        Runs with dimensions also have ccc (name -> CCC), ccc_mean, ccc_ci95
        and valid_ccc; without classes `classes` is empty.
    predictions : dict
        `id`, `speaker` and optionally `gender`, lists of N str. With classes
        also `label` and `predicted` (lists of N class indices) and
        `probabilities` [N, C], without temperature. With dimensions also
        `values` and `predicted_values` [N, D].
    history : list of dict
        One dict per epoch (0: the start): `epoch` and any of `train_loss`,
        `valid_loss`, `valid_ua`, `valid_ccc`, `lr_adapter`, `lr_head`,
        `seconds`. Empty where nothing was trained in epochs.
    layer_weights : list of float, optional
        Softmaxed weight of each hidden state; index 0 is the encoder's input.
    command : str
        The command line that made the run.
    recordings : dict
        Id of a test utterance -> path of its recording, where the page may
        hold clips, see `ser_peft.data.manifests.shareable`.
    """
    folder = Path(folder)
    finished = folder / "results.json"
    finished.unlink(missing_ok=True)
    with atomic_path(folder / "predictions.csv") as tmp:
        _write_predictions(tmp, predictions, results)
    if classes := results["classes"]:
        figure = figures.confusion_figure(results["confusion"], classes)
        with atomic_path(folder / "confusion.png") as tmp:
            figure.savefig(tmp, dpi=160)
    write_page(
        folder,
        render_run(
            results, predictions, history, layer_weights, command, recordings
        ),
    )
    write_json(finished, results)


def render_run(
    results,
    predictions,
    history=(),
    layer_weights=None,
    command="",
    recordings=(),
):
    """Render the report of a run as one HTML page that needs nothing else.

    Arguments
    ---------
    results, predictions, history, layer_weights, command, recordings
        As in `write_report`.

    Returns
    -------
    str
        The page: styles and figures inside, no script, no network.
    """
    pictures, shown = {}, {}
    if results["classes"]:
        pictures, shown = _judged_by_class(results, predictions)
        ids = [utterance for utterance, *_ in shown["mistakes"]]
        shown["clips"] = embed(ids, recordings)
    dimensions = [*results.get("ccc", ())]
    for i, name in enumerate(dimensions):
        truth, guess = (
            np.asarray(predictions[key])[:, i]
            for key in ("values", "predicted_values")
        )
        pictures[f"dimension{i}"] = (
            figures.dimension_figure(truth, guess),
            f"Predicted against true {name}, {truth.min():g} to "
            f"{truth.max():g}; CCC {results['ccc'][name]:.3f}",
        )
    if history:
        pictures["learning"] = _learning(results, history)
    if layer_weights:
        shares = ", ".join(map(percent, layer_weights))
        pictures["layers"] = (
            figures.layer_figure(layer_weights),
            f"Weight of each hidden state: {shares}",
        )
    measures = {}
    if results["classes"]:
        measures["valid_ua"] = ("valid UA", "{:.1%}")
    if dimensions:
        measures["valid_ccc"] = ("valid CCC", "{:.3f}")
    return render(
        "run",
        pictures,
        r=results,
        dimensions=dimensions,
        n_speakers=len({*map(str, predictions["speaker"])}),
        epochs=epoch_table(history, measures),
        below=below_start(results),
        command=command,
        clip_seconds=SECONDS,
        **shown,
    )


def _learning(results, history):
    """Draw and describe what every epoch measured."""
    score = "UA" if results["classes"] else "CCC"
    panels = [
        {
            "label": "loss",
            "curves": {"train_loss": "train", "valid_loss": "valid"},
        },
        {
            "label": f"valid {score}",
            "curves": {f"valid_{score.lower()}": "valid"},
            "percent": score == "UA",
        },
    ]
    return (
        figures.curves_figure(history, panels, results["kept_epochs"]),
        "Losses and valid scores by epoch; the table below has the numbers",
    )


def _judged_by_class(results, predictions):
    """Collect the figures and numbers of a test set with classes."""
    classes = results["classes"]
    truth = np.asarray(predictions["label"])
    guess = np.asarray(predictions["predicted"])
    probabilities = np.asarray(predictions["probabilities"])
    confusion = np.asarray(results["confusion"])
    chance = 1 / len(classes)
    pictures = {"confusion": figures.confusion_picture(confusion, classes)}
    spoken = [*map(str, predictions["speaker"])]
    names, counts = speaker_confusions(truth, guess, spoken, len(classes))
    ua = from_confusion(counts)
    gender_of = dict(zip(spoken, predictions.get("gender", ()), strict=False))
    genders = [gender_of.get(name) or "unknown" for name in names]
    pictures["speakers"] = (
        figures.speaker_figure(names, ua, chance, genders),
        f"UA of {len(names)} {results.get('scored_on', 'test')} speakers, "
        f"from {ua.min():.0%} to "
        f"{ua.max():.0%}",
    )
    if results.get("calibration"):
        confidences = {"as trained": probabilities.max(1)}
        temperature = results["calibration"]["temperature"]
        if temperature != 1:
            confidences["scaled"] = scale(probabilities, temperature).max(1)
        pictures["reliability"] = (
            figures.reliability_figure(truth == guess, confidences),
            f"Accuracy by confidence, {' and '.join(confidences)}",
        )
    if results.get("robustness"):
        views = {"clean": results["ua"], **results["robustness"]}
        shares = [f"{name} {percent(ua)}" for name, ua in views.items()]
        pictures["robustness"] = (
            figures.robustness_figure(views, chance),
            f"UA: {', '.join(shares)}",
        )
    confidence = probabilities.max(1)
    wrong = np.flatnonzero(truth != guess)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:_MISTAKES]
    return pictures, {
        "chance": chance,
        "speakers": [*zip(names, genders, counts.sum((1, 2)), ua, strict=True)],
        "class_counts": [
            *zip(
                classes,
                confusion.diagonal(),
                confusion.sum(1),
                confusion.sum(0),
                strict=True,
            )
        ],
        # The errors that the model was most confident of.
        "mistakes": [
            (*(predictions[key][i] for key in ("id", "speaker")),
             truth[i], guess[i], confidence[i])
            for i in worst
        ],
        "wrong": len(wrong),
    }  # fmt: skip


def _write_predictions(path, predictions, results):
    columns = {
        key: [*map(as_cell, predictions[key])] for key in ("id", "speaker")
    }
    if classes := results["classes"]:
        for key in ("label", "predicted"):
            columns[key] = [as_cell(classes[i]) for i in predictions[key]]
        chances = np.asarray(predictions["probabilities"])
        temperature = results.get("calibration", {}).get("temperature", 1.0)
        for ending, values in (
            ("", chances),
            ("_calibrated", scale(chances, temperature)),
        ):
            for name, column in zip(classes, values.T, strict=True):
                columns[f"{name}{ending}"] = [f"{p:.6f}" for p in column]
    for i, name in enumerate(results.get("ccc", ())):
        for title, key in (
            (name, "values"),
            (f"predicted {name}", "predicted_values"),
        ):
            columns[title] = [f"{row[i]:.6g}" for row in predictions[key]]
    with open(
        path, "w", newline="", encoding="utf-8", errors="backslashreplace"
    ) as file:
        writer = csv.writer(file)
        writer.writerow(map(as_cell, columns))
        writer.writerows(zip(*columns.values(), strict=True))
