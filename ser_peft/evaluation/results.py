"""The content of ``results.json`` that every way of training shares."""

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
    "below_start",
    "corpus_scores",
    "headline",
    "judge",
    "run_results",
    "versions",
]

PACKAGES = (
    "ser_peft",
    "speechbrain",
    "torch",
    "torchaudio",
    "transformers",
    "peft",
)


def run_results(about, valid, measured, groups, model, **more):
    """Scores of a test set with what is needed to trust them.

    Arguments
    ---------
    about : dict
        ``protocol.json`` of the manifests.
    valid, measured : dict
        Of the valid set (None: a finished model is tested elsewhere, by which
        nothing was chosen) and of the test set ``id`` and ``speaker``, where
        there are classes ``label``, ``predicted`` and ``probabilities``,
        where there are dimensions ``values`` and ``predicted_values`` [N, D].
    groups : dict
        From `ser_peft.evaluation.fairness.group_columns` on the test set.
    model : ser_peft.inference.EmotionModel
        What was tested.
    **more
        What only this way of training knows; goes in as it is.

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
        "backbone": model.encoder.lobe.source,
        "method": model.encoder.method_name,
        "head": type(model.head).__name__,
        **judge(measured, about),
        **_more(valid, measured, groups, about, model.temperature),
        **_of_valid(valid, about),
        "test_speakers": sorted(set(measured["speaker"])),
        "trainable_parameters": {
            "adapter": sum(
                encoder.num_adapter_parameters
                for encoder in model.encoders.values()
            ),
            "head": sum(
                p.numel() for p in model.head.parameters() if p.requires_grad
            ),
        },
        "total_parameters": sum(p.numel() for p in model.parameters()),
        **more,
        "versions": versions(),
    }


def _of_valid(valid, about):
    """What valid says, named as such; Nones where there is none."""
    nothing = {"ua": None, "missing_classes": [], "ccc_mean": None}
    judged = judge(valid, about) if valid else nothing
    return {
        f"valid_{key.removesuffix('_mean')}": value
        for key, value in judged.items()
        if key in ("ua", "missing_classes", "ccc_mean")
    }


def versions():
    """Of Python and of what matters for a result."""
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def judge(measured, about):
    """Score a valid or test set.

    Arguments
    ---------
    measured : dict
        As for `run_results`.
    about : dict
        ``protocol.json`` of the manifests.

    Returns
    -------
    dict
        What `ser_peft.evaluation.metrics.scores` gives, None without classes;
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
        As for `run_results`.
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
            "ua": whole["ua"],
            **_with_reason("ua", speaker_interval(*judged, classes)),
            **{key: whole[key] for key in kept.split()},
        }
    return {"by_corpus": found}


def below_start(results):
    """Warning where valid says that a kept model is worse than its start.

    Arguments
    ---------
    results : dict
        ``results.json``.

    Returns
    -------
    str or None
        Nothing where it is not worse, or started from nothing that scores.
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
    """The scores of a test set in one line."""
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
    """An interval, or why there is none, as ``results.json`` has them."""
    return dict(zip((f"{key}_ci95", f"{key}_ci95_reason"), found, strict=True))


def _more(valid, measured, groups, about, temperature):
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
            "calibration": calibration(valid, measured, temperature),
        }
    if about["dimensions"]:
        values = measured["values"], measured["predicted_values"]
        more |= _with_reason("ccc", concordance_interval(*values, speakers))
    return more
