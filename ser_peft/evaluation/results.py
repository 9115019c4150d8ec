"""The content of ``results.json`` that every way of training shares."""

import platform
from importlib.metadata import version

from ser_peft.evaluation.calibration import calibration
from ser_peft.evaluation.fairness import fairness, worst_speaker
from ser_peft.evaluation.metrics import scores, speaker_bootstrap

__all__ = ["run_results"]

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
        ``id``, ``speaker``, ``label``, ``predicted`` and ``probabilities`` of
        the valid and of the test set.
    groups : dict
        From `ser_peft.evaluation.fairness.group_columns` on the test set.
    model : ser_peft.inference.EmotionModel
        What was tested.
    **more
        What only this way of training knows; goes in as it is.

    Returns
    -------
    dict
        ``results.json``; rates are fractions.
    """
    classes = about["classes"]
    judged = measured["label"], measured["predicted"], measured["speaker"]
    taken = "corpus protocol protocol_sha fold folds_total classes".split()
    return {
        **{key: about[key] for key in taken},
        "backbone": model.encoder.lobe.source,
        "method": model.encoder.method_name,
        "head": type(model.head).__name__,
        **scores(measured["label"], measured["predicted"], classes),
        "ua_ci95": list(speaker_bootstrap(*judged, len(classes))),
        "worst_speaker": worst_speaker(*judged, classes),
        "fairness": {
            column: fairness(
                *judged, [group_of[id_] for id_ in measured["id"]], classes
            )
            for column, group_of in groups.items()
        },
        "calibration": calibration(valid, measured),
        "test_speakers": sorted(set(measured["speaker"])),
        "trainable_parameters": {
            name: sum(p.numel() for p in module.parameters() if p.requires_grad)
            for name, module in (
                ("adapter", model.encoder),
                ("head", model.head),
            )
        },
        "total_parameters": sum(p.numel() for p in model.parameters()),
        **more,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in PACKAGES},
        },
    }
