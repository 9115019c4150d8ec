"""Page of a finished pretraining."""

import numpy as np
import torch
from torchaudio.transforms import AmplitudeToDB, MelSpectrogram

from ser_peft.data.audio import SAMPLE_RATE
from ser_peft.report import figures, pretraining_figures
from ser_peft.report.rendering import render, write_page
from ser_peft.report.tables import epoch_table

__all__ = ["write_pretraining_report"]

_SECONDS = 8  # shown of an utterance; with more, labels are a blur


def write_pretraining_report(
    folder, results, history, example=None, counts=None
):
    """Write ``report.html`` of a TAPT or P-TAPT run.

    Arguments
    ---------
    folder : str or Path
        Output folder of the run; created if absent.
    results : dict
        The content of ``pretraining.json``: stage ("tapt" or "ptapt"),
        corpus, protocol, fold, seed, backbone, method, trainable_parameters
        (name -> count), kept_epoch, kept (that epoch's entry of `history`),
        epochs, steps, train_seconds, versions and optionally protocol_sha,
        peak_memory_mb, command and, after P-TAPT, clusters as
        `ser_peft.pretraining.pseudo_labels.describe` returns them.
    history : list of dict
        One dict per epoch: `epoch`, `train_loss`, `valid_loss` (nats per
        masked frame), `lr_adapter`, `lr_head`, `seconds`; TAPT adds
        `valid_accuracy`, `valid_chance` and `valid_perplexity`, P-TAPT
        `valid_accuracy_K`, `valid_largest_K` and `valid_perplexity_K` for
        each number of clusters K. Accuracies are fractions.
    example : dict, optional
        Utterance to draw: id, emotion, wave (16 kHz, [samples]),
        labels (K -> cluster of each frame), seconds_per_frame.
    counts : list of array_like, optional
        Number of masked valid frames in each cluster, one array for every K
        in the order of `history`; or with each code, one array per group.

    Example
    -------
    >>> write_pretraining_report(folder, results, history)  # doctest: +SKIP
    """
    kept = results["kept"]
    tapt = results["stage"] == "tapt"
    # Name and key of the share that accuracy has to beat.
    baseline, rival = "largest cluster", "largest"
    if tapt:
        baseline = rival = "chance"
    # The ending of a key is "" for TAPT, "_64" for 64 clusters.
    names = {
        end: end.replace("_", "K = ")
        for start, _, end in (key.partition("valid_accuracy") for key in kept)
        if not start
    }
    panels = {
        "loss": {
            "label": "loss (nats)",
            "curves": {"train_loss": "train", "valid_loss": "valid"},
        },
        "accuracy": {
            "label": "masked accuracy",
            "curves": {
                f"valid_accuracy{end}": name or "valid"
                for end, name in names.items()
            },
            "percent": True,
            "low": 0,
            "rivals": (
                baseline,
                {f"valid_accuracy{e}": f"valid_{rival}{e}" for e in names},
            ),
        },
    }
    measures = {
        f"valid_accuracy{end}": (f"accuracy {name}", "{:.1%}")
        for end, name in names.items()
    }
    if tapt:  # the labels of P-TAPT never change
        panels["perplexity"] = {
            "label": "perplexity (codes)",
            "curves": {"valid_perplexity": "valid"},
            "low": 0,
        }
        measures["valid_chance"] = ("chance", "{:.1%}")
        measures["valid_perplexity"] = ("perplexity", "{:.1f}")
    pictures = {
        name: (
            figures.curves_figure(history, [panel], [results["kept_epoch"]]),
            f"{panel['label']} by epoch; the table of epochs has the numbers",
        )
        for name, panel in panels.items()
    }
    counts = [] if counts is None else [np.asarray(part) for part in counts]
    if counts:
        groups = names.values()
        if tapt:
            groups = [f"group {i + 1}" for i in range(len(counts))]
        by_name = dict(zip(groups, counts, strict=True))
        used = "; ".join(
            f"{name}, {np.count_nonzero(count)} of {len(count)} used"
            for name, count in by_name.items()
        )
        pictures["usage"] = (
            pretraining_figures.usage_figure(by_name),
            f"How often each occurs, most frequent first: {used}",
        )
    if example:
        pictures["utterance"] = _utterance(example)
    page = render(
        "pretraining",
        pictures,
        r=results,
        baseline=baseline,
        measures=[
            (name, kept[f"valid_accuracy{end}"], kept[f"valid_{rival}{end}"])
            for end, name in names.items()
        ],
        codes=sum(map(len, counts)),
        sizes=[f"K = {row['clusters']}" for row in results.get("clusters", ())],
        epochs=epoch_table(history, measures),
        example=example,
        cut=example and len(example["wave"]) > _SECONDS * SAMPLE_RATE,
        longest=_SECONDS,
    )
    write_page(folder, page)


def _utterance(example):
    """Draw and describe an utterance and its labels."""
    step = example["seconds_per_frame"]
    wave = torch.as_tensor(example["wave"])[: _SECONDS * SAMPLE_RATE].float()
    seconds = len(wave) / SAMPLE_RATE
    labels = {
        size: [*map(int, clusters)][: round(seconds / step)]
        for size, clusters in example["labels"].items()
    }
    mel = MelSpectrogram(
        SAMPLE_RATE, n_fft=1024, win_length=400, hop_length=160, n_mels=80
    )
    decibel = AmplitudeToDB()(mel(wave)).numpy()
    used = [f"{len({*labels[size]})} of {size} clusters" for size in labels]
    return (
        pretraining_figures.utterance_figure(decibel, labels, seconds, step),
        f"Spectrogram of {example['id']}, {seconds:.1f} s, and under it its "
        f"frames' {', '.join(used)}",
    )
