"""Learning from annotators' votes, against learning from their majority.

RAVDESS with simulated annotators: of each clip of the four common emotions
seven annotators say what they hear. Each hears the actor's emotion or, by a
confusion matrix made for the purpose, another one: rarely where the actor
spoke with strong intensity, more often with normal, and how often depends on
the actor and the clip too. The draws depend on ``--annotators_seed`` alone.
The majority of the votes is the label: clips without one train only with
``targets: votes``.

A head, which starts from the linear probe of the majority, is trained on the
frozen encoder's states with ``targets: majority`` (and the recipe's label
smoothing), and with ``targets: votes``, on the same folds, speakers and seeds.
The distances are to the votes of the test clips, whose actors nobody heard;
"to the truth" is the distance to the distribution that they were drawn from.

> python benchmarks/votes.py --data RAVDESS --whisper openai/whisper-tiny.en
"""

import argparse
import csv
import logging
import sys
import tempfile
from pathlib import Path

import numpy as np
from hyperpyyaml import load_hyperpyyaml
from scipy.spatial.distance import jensenshannon

from ser_peft.corpora import ravdess
from ser_peft.corpora.protocols import FOUR, relabel
from ser_peft.errors import one_line_errors
from ser_peft.io import write_json
from ser_peft.settings.arguments import parse_arguments
from ser_peft.training import Run, prepare

YAML = (
    Path(__file__).resolve().parents[1]
    / "recipes/Custom/hparams/whisper_lora.yaml"
)
# Of a clip that is heard otherwise than meant: what it is heard as.
OTHERWISE = np.array(
    [
        # neutral, angry, sad, happy
        [0.0, 0.15, 0.6, 0.25],
        [0.35, 0.0, 0.15, 0.5],
        [0.75, 0.15, 0.0, 0.1],
        [0.5, 0.35, 0.15, 0.0],
    ]
)
MOST = 0.7
"""Largest probability that one annotator hears another emotion."""
SETTINGS = {
    "majority": {"targets": "majority"},  # labels are smoothed by 0.1
    "votes": {"targets": "votes", "label_smoothing": 0.0},
    "votes, prior_smoothing 0.5, vote_dropout 0.2": {
        "targets": "votes",
        "label_smoothing": 0.0,
        "prior_smoothing": 0.5,
        "vote_dropout": 0.2,
    },
}


def main():
    """Train what the command line asks for, print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--data", required=True, help="RAVDESS: holds Actor_01 ... Actor_24")
    add("--whisper", required=True, help="weights: folder or id")
    add("--folds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    add("--seeds", type=int, nargs="+", default=[8, 16])
    add("--epochs", type=int, default=10)
    add("--annotators", type=int, default=7)
    add("--annotators_seed", type=int, default=0)
    add("--out", type=Path, help="write the measurements to this JSON file")
    args = parser.parse_args()
    rows = []
    with one_line_errors(), tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        truth = annotate(
            args.data, folder / "votes.csv", args.annotators,
            args.annotators_seed,
        )  # fmt: skip
        shared = {}
        for seed in args.seeds:
            for fold in args.folds:
                for number, name in enumerate(SETTINGS):
                    out = folder / f"{fold}_{seed}_{number}"
                    row = train(
                        folder, out, args, SETTINGS[name], fold, seed, shared,
                        truth,
                    )  # fmt: skip
                    rows.append({"setting": name, **row})
                    print(rows[-1], file=sys.stderr, flush=True)
    if args.out:
        write_json(args.out, rows)
    print(table(rows))


def annotate(data, path, annotators, seed):
    """Write a csv of RAVDESS with votes.

    Returns
    -------
    dict
        Path of each recording -> distribution that its votes are drawn from.
    """
    rng, truth, rows = np.random.default_rng(seed), {}, []
    clips = relabel(ravdess.read(data), ravdess.CLASS_SETS[4])
    # Weak emotions are hard to tell, those of some actors, and some clips.
    speakers = sorted({clip.speaker for clip, _ in clips})
    hard = dict(zip(speakers, rng.beta(1.5, 3, len(speakers)), strict=True))
    for clip, name in clips:
        meant = FOUR.index(name)
        weak = clip.labels["intensity"] == "normal"
        parts = hard[clip.speaker], rng.beta(0.6, 1.2), 0.2 + 0.8 * weak
        miss = MOST * np.mean(parts)
        chances = miss * OTHERWISE[meant]
        chances[meant] += 1 - miss
        votes = rng.multinomial(annotators, chances)
        most = np.flatnonzero(votes == votes.max())
        label = FOUR[most[0]] if len(most) == 1 else ""
        wav = str(clip.wav.resolve())
        truth[wav] = chances
        rows.append((wav, label, clip.speaker, clip.gender, *votes))
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        names = (f"votes_{name}" for name in FOUR)
        writer.writerow(("path", "label", "speaker", "gender", *names))
        writer.writerows(rows)
    agree = np.mean([max(map(int, row[4:])) / annotators for row in rows])
    print(
        f"{len(rows)} clips, {annotators} annotators; with the majority agree "
        f"{agree:.0%}; {sum(not row[1] for row in rows)} clips without one\n"
    )
    return truth


def train(folder, out, args, settings, fold, seed, shared, truth):
    """Train and test a head.

    What is the same in all trainings is handed on in `shared`: what the
    frozen encoder gives the clips, and the probe of each fold.
    """
    overrides = {
        "data_folder": folder / "votes.csv",
        "output_folder": out,
        "backbone": args.whisper,
        "method": "frozen",
        "ema_decay": 0,
        "classes": 4,
        "fold": fold,
        "seed": seed,
        "number_of_epochs": args.epochs,
        "patience": args.epochs,
        "augment": False,
        "robustness": False,
        # The best by valid UA may be the start, which is the same for all.
        "keep": "last",
        "num_workers": 0,
        **settings,
    }
    run = Run(
        *parse_arguments(
            [str(YAML), *(f"--{k}={v}" for k, v in overrides.items())]
        )
    )
    values = run.values
    keys = "corpus data_folder classes fold protocol dimensions targets".split()
    prepare(values["manifests_folder"], **{k: values[k] for k in keys})
    about, sets = run.brain.datasets(
        values["manifests_folder"], values["max_seconds"]
    )
    hparams = load_hyperpyyaml(run.yaml(about))
    logging.disable(logging.WARNING)
    brain = hparams["brain"](
        modules=hparams["modules"],
        opt_class={k: hparams[k] for k in ("adapter_opt", "head_opt")},
        hparams=hparams,
        run_opts=run.run_opts,
        checkpointer=hparams["checkpointer"],
        about=about,
        datasets=sets,
    )
    brain.kept = shared.setdefault("states", brain.kept)
    fit, name = brain._fit_probe, f"probe{fold}"
    brain._fit_probe = lambda parts: shared.setdefault(
        name, shared.get(name) or fit(parts)
    )
    brain.hear_all = lambda: None
    sets["test"].progress.kept = {
        i for i in sets["test"].data if ("encoder", (i, None)) in brain.kept
    }
    brain.noprogressbar = True
    brain.fit(
        hparams["epoch_counter"],
        brain.train_loader(),
        brain.eval_loader("valid"),
    )
    results = brain.evaluate_kept()
    measured = brain.tested[1]
    meant = [truth[i] for i in measured["id"]]
    row = {
        "fold": fold,
        "seed": seed,
        "train": len(sets["train"].data),
        "test": len(measured["id"]),
        "ua": results["ua"],
        "js": results["votes"]["js_distance"],
        "kl": results["votes"]["kl_divergence"],
        "js_truth": float(
            jensenshannon(measured["probabilities"], meant, 2, axis=1).mean()
        ),
        **{
            f"js, {name}": found["js_distance"]
            for name, found in results["votes"]["by_ambiguity"].items()
        },
        "best_epoch": results["best_epoch"],
    }
    return row


def table(rows):
    """Means over folds and seeds as Markdown."""
    columns = {
        "js": "JS distance to the votes",
        "js_truth": "to the truth",
        "kl": "KL divergence, bits",
        "js, unanimous": "JS, unanimous",
        "js, less ambiguous": "less ambiguous",
        "js, more ambiguous": "more ambiguous",
        "ua": "UA %",
    }
    lines = [
        f"| targets | {' | '.join(columns.values())} |",
        f"|{'---|' * (len(columns) + 1)}",
    ]
    for name in SETTINGS:
        runs = [row for row in rows if row["setting"] == name]
        cells = [
            f"{np.mean([run[key] for run in runs]) * factor:.{digits}f}"
            for key in columns
            for factor, digits in [(100, 1) if key == "ua" else (1, 3)]
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
