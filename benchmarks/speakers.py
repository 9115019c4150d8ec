"""How much of what is wrong is the speaker's own voice.

A model that has never heard a speaker cannot tell a voice that is loud, or
high, from a speaker who is angry, or happy. This asks how many answers become
right when something is known of the speaker. Nothing is trained and nothing
is computed again: the logits of ``predictions.csv`` are shifted.

- *mean removed*: the mean of the logits of all the speaker's clips, without
  their labels, is brought to where it is for the valid speakers. This wants
  speakers who show every emotion about as often as those do.
- *neutral clips known*: half of the difference between three neutral clips of
  the speaker, labelled, and those of the valid speakers. A neutral clip that
  is scored is not among its three.

> python benchmarks/speakers.py results/whisper_lora
"""

import argparse
import csv
from pathlib import Path

import numpy as np
from sklearn.metrics import recall_score

from ser_peft.errors import InputError, one_line_errors

KNOWN = 3
"""Neutral clips of a speaker that are known."""
SHARE = 0.5
"""Share of the difference that they take away."""


def read(path):
    """Speakers [N], labels [N], centred logits [N, C] and class names."""
    with open(path, encoding="utf-8") as file:
        rows = [*csv.DictReader(file)]
    ends = "_calibrated"
    names = [key.removesuffix(ends) for key in rows[0] if key.endswith(ends)]
    chances = np.array([[float(row[name]) for name in names] for row in rows])
    logits = np.log(chances.clip(1e-6))
    speakers, labels = (
        np.array([row[key] for row in rows]) for key in ("speaker", "label")
    )
    return speakers, labels, logits - logits.mean(1, keepdims=True), names


def class_means(labels, logits, names):
    """Mean logits of the clips of each class, [C, C]."""
    return np.stack([logits[labels == name].mean(0) for name in names])


def shifted(run, neutral, seed=0):
    """UA of a run's clips alone, and of both shifts, in %."""
    valid = read(run / "valid_predictions.csv")
    speakers, labels, logits, names = read(run / "predictions.csv")
    means = class_means(*valid[1:])
    removed, known = logits.copy(), logits.copy()
    rng = np.random.default_rng(seed)
    for speaker in np.unique(speakers):
        own = speakers == speaker
        removed[own] -= logits[own].mean(0) - valid[2].mean(0)
        examples = np.flatnonzero(own & (labels == neutral))
        for clip in np.flatnonzero(own):
            three = rng.permutation(examples[examples != clip])[:KNOWN]
            offset = logits[three].mean(0) - means[names.index(neutral)]
            known[clip] -= SHARE * offset
    names = np.array(names)
    return [
        100 * recall_score(labels, names[one.argmax(1)], average="macro")
        for one in (logits, removed, known)
    ]


@one_line_errors()
def main():
    """Print a row a run, then mean and standard deviation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="finished runs, at any depth")
    parser.add_argument("--neutral", default="neutral", help="their class")
    args = parser.parse_args()
    runs = sorted(p.parent for p in args.folder.rglob("valid_predictions.csv"))
    if not runs:
        raise InputError(f"{args.folder}: no run with valid_predictions.csv")
    heads = "clip alone", "mean removed", f"{KNOWN} neutral clips known"
    print("| run |", " | ".join(heads), "|\n| --- | --- | --- | --- |")
    rows = [shifted(run, args.neutral) for run in runs]
    for run, row in zip(runs, rows, strict=True):
        scores = " | ".join(f"{score:.1f}" for score in row)
        print(f"| {run.relative_to(args.folder)} | {scores} |")
    ends = zip(np.mean(rows, 0), np.std(rows, 0, ddof=1), strict=True)
    print("| mean |", " | ".join(f"{m:.1f} ± {s:.1f}" for m, s in ends), "|")


if __name__ == "__main__":
    main()
