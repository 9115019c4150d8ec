"""Allowed values of the keys of a training's yaml."""

import math

from ser_peft.errors import InputError
from ser_peft.training.schedules import SCHEDULES

__all__ = ["check_settings"]

# Allowed values of a key: one of these, or a number within limits.
CHOICES = {
    "keep": ("best", "last", "average"),
    "schedule": SCHEDULES,
    "augment": (True, False),
    "start_from_probe": (True, False),
    "init_merged": (False, True),
    "labels": ("clusters", "random"),
    "robustness": (False, True),
    "report_audio": ("auto", True, False),
    "whole_targets": (False, True),
    "features": ("text", "audio", "fused"),
    "cache_teacher": (False, True),
    "precision": ("auto", "fp32", "bf16", "fp16"),
    "eval_precision": ("fp32", "bf16", "fp16"),
    "trust_start": (False, True),
}
WHOLE = {
    "seed": (0, 2**32 - 1),
    "number_of_epochs": (1, math.inf),
    "patience": (1, math.inf),
    "keep_best": (1, math.inf),
    "num_workers": (0, 1024),
    "grad_accumulation_factor": (1, math.inf),
    "optimizer_step_limit": (1, math.inf),
    "fold": (1, math.inf),
    "layer": (1, math.inf),
    "head_epochs": (0, math.inf),
    "augmented_versions": (0, math.inf),
}
REAL = {
    "adapter_lr": (0, math.inf),
    "head_lr": (0, math.inf),
    "max_grad_norm": (-math.inf, math.inf),
    "ckpt_interval_minutes": (-math.inf, 0),
    "weight_decay": (0, math.inf),
    "warmup_epochs": (0, math.inf),
    "label_smoothing": (0, 1),
    "ema_decay": (0, 0.99999),
    "dimension_weight": (0, math.inf),
    "batch_seconds": (0.1, math.inf),
    "max_seconds": (0.1, math.inf),
    "first_seconds": (0.1, math.inf),
    "crop": (0.1, 1),
    "drop_text": (0, 1),
    "kd_weight": (0, 1),
    "temperature": (0.01, math.inf),
    "feature_weight": (0, math.inf),
    "cache_gb": (0, math.inf),
}

# Values that are allowed besides numbers.
INSTEAD = {
    "max_seconds": None,
    "first_seconds": None,
    "layer": None,
    "num_workers": "auto",
}


def check_settings(settings):
    """Refuse values that no training can use.

    Arguments
    ---------
    settings : dict
        The yaml, built or not; keys that it does not have are no
        matter.

    Raises
    ------
    InputError
        If a choice is none, or a number is none or too small.
    """
    for key, choices in CHOICES.items():
        if key in settings and settings[key] not in [*choices]:
            raise InputError(
                f"{key}: {settings[key]} is not one of "
                f"{', '.join(map(str, choices))}"
            )
    names = settings.get("dimensions", [])
    if not isinstance(names, list) or len({*map(str, names)}) < len(names):
        raise InputError(
            f"dimensions: {names} is no list of different names; write "
            "[arousal, valence, dominance]"
        )
    for key in ("balance", "fairness_columns"):
        names = settings.get(key) or []
        if not isinstance(names, list | tuple) or not all(
            isinstance(name, str) for name in names
        ):
            raise InputError(
                f"{key}: {names} is no list of columns; write [gender]"
            )
    classes = settings.get("classes")
    if isinstance(classes, dict):
        for label, name in classes.items():
            if not (name and isinstance(name, str)):
                raise InputError(
                    f"classes: {label}: {name} is no name of a class; write "
                    "one, or leave the label out"
                )
    sizes = settings.get("clusters") or [2]
    if not isinstance(sizes, list) or not all(
        isinstance(size, int) and 2 <= size <= 2**16 for size in sizes
    ):
        raise InputError(
            f"clusters: {sizes} is no list of numbers from 2 to 65536; write "
            "[64, 512]"
        )
    for kind, limits in ((int, WHOLE), ((int, float), REAL)):
        for key, (least, most) in limits.items():
            value = settings.get(key)
            if key not in settings or value == INSTEAD.get(key, math.nan):
                continue
            if (
                not isinstance(value, kind)
                or not least <= value <= most
                or value in (math.inf, -math.inf)
            ):
                raise InputError(
                    f"{key}: {value} is no "
                    f"{'whole ' if kind is int else ''}number from "
                    f"{least} to {most}"
                )
