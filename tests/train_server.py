"""Runs recipes in forked processes, so that imports are paid for once.

So is all else that only a process's first training does: it compiles, fills
caches. The first job is therefore done right here.

One JSON object a line on stdin starts ``python train.py ARGV``, one on
stdout says how it ended. `processes` (more than one: DDP), `kill_at` (see the
function), `kill_after` (seconds of processor time), `largest_file` (bytes),
`interrupt_at` (as `kill_at`, by Ctrl-C), `clock` (seconds that it is ahead) and
`rival` (seconds later another start, its argv and its log) are those of the
fixture `train` in conftest.py.
"""

import contextlib
import faulthandler
import gc
import json
import logging
import os
import random
import resource
import runpy
import signal
import socket
import sys
import time
import traceback

import numpy
import torch
from quick import be_quick

HANGS = 500
"""Seconds after which a training says where it is, and ends: it hangs."""


def kill_at(path, count, number=signal.SIGKILL):
    """Die just before a path is written, moved or removed for the nth time."""
    seen = 0

    def hook(event, arguments):
        nonlocal seen
        opened = event == "open" and arguments[1] in ("w", "wb")
        if not opened and event not in ("os.rename", "os.remove"):
            return
        if path not in str(arguments[0]):
            return
        seen += 1
        if seen == count:
            if opened:  # what a kill between opening and writing leaves
                os.close(os.open(arguments[0], os.O_TRUNC | os.O_CREAT))
            os.kill(os.getpid(), number)

    sys.addaudithook(hook)


def act(job):
    """Be ``python train.py``."""
    folder, _ = os.path.split(job["script"])
    os.chdir(folder)
    sys.path.insert(0, folder)
    sys.argv = [job["script"], *job["argv"]]
    runpy.run_path(job["script"], run_name="__main__")


def rehearse(job):
    """A first training, of which only what it has warmed up is left."""
    modules, handlers = {*sys.modules}, logging.root.handlers[:]
    with (
        open(job["log"], "w") as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        act(job)
    logging.root.handlers[:] = handlers
    recipe = sys.path.pop(0)
    for name in {*sys.modules} - modules:
        file = getattr(sys.modules[name], "__file__", None)
        if file and os.path.dirname(file) == recipe:
            del sys.modules[name]
    # Or a child's first collection copies all that it shares with this.
    gc.freeze()


def run(job, rank):
    """The child: one process of a training."""
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    faulthandler.dump_traceback_later(HANGS, exit=True, file=log)
    if job["processes"] > 1:
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(job["processes"]),
            "MASTER_ADDR": "localhost",
            "MASTER_PORT": str(job["port"]),
        }
    # A fresh process knows nothing of another's random numbers.
    random.seed()
    numpy.random.seed()
    torch.seed()
    if job["largest_file"]:
        limit = (job["largest_file"], resource.RLIM_INFINITY)
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    if job["kill_after"]:
        # In seconds of this process, however busy the machine is.
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF, job["kill_after"])
    if job["kill_at"]:
        kill_at(*job["kill_at"])
    if job["interrupt_at"]:
        # Behind nohup it would be ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        kill_at(*job["interrupt_at"], signal.SIGINT)
    if job["clock"]:
        now = time.time
        time.time = lambda: now() + job["clock"]
    code = 0
    try:
        act(job)
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


def serve():
    """The parent: fork, wait, answer."""
    be_quick()
    rehearse(json.loads(sys.stdin.readline()))
    print(json.dumps({"code": 0}), flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            job["port"] = probe.getsockname()[1]
        pids = set()
        for rank in range(job["processes"]):
            pid = os.fork()
            if not pid:
                run(job, rank)
            pids.add(pid)
        rival, answer = None, {}
        if job["rival"]:
            gap, argv, log = job["rival"]
            time.sleep(gap)
            rival = os.fork()
            if not rival:
                run(job | {"argv": argv, "log": log}, 0)
            pids.add(rival)
        codes = []
        seconds = 0.0
        while pids:
            pid, status, used = os.wait4(-1, 0)
            pids.discard(pid)
            if pid == rival:
                answer["rival_code"] = os.waitstatus_to_exitcode(status)
                continue
            codes.append(os.waitstatus_to_exitcode(status))
            seconds += used.ru_utime + used.ru_stime
            if codes[-1]:  # as torchrun: without one, the others wait
                for other in pids - {rival}:
                    os.kill(other, signal.SIGKILL)
        answer |= {"code": codes[0], "seconds": seconds}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve()
