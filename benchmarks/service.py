"""Requests a second of `ser-peft serve`, with and without batches.

Two services of the same model are started: one as it is, one that scores clip
by clip (``--batch-seconds 0.01``). Clients in threads of this process send one
clip a request, the next as soon as they have the answer. Rounds alternate
between the services; the best of each counts. The clients' own work is on the
same processor, so the services' time of it is given too.

> python benchmarks/service.py results/whisper_lora --data RAVDESS
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import psutil

from ser_peft.errors import InputError, one_line_errors

ENDINGS = (".flac", ".wav")


def main():
    """Measure what the command line asks for, print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("model", help="whatever `ser-peft serve` takes")
    add("--data", required=True, help="folder with recordings")
    add("--clients", type=int, nargs="+", default=[1, 8, 64])
    add("--seconds", type=float, default=10, help="of a round")
    add("--rounds", type=int, default=2)
    add("--threads", type=int, default=2)
    add("--device", default="cpu")
    add("--precision", default="fp32")
    add("--out", help="json with all figures")
    args = parser.parse_args()
    with one_line_errors():
        paths = [
            path
            for path in sorted(Path(args.data).rglob("*"))
            if path.suffix in ENDINGS
        ]
        if not paths:
            raise InputError(f"--data {args.data}: no flac and no wav in it")
        random.Random(0).shuffle(paths)
        clips = [path.read_bytes() for path in paths[:200]]
        rows = measure(args, clips)
    print("| clients | | requests a second | p50, ms | p95, ms | CPU, ms |")
    print("| --- | --- | --- | --- | --- | --- |")
    for row in rows:
        print(
            f"| {row['clients']} | {row['name']} | {row['rate']:.1f} "
            f"| {row['p50']:.0f} | {row['p95']:.0f} | {row['cpu']:.0f} |"
        )
    if args.out:
        Path(args.out).write_text(json.dumps(rows, indent=2) + "\n")


def measure(args, clips):
    """Figures of both services for each number of clients."""
    found = {}
    with served(args) as batched, served(args, "--batch-seconds=0.01") as lone:
        services = {"batched": batched, "clip by clip": lone}
        for service in services.values():
            load(*service, clips, 2, 2)  # warm up
        for _ in range(args.rounds):
            for clients in args.clients:
                for name, service in services.items():
                    row = load(*service, clips, clients, args.seconds)
                    row |= {"clients": clients, "name": name}
                    key = clients, name
                    if key not in found or found[key]["rate"] < row["rate"]:
                        found[key] = row
    return [found[key] for key in sorted(found)]


@contextmanager
def served(args, *flags):
    """Process and address of a service, which ends with the block."""
    process = subprocess.Popen(
        [
            sys.executable, "-m", "ser_peft.cli", "serve", args.model,
            "--port=0", f"--device={args.device}",
            f"--precision={args.precision}", *flags,
        ],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": str(args.threads)},
    )  # fmt: skip
    try:
        yield process, process.stdout.readline().split()[0]
    finally:
        process.terminate()
        process.wait()


def load(process, url, clips, clients, seconds):
    """Requests a second, latencies and processor time in ms."""
    end = time.monotonic() + seconds

    def client(number):
        latencies = []
        with httpx.Client(timeout=60) as session:
            while time.monotonic() < end:
                clip = clips[(number * 31 + len(latencies)) % len(clips)]
                start = time.monotonic()
                response = session.post(
                    f"{url}/v1/predict", files={"files": ("clip", clip)}
                )
                response.raise_for_status()
                latencies.append(time.monotonic() - start)
        return latencies

    before = sum(psutil.Process(process.pid).cpu_times()[:2])
    start = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        latencies = np.concatenate([*pool.map(client, range(clients))])
    spent = time.monotonic() - start
    p50, p95 = 1000 * np.quantile(latencies, [0.5, 0.95])
    cpu = sum(psutil.Process(process.pid).cpu_times()[:2]) - before
    count = len(latencies)
    return {
        "rate": count / spent,
        "p50": p50,
        "p95": p95,
        "cpu": 1000 * cpu / count,
    }


if __name__ == "__main__":
    main()
