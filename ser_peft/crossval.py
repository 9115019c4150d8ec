"""Cross-validation: one training a fold and seed, here or on a cluster."""

import fcntl
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import submitit
from submitit.core.utils import UncompletedJobError
from submitit.helpers import Checkpointable
from tqdm import tqdm

from ser_peft.errors import InputError
from ser_peft.evaluation.metrics import over_classes
from ser_peft.settings.finished import DONE
from ser_peft.settings.flags import is_place, place, split

__all__ = ["crossval", "numbers", "trainings"]

POLL_SECONDS = 0.5
KILL_SECONDS = 10  # from asking a training to end to ending it

# What crossval itself says to each run, and what no two may share.
OWN = {
    "fold": "--folds",
    "seed": "--seeds",
    "save_folder": "--output_folder",
    "manifests_folder": "--output_folder",
}


@dataclass
class Training(Checkpointable):
    """One run of a recipe: call it to train.

    On a cluster it is put back into the queue when its time is up, and goes
    on from its last checkpoint (`submitit.helpers.Checkpointable`).

    Arguments
    ---------
    name : str
        For people: yaml, fold and seed.
    command : list of str
        ``python train.py ...``.
    recipe : Path
        Folder it runs in.
    folder : Path
        Its output folder. What it prints goes to ``console.log`` there.
    first : Training, optional
        The pretraining that it starts from, done before it if it is not
        finished.
    """

    name: str
    command: list
    recipe: Path
    folder: Path
    first: "Training" = None
    process = None

    def __getstate__(self):
        # What is put back into the queue has no process yet.
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

    def __call__(self, **environment):
        """Train.

        Arguments
        ---------
        **environment
            Variables added to those of this process.

        Returns
        -------
        str or None
            Why it failed.
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
                env={"TQDM_MININTERVAL": "5", **os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # to stop its workers with it
            )
        try:
            code = self.process.wait()
        finally:
            self.stop()
        if code:
            how = f"exit code {code}" if code > 0 else f"signal {-code}"
            return f"{how}: {self.last_line()}; see {self.log}"
        if not self.finished:
            return f"left no results: {self.last_line()}; see {self.log}"

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
        """What it printed last; a progress bar's last state is a line."""
        lines = map(str.strip, re.split(r"[\r\n]", self._tail()))
        return ([line for line in lines if line] or ["no output"])[-1]

    def progress(self):
        """The epoch it is in, as SpeechBrain says it, and its last line."""
        epochs = re.findall(r"Going into (epoch \d+)", self._tail())
        return ", ".join([*epochs[-1:], self.last_line()])

    def _tail(self):
        with open(self.log, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 2**15))
            return file.read().decode(errors="replace")

    def scores(self):
        """What it reached, for people."""
        results = json.loads(self.results.read_text(encoding="utf-8"))
        if results["classes"]:
            missing = results.get("missing_classes")
            over = over_classes(missing, len(results["classes"]))
            score = f"UA {results['ua']:.1%}{over}"
        else:
            score = f"CCC {results['ccc_mean']:.3f}"
        return f"{score}, {results['train_seconds']:,.0f} s"


def trainings(
    script,
    hparams,
    folds,
    seeds,
    output_folder=None,
    overrides=(),
    pretrain=None,
):
    """Name the runs of a cross-validation.

    Arguments
    ---------
    script : str or Path
        A recipe's ``train.py``.
    hparams : list of str
        Its yamls, relative to here or to the recipe's folder: each is trained
        on the same folds and seeds.
    folds, seeds : list of int
        One run each.
    output_folder : str or Path, optional
        A run writes to ``<yaml>/fold<fold>/<seed>`` in it; default: the
        recipe's ``results``, where ``python train.py`` writes too.
    overrides : list of str
        ``--key=value`` for all runs. A path that exists here is meant, though
        the runs are started in the recipe's folder.
    pretrain : tuple of str, optional
        Script and yaml of a pretraining of the recipe: done once a fold and
        seed, with those of the overrides whose keys its yaml has, and what
        the runs start from. They write to ``<its yaml>+<yaml>``.

    Returns
    -------
    list of Training
        All folds and seeds of the first yaml, then of the second.

    Raises
    ------
    InputError
        If there is no such script or yaml, or an override is unfit.
    """
    script = Path(script).absolute()
    if not script.is_file():
        raise InputError(f"{script}: no such file; give a recipe's train.py")
    recipe = script.parent
    output_folder = Path(output_folder or recipe / "results").absolute()
    yamls = {}
    for name in hparams:
        path = _yaml(name, recipe)
        if path.stem in yamls:
            raise InputError(
                f"{name}: two yamls called {path.stem} would share a folder; "
                "rename one or leave it out"
            )
        yamls[path.stem] = path
    words, flags = split(overrides)
    if words:
        raise InputError(f"{words[0]}: not understood; write --key=value")
    overrides = [_override(*flag) for flag in flags]
    first, before = {}, ""
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
            (fold, seed): _training(
                first_script.name, path, path.stem, fold, seed,
                output_folder, recipe, shared,
            )
            for fold in folds for seed in seeds
        }  # fmt: skip
    runs = []
    for stem, path in yamls.items():
        for fold in folds:
            for seed in seeds:
                own, start = overrides, first.get((fold, seed))
                if start:
                    own = [*own, f"--init_from={start.folder}"]
                run = _training(
                    script.name, path, before + stem, fold, seed,
                    output_folder, recipe, own,
                )  # fmt: skip
                run.first = start
                runs.append(run)
    return runs


def _yaml(name, recipe):
    """Path of a recipe's yaml."""
    path = Path(name) if Path(name).is_file() else recipe / name
    if not path.is_file():
        raise InputError(
            f"{name}: no such yaml here or in {recipe}; give one of the "
            "recipe's hparams/*.yaml"
        )
    return path.absolute()


def _training(script, path, stem, fold, seed, output_folder, recipe, own):
    name = f"{stem}/fold{fold}/{seed}"
    folder = output_folder / name
    where = [f"--fold={fold}", f"--seed={seed}", f"--output_folder={folder}"]
    command = [sys.executable, script, path, *where, *own]
    return Training(name, [*map(str, command)], recipe, folder)


def crossval(runs, jobs=1, slurm=None):
    """Do the trainings that are not finished.

    A failed one is reported and the others are done. If this process is
    interrupted, the trainings are stopped; done again, they go on.

    Arguments
    ---------
    runs : list of Training
        From `trainings`.
    jobs : int
        How many run at once on this machine. They share its cores, unless
        ``OMP_NUM_THREADS`` is set, and its GPUs.
    slurm : dict, optional
        Submit them to SLURM instead, with these parameters of sbatch as
        submitit names them: ``time`` (minutes, needed), ``partition``,
        ``gpus_per_node``, ...

    Returns
    -------
    dict
        Name -> why it failed, for those that did.

    Raises
    ------
    InputError
        If there is no SLURM or it has no such parameter.
    """
    todo = [run for run in runs if not run.finished]
    failed = {}
    executor = _local(jobs, todo) if slurm is None else _slurm(slurm)
    with (
        tqdm(
            total=len(runs), initial=len(runs) - len(todo), unit="run",
            disable=None, dynamic_ncols=True,
        ) as bar,
        executor as submit,
    ):  # fmt: skip
        if len(todo) < len(runs):
            bar.write(f"{len(runs) - len(todo)} of {len(runs)} are finished")
        running = {submit(run): run for run in todo}
        while running:
            time.sleep(POLL_SECONDS)
            for future in [future for future in running if future.done()]:
                run = running.pop(future)
                try:
                    reason = future.result()
                except UncompletedJobError as error:  # SLURM's
                    reason = " ".join(str(error).split())
                if reason:
                    failed[run.name] = reason
                bar.write(f"{run.name}: {reason or run.scores()}")
                bar.update()
            started = [run for run in running.values() if run.log.exists()]
            started += [
                run.first
                for run in running.values()
                if run.first and run.first.log.exists()
            ]
            if started and not bar.disable:
                run = max(started, key=lambda run: run.log.stat().st_mtime)
                bar.set_postfix_str(f"{run.name}: {run.progress()}")
    return failed


@contextmanager
def _local(jobs, runs):
    """Give a function that starts a training in a thread that waits."""
    environment = {}
    if "OMP_NUM_THREADS" not in os.environ:
        threads = max(1, len(os.sched_getaffinity(0)) // jobs)
        environment["OMP_NUM_THREADS"] = str(threads)
    free = queue.SimpleQueue()
    for gpu in _gpus(jobs, runs):
        free.put(gpu)

    def train(run):
        gpu = free.get()
        mine = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}
        try:
            return run(**environment, **mine)
        finally:
            free.put(gpu)

    pool = ThreadPoolExecutor(jobs)
    futures = []

    def submit(run):
        futures.append(pool.submit(train, run))
        return futures[-1]

    try:
        yield submit
    finally:
        for future in futures:
            future.cancel()
        # Again and again: a thread may be about to start its process.
        while not all(future.done() for future in futures):
            for run in runs:
                run.stop()
            time.sleep(POLL_SECONDS)
        pool.shutdown()


def _gpus(jobs, runs):
    """Deal GPUs to so many at once; None leaves the choice to the run."""
    named = any(part.startswith("--device") for r in runs for part in r.command)
    if jobs > 1 and not named:
        import torch  # takes seconds

        count = torch.cuda.device_count()
        if count > 1:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            names = visible.split(",") if visible else range(count)
            return [str(names[job % count]) for job in range(jobs)]
    return [None] * jobs


@contextmanager
def _slurm(parameters):
    """Give a function that submits a training to SLURM."""
    if not shutil.which("sbatch"):
        raise InputError(
            "--cluster slurm: no sbatch on this machine; run this on the "
            "cluster's login node, or with --cluster local"
        )
    if "time" not in parameters:
        raise InputError("--slurm time=MINUTES is needed")
    submitted = []

    def submit(run):
        executor = submitit.SlurmExecutor(run.folder / "slurm")
        try:
            executor.update_parameters(job_name=run.name, **parameters)
        except ValueError as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"--slurm: {reason}") from error
        submitted.append(executor.submit(run))
        return submitted[-1]

    try:
        yield submit
    finally:
        for job in submitted:
            if not job.done():
                job.cancel(check=False)


def _override(key, value):
    """Check what all runs are told; a path that exists here is absolute."""
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
