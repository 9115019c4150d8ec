"""Many trainings at once: some here, or all of them on SLURM."""

import itertools
import os
import queue
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from tqdm import tqdm

from ser_peft.errors import InputError, extra

__all__ = ["crossval"]

POLL_SECONDS = 0.5


def crossval(runs, jobs=1, slurm=None, enough=None):
    """Do the trainings that are not finished.

    A failed one is reported and the others are done. If this process is
    interrupted, the trainings are stopped; started again, they go on.

    Arguments
    ---------
    runs : list of Training
        From `trainings`.
    jobs : int
        Number of runs at once on this machine. They share its cores, unless
        ``OMP_NUM_THREADS`` is set, and its GPUs.
    slurm : dict, optional
        Submit them to SLURM instead, with these parameters of sbatch as
        submitit names them: ``time`` (minutes, needed), ``partition``,
        ``gpus_per_node``, ...
    enough : callable, optional
        Asked after each training, with the failed so far; if it says True,
        those that run are stopped and no other begins.

    Returns
    -------
    dict
        Name -> reason, for those that failed.

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
        executor as (submit, lost),
    ):  # fmt: skip
        if len(todo) < len(runs):
            bar.write(f"{len(runs) - len(todo)} of {len(runs)} are finished")
        # None is begun before it is known whether it is wanted.
        ahead = jobs if enough and slurm is None else len(todo)
        waiting, running = iter(todo), {}
        while True:
            for run in itertools.islice(waiting, ahead - len(running)):
                running[submit(run)] = run
            if not running:
                break
            time.sleep(POLL_SECONDS)
            for future in [future for future in running if future.done()]:
                run = running.pop(future)
                try:
                    reason = future.result()
                except lost as error:
                    reason = " ".join(str(error).split())
                if reason:
                    failed[run.name] = reason
                bar.write(f"{run.name}: {reason or run.scores()}")
                bar.update()
                if enough and enough(failed):
                    return failed
            started = [
                one
                for run in running.values()
                for one in (run, run.first)
                if one and one.log.exists()
            ]
            if started and not bar.disable:
                run = max(started, key=lambda run: run.log.stat().st_mtime)
                bar.set_postfix_str(f"{run.name}: {run.progress()}")
    return failed


# Not submitit's LocalExecutor: it starts all jobs at once however many there
# are, shows each the same GPUs, ends after 2 minutes unless told a limit,
# ignores SIGTERM, pickles every result, and would make an extra that only
# clusters need a need of everybody.
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
        try:
            return run(**environment, **gpu)
        finally:
            free.put(gpu)

    with ThreadPoolExecutor(jobs) as pool:
        futures = []

        def submit(run):
            futures.append(pool.submit(train, run))
            return futures[-1]

        try:
            yield submit, ()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            # Again and again: a thread may be about to start its process.
            while not all(future.done() for future in futures):
                for run in runs:
                    run.stop()
                time.sleep(POLL_SECONDS)


def _gpus(jobs, runs):
    """Environments that share GPUs among so many trainings at once."""
    named = any(part.startswith("--device") for r in runs for part in r.command)
    if jobs > 1 and not named:
        import torch  # takes seconds

        count = torch.cuda.device_count()
        if count > 1:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            names = visible.split(",") if visible else range(count)
            return [
                {"CUDA_VISIBLE_DEVICES": str(names[job % count])}
                for job in range(jobs)
            ]
    return [{}] * jobs


@contextmanager
def _slurm(parameters):
    """Give a function that submits a training, and what a lost job raises."""
    with extra("slurm"):
        import submitit
        from submitit.core.utils import UncompletedJobError
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
        yield submit, UncompletedJobError
    finally:
        for job in submitted:
            if not job.done():
                job.cancel(check=False)
