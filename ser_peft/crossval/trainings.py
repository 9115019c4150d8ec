"""The trainings of a cross-validation: named, checked, started, watched."""

import fcntl
import itertools
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ruamel.yaml import YAML

from ser_peft.corpora.inner import inner_name
from ser_peft.errors import InputError
from ser_peft.evaluation.metrics import over_classes
from ser_peft.settings.arguments import parse_arguments
from ser_peft.settings.finished import DONE
from ser_peft.settings.flags import split
from ser_peft.settings.places import is_place, place

__all__ = ["Training", "check", "numbers", "trainings"]

KILL_SECONDS = 10
"""From asking a training to end to killing it."""

OWN = {
    "fold": "--folds",
    "seed": "--seeds",
    "save_folder": "--output_folder",
    "manifests_folder": "--output_folder",
}
"""Keys that every training gets a value of its own for -> what to use."""


@dataclass
class Training:
    """One run of a recipe: call it to train.

    Arguments
    ---------
    name : str
        Name for people: yaml, fold and seed.
    command : list of str
        ``python train.py ...``.
    recipe : Path
        Folder to run it in.
    folder : Path
        Its output folder. What it prints goes to ``console.log`` there.
    first : Training, optional
        The pretraining that it starts from; done first unless finished.
    """

    name: str
    command: list
    recipe: Path
    folder: Path
    first: "Training" = None
    process = None

    def __getstate__(self):
        # What goes back into a cluster's queue has no process yet.
        return self.__dict__ | {"process": None}

    @property
    def log(self):
        """Path of what it printed (``log.txt`` is SpeechBrain's)."""
        return self.folder / "console.log"

    @property
    def results(self):
        """Path of its scores."""
        return self.folder / "results.json"

    @property
    def finished(self):
        """Whether it need not be done again."""
        return any((self.folder / name).exists() for name in DONE)

    @property
    def busy(self):
        """Whether a process trains it now, be its crossval gone or not."""
        with suppress(FileNotFoundError), open(self.log, "rb") as log:
            try:
                fcntl.flock(log, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def checkpoint(self):
        """Put it back into SLURM's queue when its time there is up.

        It goes on from its last checkpoint.
        """
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def __call__(self, **environment):
        """Train.

        Arguments
        ---------
        **environment
            Variables added to those of this process.

        Returns
        -------
        str or None
            Reason why it failed.
        """
        if self.first and (reason := self.first._train(environment, True)):
            return f"{self.first.name}: {reason}"
        return self._train(environment)

    def _train(self, environment, wait=False):
        """Run the command; if told to, wait for another who runs it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.log, "ab") as log:
            # The child inherits the lock, so that it outlives this process:
            # a run that a killed crossval left behind is not started twice.
            try:
                fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB * (not wait))
            except BlockingIOError:
                return "another process is training it; wait for it or stop it"
            if wait and self.finished:
                return None
            self.process = subprocess.Popen(
                self.command,
                cwd=self.recipe,
                env=os.environ | environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # to stop its workers with it
            )
        try:
            code = self.process.wait()
        finally:
            self.stop()
        if self.finished and not code:
            return None
        how = "left no results"
        if code:
            how = f"exit code {code}" if code > 0 else f"signal {-code}"
        return f"{how}: {self.last_line()}; see {self.log}"

    def stop(self):
        """End it and its workers, if it runs."""
        if self.first:
            self.first.stop()
        with suppress(ProcessLookupError):
            if self.process and self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGTERM)
                with suppress(subprocess.TimeoutExpired):
                    self.process.wait(KILL_SECONDS)
                    return
                os.killpg(self.process.pid, signal.SIGKILL)

    def last_line(self):
        """Last line that it printed; a progress bar's last state is a line."""
        lines = map(str.strip, re.split(r"[\r\n]", self._tail()))
        return ([line for line in lines if line] or ["no output"])[-1]

    def progress(self):
        """Epoch in SpeechBrain's words, and the last line."""
        epochs = re.findall(r"Going into (epoch \d+)", self._tail())
        return ", ".join([*epochs[-1:], self.last_line()])

    def _tail(self):
        with open(self.log, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 2**15))
            return file.read().decode(errors="replace")

    def scores(self):
        """Score and time of a finished training, for people."""
        results = json.loads(self.results.read_text(encoding="utf-8"))
        if results["classes"]:
            missing = results.get("missing_classes")
            over = over_classes(missing, len(results["classes"]))
            score = f"UA {results['ua']:.1%}{over}"
        else:
            score = f"CCC {results['ccc_mean']:.3f}"
        # Of inner folds it is no test's.
        on = "valid " * (results.get("scored_on") == "valid")
        return f"{on}{score}, {results['train_seconds']:,.0f} s"


def trainings(
    script,
    hparams,
    folds,
    seeds,
    output_folder=None,
    overrides=(),
    pretrain=None,
    methods=(),
):
    """Name the trainings of a cross-validation.

    Arguments
    ---------
    script : str or Path
        A recipe's ``train.py``.
    hparams : list of str
        Its yamls, relative to here or to the recipe's folder: each is trained
        on the same folds and seeds.
    folds, seeds : list of int
        Each fold is trained with each seed.
    output_folder : str or Path, optional
        A training writes to ``<yaml>/fold<fold>/<seed>`` in it; by default in
        the recipe's ``results``, where ``python train.py`` writes too; of
        inner folds in ``results/<protocol>/inner``.
    overrides : list of str
        ``--key=value`` for all trainings. A path that exists here is made
        absolute, since they are started in the recipe's folder.
    pretrain : tuple of str, optional
        Script and yaml of a pretraining of the recipe: done once a fold and
        seed, with those of the overrides whose keys its yaml has. The
        trainings start from it and write to ``<its yaml>+<yaml>``.
    methods : list of str
        Values of ``--method``: each yaml is trained with each, and they write
        to ``<yaml>-<method>``.

    Returns
    -------
    list of Training
        By yaml, method, fold (ascending) and seed.

    Raises
    ------
    InputError
        If there is no such script or yaml, or an override is wrong.
    """
    script = Path(script).absolute()
    if not script.is_file():
        raise InputError(f"{script}: no such file; give a recipe's train.py")
    recipe = script.parent
    words, flags = split(overrides)
    if words:
        raise InputError(f"{words[0]}: not understood; write --key=value")
    protocol = dict(flags).get("protocol") or ""
    results = recipe / "results" / (protocol if inner_name(protocol) else "")
    out = Path(output_folder or results).absolute()
    overrides = [_override(*flag) for flag in flags]

    def training(script, path, kind, fold, seed, own, first=None):
        name = f"{kind}/fold{fold}/{seed}"
        where = f"--output_folder={out / name}"
        command = [sys.executable, script.name, path, f"--fold={fold}"]
        command = [*map(str, command), f"--seed={seed}", where, *own]
        return Training(name, command, recipe, out / name, first)

    if min(folds) < 1:
        raise InputError(f"--folds {min(folds)}: folds are counted from 1")
    points = [*itertools.product(sorted(folds), seeds)]
    first, before = dict.fromkeys(points), ""
    if pretrain:
        first_script, path = recipe / Path(pretrain[0]).name, pretrain[1]
        if not first_script.is_file():
            raise InputError(
                f"--pretrain {pretrain[0]}: {recipe} has no such script"
            )
        path = _yaml(path, recipe)
        before = f"{path.stem}+"
        keys = re.findall(r"^(\w+):", path.read_text("utf-8"), re.MULTILINE)
        shared = [o for o in overrides if re.match(r"--(\w+)", o)[1] in keys]
        first = {
            point: training(first_script, path, path.stem, *point, shared)
            for point in points
        }
    kinds = {}
    for name, method in itertools.product(hparams, methods or [None]):
        path, own = _yaml(name, recipe), overrides
        kind = before + path.stem
        if method:
            kind += f"-{Path(method).stem}"
            own = [*own, _override("method", method)]
        if kind in kinds:
            raise InputError(
                f"{name}: two trainings called {kind} would share a folder; "
                "rename one or leave it out"
            )
        kinds[kind] = path, own
    return [
        training(
            script, path, kind, *point,
            [*own, *([f"--init_from={start.folder}"] if start else [])],
            start,
        )
        for kind, (path, own) in kinds.items()
        for point, start in first.items()
    ]  # fmt: skip


def _yaml(name, recipe):
    """Path of a recipe's yaml."""
    path = Path(name) if Path(name).is_file() else recipe / name
    if not path.is_file():
        raise InputError(
            f"{name}: no such yaml here or in {recipe}; give one of the "
            "recipe's hparams/*.yaml"
        )
    return path.absolute()


def _override(key, value):
    """Check an override of all trainings; make a path of here absolute."""
    if not re.fullmatch(r"\w+", key):
        raise InputError(f"--{key}: not understood; write --key=value")
    if key in OWN:
        raise InputError(f"--{key}: each run has its own; use {OWN[key]}")
    if value is None:
        return f"--{key}"
    if is_place(key) and not value.startswith("!ref "):
        value = place(value, f"--{key}")
    corpus, path = re.fullmatch(r"(emobox:[^@]*@)?(.*)", value, re.S).groups()
    # A plain word is a path only where the key says so.
    if path and (is_place(key) or "/" in path) and Path(path).exists():
        value = f"{corpus or ''}{Path(path).absolute()}"
    return f"--{key}={value}"


def check(runs):
    """Refuse, before any training, what all of them would refuse one by one.

    Arguments
    ---------
    runs : list of Training
        From `trainings`.

    Raises
    ------
    InputError
        If a yaml has no such key, or its corpus no such fold.
    """
    # Of each yaml and method the last one, whose fold is the highest.
    for run in {run.folder.parents[1]: run for run in runs}.values():
        for one in filter(None, (run.first, run)):
            hparams_file, _, given = parse_arguments(one.command[2:])
            settings = YAML().load(Path(hparams_file)) | given
            if settings.get("corpus") and not one.finished:
                _check_fold(settings)


def _check_fold(settings):
    """Refuse a fold that a corpus has not; references are left to the run."""
    from ser_peft.data.preparation import choose  # imports torch

    keys = ("corpus", "data_folder", "classes", "protocol", "fold")
    values = [settings.get(key) for key in keys]
    if not all(isinstance(value, str | int | None) for value in values):
        return
    corpus, data_folder, classes, protocol, fold = values
    if corpus == "custom" and data_folder.startswith("emobox:"):
        corpus, _, data_folder = data_folder.partition("@")
    protocol = choose(corpus, data_folder, classes).protocol(protocol)
    if fold > protocol.folds:
        raise InputError(
            f"--folds {fold}: {corpus}, {protocol.name} has folds 1 to "
            f"{protocol.folds}"
        )


def numbers(text):
    """Read a list of numbers and ranges.

    Arguments
    ---------
    text : str
        As ``1-5`` or ``8,16,24``.

    Returns
    -------
    list of int
        Each once, in the order given.

    Raises
    ------
    InputError
        If it is anything else.

    Example
    -------
    >>> numbers("1-3,8")
    [1, 2, 3, 8]
    """
    found = []
    for part in text.split(","):
        match = re.fullmatch(r" *(\d+)(?:-(\d+))? *", part)
        first, last = (
            (int(n or match[1]) for n in match.groups()) if match else (1, 0)
        )
        if not 0 <= last - first < 10_000:
            raise InputError(f"{text}: no numbers; write them as 1-5 or 1,3")
        found += range(first, last + 1)
    return [*dict.fromkeys(found)]
