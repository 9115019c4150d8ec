"""What a finished run leaves behind for people: one page, one table."""

import csv
from pathlib import Path

import jinja2
import numpy as np

from ser_peft.evaluation.calibration import reliability, scale
from ser_peft.evaluation.metrics import (
    from_confusion,
    over_classes,
    speaker_confusions,
)
from ser_peft.evaluation.results import below_start
from ser_peft.io import atomic_path, write_json
from ser_peft.report import figures
from ser_peft.report.page import PAGE
from ser_peft.storage.cells import as_cell

__all__ = ["ENVIRONMENT", "epoch_table", "render", "write_page", "write_report"]

_MISTAKES = 10
_RATES = ("ua", "wa", "macro_f1", "weighted_f1")


def write_report(
    folder, results, predictions, history, layer_weights=None, command=""
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
        peak_memory_mb, kept, versions, and optionally start (see
        `EmotionBrain.test_start`), worst_speaker, fairness, calibration,
        robustness, by_corpus. Rates are fractions. Where there are
        dimensions also ccc (name -> CCC), ccc_mean, ccc_ci95 and valid_ccc;
        without classes `classes` is empty.
    predictions : dict
        `id`, `speaker` (str) and optionally `gender` (str), each a list of
        N; where there are classes `label`, `predicted` (class indices, lists
        of N) and `probabilities` [N, C] as the model was trained, without
        temperature; where there are dimensions `values` and
        `predicted_values` [N, D].
    history : list of dict
        One an epoch (0: the start): `epoch` and any of `train_loss`,
        `valid_loss`, `valid_ua`, `valid_ccc`, `lr_adapter`, `lr_head`,
        `seconds`. Empty for a probe.
    layer_weights : list of float, optional
        Softmaxed weight of each hidden state, index 0 the encoder's input.
    command : str
        The command line that made the run.
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
        folder, render(results, predictions, history, layer_weights, command)
    )
    write_json(finished, results)


def write_page(folder, page):
    """Write a page as the report of a run.

    Arguments
    ---------
    folder : str or Path
        Output folder of the run; created if absent.
    page : str
        HTML.
    """
    with atomic_path(Path(folder) / "report.html") as tmp:
        # A file name that is no valid text is shown escaped, not a reason to
        # lose the report of a finished training.
        tmp.write_text(page, encoding="utf-8", errors="backslashreplace")


def render(results, predictions, history, layer_weights=None, command=""):
    """Render the report as one HTML page that needs nothing else.

    Arguments
    ---------
    results, predictions, history, layer_weights, command
        As in `write_report`.

    Returns
    -------
    str
        The page: styles and figures inside, no script, no network.
    """
    pictures, shown = {}, {}
    if results["classes"]:
        pictures, shown = _of_classes(results, predictions)
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
        pictures["learning"] = (
            figures.learning_figure(history, results["best_epoch"]),
            "Losses and valid scores by epoch; the table below has the numbers",
        )
    if layer_weights:
        shares = ", ".join(map(_percent, layer_weights))
        pictures["layers"] = (
            figures.layer_figure(layer_weights),
            f"Weight of each hidden state: {shares}",
        )
    measures = {}
    if results["classes"]:
        measures["valid_ua"] = ("valid UA", "{:.1%}")
    if "ccc" in results:
        measures["valid_ccc"] = ("valid CCC", "{:.3f}")
    epoch_head, epoch_rows = epoch_table(history, measures)
    return ENVIRONMENT.from_string(PAGE).render(
        r=results,
        svg={
            name: figures.inline_svg(figure, name, alt)
            for name, (figure, alt) in pictures.items()
        },
        dimensions=dimensions,
        n_speakers=len({*map(str, predictions["speaker"])}),
        history=history,
        epoch_head=epoch_head,
        epoch_rows=epoch_rows,
        over=_over(results),
        intervals={
            key: _interval(results, key, form, "95% CI ", "no 95% CI: ")
            for key, form in (("ua", _percent), ("ccc", "{:.3f}".format))
            if results.get(key) is not None
        },
        valid=_valid(results),
        below=below_start(results),
        trainable=sum(results["trainable_parameters"].values()),
        command=command,
        **shown,
    )


def _of_classes(results, predictions):
    """Figures and tables of what concerns classes."""
    classes = results["classes"]
    truth = np.asarray(predictions["label"])
    guess = np.asarray(predictions["predicted"])
    spoken = list(map(str, predictions["speaker"]))
    speakers, counts = speaker_confusions(truth, guess, spoken, len(classes))
    speaker_ua = from_confusion(counts)
    genders = [gender or "unknown" for gender in predictions.get("gender", ())]
    colors = None
    if set(genders) - {"unknown"}:
        gender_of = dict(zip(spoken, genders, strict=True))
        colors = [gender_of[speaker] for speaker in speakers]
    chance = 1 / len(classes)
    confusion = np.asarray(results["confusion"])
    pictures = {
        "confusion": (
            figures.confusion_figure(confusion, classes),
            f"Confusion matrix of {', '.join(classes)}, rows are the truth: "
            f"{confusion.tolist()}",
        ),
        "speakers": (
            figures.speaker_figure(speakers, speaker_ua, chance, colors),
            f"UA of {len(speakers)} test speakers, from "
            f"{speaker_ua.min():.0%} to {speaker_ua.max():.0%}",
        ),
    }
    if results.get("calibration"):
        temperature = results["calibration"]["temperature"]
        curves = {
            "as trained": predictions["probabilities"],
            "scaled": scale(predictions["probabilities"], temperature),
        }
        pictures["reliability"] = (
            figures.reliability_figure(
                {name: reliability(truth, p) for name, p in curves.items()}
            ),
            "Accuracy by confidence, as trained and scaled",
        )
    robustness = results.get("robustness") or {}
    if robustness:
        robustness = {"clean": results["ua"], **robustness}
        shares = [f"{name} {_percent(ua)}" for name, ua in robustness.items()]
        pictures["robustness"] = (
            figures.robustness_figure(robustness, chance),
            f"UA: {', '.join(shares)}",
        )
    mistakes, wrong = _mistakes(predictions, truth, guess, classes)
    return pictures, {
        "chance": chance,
        "corpus_rows": [
            (
                name,
                *(_percent(part[key]) for key in _RATES),
                _interval(part, "ua", _percent),
                _over(part | {"classes": classes}) or "all classes",
                _number(part["test_utterances"]),
            )
            for name, part in results.get("by_corpus", {}).items()
        ],
        "class_rows": _class_rows(confusion, classes),
        "fairness": [
            (column, *_fairness_rows(result))
            for column, result in results.get("fairness", {}).items()
        ],
        "robustness": [
            (name, _percent(ua), f"{100 * (ua - results['ua']):+.1f}")
            for name, ua in robustness.items()
        ],
        "mistakes": mistakes,
        "wrong": wrong,
    }


def _write_predictions(path, predictions, results):
    columns = {
        key: [*map(as_cell, predictions[key])] for key in ("id", "speaker")
    }
    if classes := results["classes"]:
        for key in ("label", "predicted"):
            columns[key] = [as_cell(classes[i]) for i in predictions[key]]
        chances = np.transpose(predictions["probabilities"])
        temperature = results.get("calibration", {}).get("temperature", 1.0)
        scaled = np.transpose(scale(predictions["probabilities"], temperature))
        for ending, values in (("", chances), ("_calibrated", scaled)):
            for name, column in zip(classes, values, strict=True):
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


def _class_rows(confusion, classes):
    """Name, recall, precision and support of each class, as text."""
    rows = []
    for i, name in enumerate(classes):
        hits, support = confusion[i, i], confusion[i].sum()
        claimed = confusion[:, i].sum()
        recall = _percent(hits / support if support else None)
        precision = _percent(hits / claimed if claimed else None)
        rows.append((name, recall, precision, _number(support)))
    return rows


def _fairness_rows(result):
    """The groups of one column, by what they differ, or why not, as text."""
    groups = [
        (
            name,
            _percent(group["ua"]),
            _number(group["utterances"]),
            _number(group["speakers"]),
        )
        for name, group in result["groups"].items()
    ]
    if result["unknown"]:
        groups.append(("unknown", "–", _number(result["unknown"]), "–"))
    if result["ua_gap"] is None:
        return groups, [], result["reason"]
    differences = [("UA", "", f"{100 * result['ua_gap']:.1f}")]
    for name in ("statistical_parity", "equal_opportunity"):
        largest = result[f"{name}_difference"]
        where = [
            c for c, by in result["by_class"].items() if by[name] == largest
        ]
        shown = ", ".join(where), f"{100 * largest:.1f}"
        differences.append((name.replace("_", " "), *shown))
    return groups, differences, None


def epoch_table(history, measures):
    """Lay out what every epoch measured.

    Arguments
    ---------
    history : list of dict
        One an epoch.
    measures : dict
        Key of `history` -> name and format, beside losses, rates and time.

    Returns
    -------
    tuple of (list of str, list of list)
        Names of the columns and rows, as text.
    """
    columns = {
        "train_loss": ("train loss", "{:.3f}"),
        "valid_loss": ("valid loss", "{:.3f}"),
        **measures,
        "lr_adapter": ("adapter lr", "{:.2g}"),
        "lr_head": ("head lr", "{:.2g}"),
        "seconds": ("time", "{:.1f} s"),
    }
    rows = [
        [epoch["epoch"]]
        + [
            "–" if epoch.get(key) is None else form.format(epoch[key])
            for key, (_, form) in columns.items()
        ]
        for epoch in history
    ]
    return ["epoch", *(title for title, _ in columns.values())], rows


def _valid(results):
    """Name and value of what the epoch was chosen by, as text."""
    if not results["classes"]:
        score = results["valid_ccc"]
        return "CCC", "–" if score is None else f"{score:.3f}"
    over = _over(results, "valid_missing_classes")
    return "UA", _percent(results["valid_ua"]) + over


def _over(results, key="missing_classes"):
    return over_classes(results.get(key), len(results["classes"]))


def _interval(results, key, form, found="", lacking="none: "):
    """Ends of an interval, or why there is none, as text."""
    if ends := results[f"{key}_ci95"]:
        return found + " to ".join(map(form, ends))
    return lacking + results[f"{key}_ci95_reason"]


def _mistakes(predictions, truth, guess, classes):
    """The errors the model was surest of, and how many errors there are."""
    sure = np.asarray(predictions["probabilities"])[range(len(guess)), guess]
    wrong = np.flatnonzero(truth != guess)
    worst = wrong[np.argsort(-sure[wrong], kind="stable")][:_MISTAKES]
    rows = [
        (
            predictions["id"][i],
            predictions["speaker"][i],
            classes[truth[i]],
            classes[guess[i]],
            _percent(sure[i]),
        )
        for i in worst
    ]
    return rows, len(wrong)


def _percent(fraction):
    return "–" if fraction is None else f"{fraction:.1%}"


def _number(value):
    return f"{value:,.0f}"


def _duration(seconds):
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


ENVIRONMENT = jinja2.Environment(
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
ENVIRONMENT.filters.update(percent=_percent, number=_number, duration=_duration)
