"""Our k-means and scikit-learn's MiniBatchKMeans on the same frames.

Both start from a float16 .npy file and end with centroids and all labels, in
a fresh process each, with their defaults. Three kinds of frames are made up:
a mixture of 400 Gaussians of unequal size and low-rank covariance in noise, a
single Gaussian with a falling spectrum, and rectified trajectories through 40
states with speakers apart, which are as sparse and slow as an encoder's. The
inertia is computed by the same code for both.

> python benchmarks/kmeans.py --threads 2 --out results.json
> python benchmarks/kmeans.py --frames 100000 --dim 128 --clusters 128
> python benchmarks/kmeans.py --file frames.npy --clusters 512
"""

import argparse
import os
import re
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from ser_peft.errors import InputError, one_line_errors
from ser_peft.io import write_json

SIDES = ("sklearn", "ser_peft")
CHUNK = 8192
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def main():
    """Measure what the command line asks for, print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--frames", type=int, default=1_000_000, help="(%(default)s)")
    add("--dim", type=int, default=512, help="(%(default)s)")
    add("--clusters", type=int, default=512, help="(%(default)s)")
    add("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    add("--file", type=Path, help="frames of your own, [N, D] .npy")
    add("--seeds", type=int, default=1, help="runs of each (%(default)s)")
    add("--threads", type=int, default=torch.get_num_threads())
    add("--device", default="cpu", help="of ours (%(default)s)")
    add("--folder", help="where there is room for the frames")
    add("--out", type=Path, help="write the measurements to this JSON file")
    args = parser.parse_args()
    if min(args.frames, args.dim, args.clusters, args.seeds, args.threads) < 1:
        parser.error("all numbers: more than 0")
    # Read by the libraries when they are imported, in the new processes.
    os.environ |= dict.fromkeys(THREADS, str(args.threads))
    settings = {k: str(v) for k, v in vars(args).items() if k != "out"}
    rows = []
    with one_line_errors():
        print_head(args)
        for row in measure(args):
            print_row(row)
            rows.append(row)
            if args.out:
                write_json(args.out, {"settings": settings, "rows": rows})


def measure(args):
    """Yield a row for each kind of frames and seed, both sides in it."""
    if args.file and not args.file.is_file():
        raise InputError(f"--file={args.file}: no such file; give a .npy")
    with tempfile.TemporaryDirectory(dir=args.folder) as temporary:
        for kind in [args.file.stem] if args.file else args.kinds:
            path = args.file or Path(temporary) / "frames.npy"
            if not args.file:
                in_own_process(write, path, kind, args.frames, args.dim)
            for seed in range(args.seeds):
                row = {"kind": kind, "seed": seed}
                for side in SIDES:
                    centroids = Path(temporary) / "centroids.npy"
                    row[side] = in_own_process(
                        run, side, path, args.clusters, seed, args.device,
                        centroids,
                    )  # fmt: skip
                    row[side]["inertia"] = in_own_process(
                        inertia, path, centroids
                    )
                yield row


def in_own_process(function, *args):
    """Call `function` in a fresh Python process and return its result."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def write(path, kind, frames, dim):
    """Make frames up, float16, a chunk at a time."""
    torch.manual_seed(0)
    draw = KINDS[kind](dim)
    out = np.lib.format.open_memmap(path, "w+", np.float16, (frames, dim))
    for start in range(0, frames, CHUNK):
        chunk = draw(min(CHUNK, frames - start))
        out[start : start + CHUNK] = chunk.half().numpy()


def mixture(dim, components=400, rank=16, latent=48):
    """Gaussians, the largest some hundred times the smallest."""
    means = 1.5 * torch.randn(components, latent) @ torch.randn(latent, dim)
    means /= latent**0.5
    factors = torch.randn(components, rank, dim) / rank**0.5
    share = torch.randn(components).exp()

    def draw(rows):
        which = torch.multinomial(share, rows, replacement=True)
        frames = means[which] + 0.5 * torch.randn(rows, dim)
        for component in which.unique():
            own = (which == component).nonzero()[:, 0]
            frames[own] += torch.randn(len(own), rank) @ factors[component]
        return frames

    return draw


def continuous(dim):
    """One Gaussian: variances fall as 1 / i."""
    rotation = torch.linalg.qr(torch.randn(dim, dim))[0]
    scale = torch.arange(1, dim + 1) ** -0.5
    return lambda rows: (torch.randn(rows, dim) * scale) @ rotation


def rectified(dim, states=40, latent=64, length=256):
    """Clips of 256 frames: smooth paths between states, then a ReLU."""
    out = torch.randn(latent, dim) / latent**0.5
    gain, bias = (0.7 * torch.randn(dim)).exp(), 0.5 * torch.randn(dim) - 0.3
    centres = 1.2 * torch.randn(states, latent)

    def draw(rows):
        clips = -(-rows // length)
        speaker = 0.5 * torch.randn(clips, latent)
        path = torch.randn(clips, latent)
        state, frames = torch.randint(states, (clips,)), []
        for _ in range(length):
            changes = torch.rand(clips) < 0.1
            new = torch.randint(states, (clips,))
            state = torch.where(changes, new, state)
            path = 0.7 * path + 0.3 * centres[state]
            path += 0.4 * torch.randn(clips, latent)
            frames.append(path + speaker)
        frames = torch.stack(frames, 1).flatten(0, 1)[:rows] @ out
        return (frames + bias + 0.1 * torch.randn(rows, dim)).relu() * gain

    return draw


KINDS = {
    "mixture": mixture,
    "continuous": continuous,
    "rectified": rectified,
}


def run(side, path, clusters, seed, device, out):
    """Seconds and peak MiB from the file to centroids and labels."""
    # Imported here: each side pays for its own libraries only.
    if side == "sklearn":
        from sklearn.cluster import MiniBatchKMeans

        start, busy = time.perf_counter(), time.process_time()
        # float32, twice as fast as the float64 it would make of float16.
        frames = np.load(path).astype(np.float32)
        read = time.perf_counter() - start
        model = MiniBatchKMeans(clusters, random_state=seed).fit(frames)
        centroids = model.cluster_centers_
    else:
        from ser_peft.pretraining.kmeans import assign, kmeans

        start, busy = time.perf_counter(), time.process_time()
        read = 0.0
        centroids = kmeans(path, clusters, seed, device)
        assign(path, centroids, device)
        centroids = centroids.numpy()
    result = {
        "seconds": time.perf_counter() - start - read,
        "read_s": read,
        "cpu_s": time.process_time() - busy,
        "peak_mib": peak_mib(),
    }
    np.save(out, centroids)
    return result


def peak_mib():
    """Of this process; getrusage would begin with its parent's."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024


def inertia(path, centroids):
    """Mean squared distance of all frames, by brute force."""
    frames = np.load(path, mmap_mode="r")
    centroids, total = torch.from_numpy(np.load(centroids)), 0.0
    for start in range(0, len(frames), CHUNK):
        x = torch.from_numpy(frames[start : start + CHUNK].astype(np.float32))
        own = centroids[torch.cdist(x, centroids).argmin(1)]
        total += (x - own).square().sum(1).double().sum().item()
    return total / len(frames)


COLUMNS = {
    "time, s": ("seconds", ".1f"),
    "CPU time, s": ("cpu_s", ".1f"),
    "peak, MiB": ("peak_mib", ".0f"),
    "inertia a frame": ("inertia", ".4f"),
}


def print_head(args):
    """What is measured, and the head of the table."""
    what = args.file or f"{args.frames} x {args.dim}"
    print(
        f"{what}, K={args.clusters}, {args.threads} CPU thread(s); "
        "MiniBatchKMeans, its frames in memory already / ser_peft, reading "
        "included (ratio)\n"
    )
    print("| frames | seed |", " | ".join(COLUMNS), "|")
    print("|---|---|" + "---|" * len(COLUMNS), flush=True)


def print_row(row):
    """Both sides' numbers and how many times ours is better."""
    host, ours = (row[side] for side in SIDES)
    cells = [row["kind"], str(row["seed"])]
    for key, form in COLUMNS.values():
        ratio = host[key] / ours[key]
        cells.append(f"{host[key]:{form}} / {ours[key]:{form}} ({ratio:.3g})")
    print("|", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
