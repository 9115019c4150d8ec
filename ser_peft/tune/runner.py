"""The work of a study: trial after trial, each on the inner folds."""

import shutil
import time

from ser_peft.crossval import crossval
from ser_peft.errors import printable
from ser_peft.io import atomic_path
from ser_peft.report.rendering import duration
from ser_peft.tune.outcome import outcome
from ser_peft.tune.space import settings_of
from ser_peft.tune.study import Study
from ser_peft.tune.writing import shown, write_study

__all__ = ["tune"]

POLL_SECONDS = 0.5
IN_A_ROW = 3
"""Failed trials after which a search ends: it is not their settings."""


def tune(search, trials, jobs=1, slurm=None):
    """Do the trials that are not done.

    If this process is interrupted, the trainings are stopped; started again,
    it goes on with the trial it was at. Several processes may work at one
    study at once.

    Arguments
    ---------
    search : ser_peft.tune.search.Search
        What is searched.
    trials : int
        Number of trials wanted, those that are done included.
    jobs, slurm
        See `ser_peft.crossval.crossval`: a trial's trainings run at once.

    Returns
    -------
    str or None
        Why it ended early: the first trial failed, or several in a row.

    Raises
    ------
    InputError
        If optuna is missing, or a run was scored on test speakers.
    """
    study = Study(
        search.folder, search.space, search.own, trials, search.seeds[0]
    )
    with study.alone():
        with atomic_path(search.folder / "hyperparams.yaml") as tmp:
            tmp.write_text(search.text, encoding="utf-8")
        write_study(study, search)
    failed, pace = [], []
    while True:
        with study.next_trial() as trial:
            if trial is None:
                break
            start = time.monotonic()
            reason = _do(study, search, trial, jobs, slurm)
            pace.append(time.monotonic() - start)
            failed = [*failed, reason] if reason else []
            if failed and (trial.number == 0 or len(failed) == IN_A_ROW):
                return failed[-1]
        left = study.left()
        if left:
            rest = left * sum(pace) / len(pace)
            print(f"{left} left, about {duration(rest)}", flush=True)
    return None


def _do(study, search, trial, jobs, slurm):
    """Train a trial; returns why it failed."""
    number = trial.number
    settings = settings_of(search.space, trial)
    runs = search.trainings(number, settings)
    of = f"trial {number} ({study.wanted - study.left() + 1} of {study.wanted})"
    print(printable(f"{of}: {shown(settings)}"), flush=True)
    _wait_for(runs)
    held_out, hopeless = search.protocol.held_out, False

    def enough(failed):
        nonlocal hopeless
        units = outcome(runs, held_out)["units"]
        hopeless = study.hopeless(trial, units, search.seeds)
        return bool(failed) or hopeless

    failed = {}
    if not enough(failed):
        failed = crossval(runs, jobs, slurm, enough)
    record = outcome(runs, held_out)
    del record["units"]
    reason, state = None, "COMPLETE"
    if failed:
        reason = ": ".join(next(iter(failed.items())))
        if number == 0:
            # Left open: all others are compared with it.
            return reason
        record["reason"], state = reason, "FAIL"
    elif record["done"] < len(runs):
        state = "PRUNED"
    with study.alone():
        study.tell(trial, state, record)
        table = write_study(study, search)
    for run in runs:  # checkpoints, of no more use
        shutil.rmtree(run.folder / "save", ignore_errors=True)
    done = {
        "FAIL": f"failed: {reason}",
        "PRUNED": f"stopped after {record['done']} of {len(runs)} trainings, "
        "its speakers fare worse than the best trial's",
        "COMPLETE": f"pooled valid UA {record.get('ua', 0):.1%}",
    }
    print(printable(f"trial {number}: {done[state]}"))
    if best := table["best"]:
        print(f"best so far: trial {best['number']}, UA {best['ua']:.1%}")
    return reason


def _wait_for(runs):
    """Wait for trainings that a killed tune left running."""
    busy = [run for run in runs if run.busy]
    if busy:
        where = printable(str(busy[0].folder))
        print(f"waiting: another process trains {where}", flush=True)
    while any(run.busy for run in busy):
        time.sleep(POLL_SECONDS)
