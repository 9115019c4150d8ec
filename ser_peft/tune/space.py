"""Space of a study: which keys of a yaml are tried, and with which values."""

import json
import math
from dataclasses import dataclass

from ser_peft.errors import InputError
from ser_peft.settings.yamls import parse_yaml

__all__ = ["Choice", "Range", "plain", "read_space", "settings_of"]

FIXED = (
    "classes corpora corpus data_folder dimensions fold manifests_folder "
    "output_folder protocol save_folder seed"
).split()
"""Keys that decide what is scored, or where a trial is written."""
KINDS = ("log", "uniform", "int", "choice")


@dataclass(frozen=True)
class Choice:
    """Values of a key, one of which is tried.

    Arguments
    ---------
    values : tuple
        As a yaml has them.

    Example
    -------
    >>> Choice((True, None, 3)).texts
    ('True', '', '3')
    """

    values: tuple
    log = False

    @property
    def texts(self):
        """Each as it is written behind ``--key=``."""
        return tuple(map(_text, self.values))

    @property
    def tried(self):
        """Texts to be checked before anything is trained: all."""
        return self.texts

    def suggest(self, trial, key):
        """Draw a value for a trial of Optuna; returns its text."""
        return trial.suggest_categorical(key, self.texts)

    def text(self, parameter):
        """Text of Optuna's parameter."""
        return parameter

    def own(self, value):
        """Optuna's parameter of a yaml's own value; None if not of these."""
        same = [v == value and type(v) is type(value) for v in self.values]
        return self.texts[same.index(True)] if any(same) else None

    def __str__(self):
        return ", ".join(text or "null" for text in self.texts)


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, both included.

    Arguments
    ---------
    low, high : float or int
        Its ends.
    step : float or int, optional
        Between neighbours.
    log : bool
        Whether 1 and 10 are as far apart as 10 and 100.
    whole : bool
        Whether all are whole numbers.

    Example
    -------
    >>> Range(5, 30, whole=True).tried
    ('5', '30')
    """

    low: float
    high: float
    step: float = None
    log: bool = False
    whole: bool = False

    @property
    def tried(self):
        """Texts to be checked before anything is trained: both ends."""
        return _text(self.low), _text(self.high)

    def suggest(self, trial, key):
        """Draw a number for a trial of Optuna; returns its text."""
        ends = self.low, self.high
        if self.whole:
            drawn = trial.suggest_int(key, *ends, step=self.step or 1)
        else:
            drawn = trial.suggest_float(
                key, *ends, step=self.step, log=self.log
            )
        return self.text(drawn)

    def text(self, parameter):
        """Text of Optuna's parameter, which has more digits than matter.

        Example
        -------
        >>> Range(0, 0.5).text(0.12345678), Range(0, 1, log=True).text(0.12345)
        ('0.1235', '0.123')
        """
        if self.whole:
            return str(parameter)
        if self.log:
            parameter = float(f"{parameter:.3g}")
        else:  # a thousandth of the range, or finer
            digits = math.ceil(-math.log10((self.high - self.low) / 1000))
            parameter = round(parameter, digits)
        return _text(min(max(parameter, self.low), self.high))

    def own(self, value):
        """Optuna's parameter of a yaml's own value; None if not of these."""
        kinds = int if self.whole else int | float
        if isinstance(value, bool) or not isinstance(value, kinds):
            return None
        if not self.low <= value <= self.high:
            return None
        steps = (value - self.low) / self.step if self.step else 0
        return value if abs(steps - round(steps)) < 1e-6 else None

    def __str__(self):
        step = f" in steps of {self.step:g}" if self.step else ""
        return f"{self.low:g} to {self.high:g}{step}"


def read_space(path):
    """Read a space.

    Arguments
    ---------
    path : str or Path
        Yaml: key of a recipe's yaml -> ``{log: [low, high]}``, ``{uniform:
        [low, high]}`` or ``{int: [low, high]}`` (the last two with a step as
        third number if wanted), ``{choice: [...]}``, or just a list, which is
        a choice. A dot leads into a mapping: ``peft.method.r``.

    Returns
    -------
    dict
        Key -> `Range` or `Choice`.

    Raises
    ------
    InputError
        If the file cannot be read, or is no space.
    """
    try:
        with open(path, encoding="utf-8") as file:
            tree = parse_yaml(file.read(), path)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is no UTF-8 text"
        raise InputError(
            f"{path}: cannot be read ({reason}); give a yaml of keys and what "
            "to try, as adapter_lr: {log: [1.0e-5, 1.0e-3]}"
        ) from error
    if not tree:
        raise InputError(
            f"{path}: is empty; write keys and what to try, as "
            "adapter_lr: {log: [1.0e-5, 1.0e-3]}"
        )
    space = {}
    for key, node in tree.items():
        if str(key).partition(".")[0] in FIXED:
            raise InputError(
                f"{path}: {key}: decides what is scored, or where it is "
                "written, and cannot be tuned; remove it"
            )
        space[str(key)] = _dimension(f"{path}: {key}", node)
    for key in space:
        if inner := [k for k in space if k.startswith(f"{key}.")]:
            raise InputError(
                f"{path}: {key}: holds {inner[0]}, which is there too; remove "
                "one of them"
            )
    return space


def settings_of(space, trial):
    """Draw the settings of a trial.

    Arguments
    ---------
    space : dict
        From `read_space`.
    trial : optuna.trial.Trial
        Which may have some of them already.

    Returns
    -------
    dict
        Key -> text, as behind ``--key=``.
    """
    return {key: part.suggest(trial, key) for key, part in space.items()}


def _dimension(where, node):
    """What to try of one key."""
    if isinstance(node, list):
        node = {"choice": node}
    usage = (
        f"{where}: write {{log: [low, high]}}, {{uniform: [low, high]}}, "
        "{int: [low, high]} or {choice: [one, another]}"
    )
    if not isinstance(node, dict) or len(node) != 1:
        raise InputError(usage)
    ((kind, values),) = node.items()
    if kind not in KINDS or not isinstance(values, list):
        raise InputError(usage)
    values = [*map(plain, values)]
    if kind == "choice":
        texts = [*map(_text, values)]
        if len(values) < 2 or len({*texts}) < len(texts):
            raise InputError(f"{where}: give two values or more, all different")
        return Choice(tuple(values))
    numbers = int if kind == "int" else int | float
    if not all(
        isinstance(v, numbers) and not isinstance(v, bool) and math.isfinite(v)
        for v in values
    ):
        whole = "whole " * (kind == "int")
        raise InputError(f"{where}: {kind} takes {whole}numbers")
    low, high, *step = values if len(values) > 1 else (0, 0)
    if not low < high or len(step) > (kind != "log") or min([*step, 1]) <= 0:
        third = "" if kind == "log" else ", and a step above 0 if wanted"
        raise InputError(
            f"{where}: {kind} takes low and high, low first{third}"
        )
    if kind == "log" and low <= 0:
        raise InputError(f"{where}: log takes numbers above 0")
    if kind == "int" and step:  # Optuna warns of an end that no step meets
        high -= (high - low) % step[0]
    return Range(low, high, *step, log=kind == "log", whole=kind == "int")


def plain(value):
    """A value as ruamel reads it, as Python's own.

    Its numbers remember how they were written.

    Arguments
    ---------
    value : object
        From a yaml.

    Returns
    -------
    dict, list, bool, int, float, str or None
    """
    if isinstance(value, dict):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [*map(plain, value)]
    for kind in (bool, int, float):
        if isinstance(value, kind):
            return kind(value)
    return value if value is None else str(value)


def _text(value):
    """A value as it is written behind ``--key=``."""
    if isinstance(value, dict | list):
        return json.dumps(value)  # which is yaml
    return "" if value is None else str(value)
