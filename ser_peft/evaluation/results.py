"""The content of ``results.json`` that every way of training shares."""

import platform
from importlib.metadata import version

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


def run_results(about, measured, model, **more):
    """Scores of a test set with what is needed to trust them.

    Arguments
    ---------
    about : dict
        ``protocol.json`` of the manifests.
    measured : dict
        ``id``, ``speaker``, ``label`` and ``predicted`` of the test set.
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
    taken = "corpus protocol protocol_sha fold folds_total classes".split()
    return {
        **{key: about[key] for key in taken},
        "backbone": model.encoder.lobe.source,
        "method": model.encoder.method_name,
        "head": type(model.head).__name__,
        **scores(measured["label"], measured["predicted"], classes),
        "ua_ci95": list(
            speaker_bootstrap(
                measured["label"],
                measured["predicted"],
                measured["speaker"],
                len(classes),
            )
        ),
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
