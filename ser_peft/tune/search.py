"""What a study searches, checked before anything is trained."""

import json
import sys
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ruamel.yaml import YAML

from ser_peft.crossval import trainings
from ser_peft.data.sources import choose
from ser_peft.errors import InputError
from ser_peft.settings.arguments import parse_arguments
from ser_peft.settings.finished import finished
from ser_peft.settings.places import place
from ser_peft.settings.yamls import (
    OPTIONAL,
    parse_yaml,
    read_settings,
    read_yaml,
    top_keys,
)
from ser_peft.tune.merging import overrides_of
from ser_peft.tune.space import plain, read_space

__all__ = ["Search"]


@dataclass
class Search:
    """A recipe's yaml, a space, inner folds and seeds.

    Arguments
    ---------
    script : str or Path
        A recipe's ``train.py``, or its folder.
    hparams : str
        One of its yamls, relative to here or to the recipe's folder.
    space_file : str or Path
        See `ser_peft.tune.space.read_space`.
    seeds : list of int
        Each trial is trained with each.
    outer : int
        Fold of the yaml's protocol whose test speakers stay away.
    output_folder : str or Path, optional
        Of the study; by default ``results/tune/<yaml>`` in the recipe's.
    overrides : list of str
        ``--key=value`` for all trainings.

    Attributes
    ----------
    space : dict
        Key -> what is tried.
    path : str
        Path of the yaml.
    given : dict
        The overrides as values, see
        `ser_peft.settings.arguments.parse_arguments`.
    overrides : list of str
        As given, but paths are absolute.
    corpus : str
        Its name.
    own : dict
        Key -> Optuna's parameter of the yaml's own value.
    protocol : InnerFolds
        Its ``held_out`` are the speakers whom nothing may be scored on.
    text : str
        Settings that may not change while the study lasts.

    Raises
    ------
    InputError
        If a key, a value or a fold does not exist, or the folder holds
        another study. Nothing is written.
    """

    script: Path
    hparams: str
    space_file: Path
    seeds: list
    outer: int = 1
    output_folder: Path = None
    overrides: tuple = ()

    def __post_init__(self):
        self.script = Path(self.script).absolute()
        if self.script.is_dir():
            self.script /= "train.py"
        self.space = read_space(self.space_file)
        self.folder = Path(
            self.output_folder
            or self.script.parent / "results" / "tune" / Path(self.hparams).stem
        ).absolute()
        self._check_overrides()
        with _being(self.script):
            self._read()
        finished(self.text, self.folder)

    def _read(self):
        """Read the yaml and find all else in it, and check it."""
        (run,) = self._trainings(self.folder, {}, [1], self.seeds[:1])
        self.overrides = run.command[6:]
        self.path, options, self.given = parse_arguments(run.command[2:])
        reads = {*top_keys(self.path), *OPTIONAL, *self.given}
        text = read_settings(self.path, self.given, reads, options)
        settings = YAML().load(text)
        self._find_folds(settings)
        # Five more tests a training, which judge nothing here.
        spared = settings.get("robustness") and "robustness" not in self.space
        self.spared = ["--robustness=False"] if spared else []
        self.own = {
            key: self._own(settings, key, part)
            for key, part in self.space.items()
        }
        self._check_values(settings)
        about = {
            "space": {key: str(part) for key, part in self.space.items()},
            "seeds": self.seeds,
            "protocol": self.protocol.name,
        }
        self.text = text + "".join(
            f"tune_{key}: {json.dumps(value)}\n" for key, value in about.items()
        )

    def trainings(self, number, settings):
        """Trainings of a trial.

        Arguments
        ---------
        number : int
            Of the trial; 0 is the yaml as it is.
        settings : dict
            Key -> text.

        Returns
        -------
        list of Training
            By fold, then seed.
        """
        runs = self._trainings(
            self.folder / "trials" / f"{number:03d}",
            settings if number else {},
            range(1, self.protocol.folds + 1),
            self.seeds,
            f"--protocol={self.protocol.name}",
            *self.spared,
        )
        points = (run.folder.parts[-2:] for run in runs)
        return [
            replace(run, name=f"trial{number}/{'/'.join(point)}")
            for run, point in zip(runs, points, strict=True)
        ]

    def _trainings(self, folder, settings, folds, seeds, *more):
        flags = [*overrides_of(settings), *more]
        keys = {flag.partition("=")[0] for flag in flags}
        kept = [f for f in self.overrides if f.partition("=")[0] not in keys]
        return trainings(
            self.script, [self.hparams], folds, seeds, folder, [*kept, *flags]
        )

    def _check_overrides(self):
        """Refuse flags that trials set themselves."""
        flags = [flag.partition("=")[0] for flag in self.overrides]
        instead = {"--fold": "--outer", "--seed": "--seeds"}
        for key in self.space:
            if "." in key:
                instead["--" + key.partition(".")[0]] = f"{key} in the yaml"
        for flag in flags:
            if flag in instead:
                raise InputError(
                    f"{flag}: trials have their own; use {instead[flag]}"
                )

    def _find_folds(self, settings):
        """Find the inner folds, and the speakers who stay away."""
        names = "corpus data_folder classes protocol".split()
        corpus, data_folder, classes, name = map(settings.get, names)
        if not isinstance(corpus, str) or classes == 0:
            raise InputError(
                f"{self.hparams}: trials are judged by the UA of the inner "
                "folds of one corpus; give one, with classes"
            )
        if corpus == "custom" and data_folder.startswith("emobox:"):
            corpus, _, data_folder = data_folder.partition("@")
            data_folder = place(data_folder, "data_folder")
        self.corpus = corpus
        source = choose(corpus, data_folder, classes)
        outer = f"{name or next(iter(source.protocols))}/inner"
        self.protocol = source.protocol(
            outer + str(self.outer) * (self.outer > 1),
            settings.get("dimensions") or (),
        )

    def _own(self, settings, key, part):
        """Optuna's parameter of the yaml's own value of a key."""
        value = settings
        for name in ["peft", "name"] if key == "method" else key.split("."):
            if not isinstance(value, dict) or name not in value:
                raise InputError(
                    f"{self.space_file}: {key}: {self.path} has no such key; "
                    "correct it, or give the key's own value, as "
                    f"--{key}=..."
                )
            value = value[name]
        own = part.own(plain(value))
        if own is None:
            shown = "null" if value is None else value
            raise InputError(
                f"{self.space_file}: {key}: {self.path} has {shown}, which is "
                f"not of {part}: trial 0 is the yaml as it is; widen that, or "
                f"give another start, as --{key}=..."
            )
        return own

    def _check_values(self, settings):
        """Refuse values that a training would refuse."""
        from ser_peft.training.checks import check_settings

        for key, part in self.space.items():
            for text in part.tried:
                value = parse_yaml(f"{key}: {text}", self.space_file)[key]
                try:
                    if key == "method":
                        read_yaml(self.path, self.given | {key: value})
                    else:
                        check_settings(settings | {key: value})
                except InputError as error:
                    raise InputError(f"{self.space_file}: {error}") from error


@contextmanager
def _being(script):
    """Be a script: what a yaml elsewhere includes is looked up from there."""
    before, sys.argv = sys.argv, [str(script)]
    try:
        yield
    finally:
        sys.argv = before
