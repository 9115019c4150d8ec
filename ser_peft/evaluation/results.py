"""The content of ``results.json``, whatever the way of training."""

import platform
from importlib.metadata import version

from ser_peft.evaluation.calibration import calibration
from ser_peft.evaluation.fairness import fairness, worst_speaker
from ser_peft.evaluation.metrics import (
    concordance,
    concordance_interval,
    over_classes,
    scores,
    speaker_interval,
)

__all__ = [
    "UNTRAINED",
    "below_start",
    "corpus_scores",
    "headline",
    "judge",
    "run_results",
    "versions",
]

PACKAGES = "ser_peft speechbrain torch torchaudio transformers peft".split()
UNTRAINED = {
    "seed": None,
    "best_epoch": None,
    "epochs": 0,
    "peak_memory_mb": None,
    "processes": 1,
    "precision": "fp32",
}
"""Entries of results without a training: of a probe, of a model elsewhere."""


def run_results(about, valid, measured, groups, model, **more):
    """Scores of a test set, and all that is needed to trust them.

    Arguments
    ---------
    about : dict
        ``protocol.json`` of the manifests.
    valid, measured : dict
        Valid set (None where a finished model is tested elsewhere and nothing
        was chosen) and test set: ``id`` and ``speaker`` [N]; with classes
        ``label``, ``predicted`` [N] and ``probabilities`` [N, C]; with
        dimensions ``values`` and ``predicted_values`` [N, D].
    groups : dict
        From `ser_peft.evaluation.fairness.group_columns` on the test set.
    model : ser_peft.inference.EmotionModel or EnsembleModel
        The model that was tested.
    **more
        Entries that only this way of training knows.

    Returns
    -------
    dict
        ``results.json``; rates are fractions. Without classes, those of
        classes are None.
    """
    taken = "corpus protocol protocol_sha fold folds_total classes".split()
    return {
        **{key: about[key] for key in taken},
        "shares_speakers": about.get("shares_speakers", False),
        "leaks": about.get("leaks", {}),
        "scored_on": about.get("scored_on", "test"),
        **model.describe(),
        **judge(measured, about),
        **_more(valid, measured, groups, about, model),
        **_of_valid(valid, about),
        "test_speakers": sorted(set(measured["speaker"])),
        **more,
        "versions": versions(),
    }


def _of_valid(valid, about):
    """Scores of the valid set; None where there is no such set."""
    nothing = {"ua": None, "missing_classes": [], "ccc_mean": None}
    judged = judge(valid, about) if valid else nothing
    return {
        f"valid_{key.removesuffix('_mean')}": value
        for key, value in judged.items()
        if key in ("ua", "missing_classes", "ccc_mean")
    }


def versions():
    """Versions of Python and of the packages that matter for a result."""
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def judge(measured, about):
    """Score a valid or test set.

    Arguments
    ---------
    measured : dict
        See `run_results`.
    about : dict
        ``protocol.json`` of the manifests.

    Returns
    -------
    dict
        Entries of `ser_peft.evaluation.metrics.scores`, None without classes;
        where there are dimensions ``ccc`` (name -> CCC) and ``ccc_mean``.
    """
    result = {
        **dict.fromkeys(("ua", "wa", "macro_f1", "weighted_f1", "confusion")),
        "per_class_recall": {},
        "missing_classes": [],
        "test_utterances": len(measured["id"]),
    }
    if about["classes"]:
        result = scores(
            measured["label"], measured["predicted"], about["classes"]
        )
    if about["dimensions"]:
        ccc = concordance(measured["values"], measured["predicted_values"])
        named = zip(about["dimensions"], ccc.tolist(), strict=True)
        result |= {"ccc": dict(named), "ccc_mean": float(ccc.mean())}
    return result


def corpus_scores(entries, measured, classes):
    """Scores of every corpus in a test set of several.

    Arguments
    ---------
    entries : dict
        Test manifest, id -> entry.
    measured : dict
        See `run_results`.
    classes : list of str
        Class names.

    Returns
    -------
    dict
        ``by_corpus``: name -> ``ua``, ``ua_ci95``, ``ua_ci95_reason``,
        ``wa``, ``macro_f1``, ``weighted_f1``, ``missing_classes`` and
        ``test_utterances``; nothing without classes or
        where the entries have no ``corpus``.
    """
    corpora = [entries[id_].get("corpus") for id_ in measured["id"]]
    if not classes or None in corpora:
        return {}
    found, kept = {}, "wa macro_f1 weighted_f1 missing_classes test_utterances"
    for name in sorted(set(corpora)):
        chosen = [i for i, corpus in enumerate(corpora) if corpus == name]
        judged = [
            [measured[key][i] for i in chosen]
            for key in ("label", "predicted", "speaker")
        ]
        whole = scores(*judged[:2], classes)
        found[name] = {
            **{key: whole[key] for key in ("ua", *kept.split())},
            **_with_reason("ua", speaker_interval(*judged, classes)),
        }
    return {"by_corpus": found}


def below_start(results):
    """Warning that a kept model is worse on valid than its start, if it is.

    Arguments
    ---------
    results : dict
        ``results.json``.

    Returns
    -------
    str or None
        None where it is not worse, or its start has no scores.
    """
    start = results.get("start")
    name = "ua" if results["classes"] else "ccc"
    if not start or results[f"valid_{name}"] >= start[f"valid_{name}"]:
        return None
    return (
        f"on valid the kept model has {name.upper()} "
        f"{results[f'valid_{name}']:.3f}, what it started from "
        f"({start['from']}) had {start[f'valid_{name}']:.3f}; keep: best can "
        "keep the start"
    )


def headline(results):
    """Scores of a test set in one line."""
    parts = []
    if results["classes"]:
        missing, count = results["missing_classes"], len(results["classes"])
        parts.append(
            f"UA {results['ua']:.3f}{over_classes(missing, count)} "
            f"({_interval(results, 'ua')}), WA {results['wa']:.3f}"
        )
    if "ccc" in results:
        parts.append(
            f"mean CCC {results['ccc_mean']:.3f} "
            f"({_interval(results, 'ccc')}): "
            + ", ".join(f"{k} {v:.3f}" for k, v in results["ccc"].items())
        )
    if start := results.get("start"):
        name = "UA" if results["classes"] else "mean CCC"
        score = start["ua" if results["classes"] else "ccc_mean"]
        parts.append(f"its start ({start['from']}) {name} {score:.3f}")
    return "; ".join(parts)


def _interval(results, key):
    if ends := results[f"{key}_ci95"]:
        return "95 % CI {:.3f} to {:.3f}".format(*ends)
    return f"no 95 % CI: {results[f'{key}_ci95_reason']}"


def _with_reason(key, found):
    """Interval and reason why there is none, as in ``results.json``."""
    return dict(zip((f"{key}_ci95", f"{key}_ci95_reason"), found, strict=True))


def _more(valid, measured, groups, about, model):
    """Intervals, groups and calibration."""
    speakers, more = measured["speaker"], _with_reason("ua", (None, None))
    if classes := about["classes"]:
        judged = measured["label"], measured["predicted"], speakers
        more = {
            **_with_reason("ua", speaker_interval(*judged, classes)),
            "worst_speaker": worst_speaker(*judged, classes),
            "fairness": {
                column: fairness(
                    *judged, [group_of[id_] for id_ in measured["id"]], classes
                )
                for column, group_of in groups.items()
            },
            "calibration": calibration(
                valid, measured, model.temperature, model.unsure
            ),
        }
    if about["dimensions"]:
        values = measured["values"], measured["predicted_values"]
        more |= _with_reason("ccc", concordance_interval(*values, speakers))
    return more
