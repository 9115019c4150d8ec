"""K-means over frames that stay on disk.

Lloyd's algorithm, as in P-TAPT (Chen and Rudnicky, 2023), on frames that are
read a chunk at a time. Most passes run where they are cheap: over a random
sample, in the space of its principal components. The best clusters nearly lie
there (Ding and He, ICML 2004), and noise in the other dimensions does not
mislead k-means++ in its choice of the first centroids.
"""

import math
import mmap
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ser_peft.errors import InputError
from ser_peft.lobes.lean import one_dnn_linear

__all__ = ["assign", "inertia", "kmeans", "lloyd"]

SAMPLE = 2**17
"""Frames in memory, or 32 a cluster where that is more."""
SEEDING = 2**13
"""Frames a cluster that k-means++ chooses from."""
COMPONENTS = 64
"""Principal components that the first centroids are found in."""
SAMPLE_PASSES = 20
"""Most passes over the sample, in either space."""
SUBSPACE_TOL, SAMPLE_TOL = 1e-4, 1e-3
"""Tolerances over the sample, in the subspace and in all dimensions."""
CHUNK = 2**22
"""Numbers in the largest matrix of a chunk: 16 MiB."""


def kmeans(frames, n_clusters, seed=0, device="cpu", max_passes=10, tol=0.02):
    """Find the centroids of frames.

    It reads all frames once for the sample and once a pass, and holds the
    sample and a chunk in memory, however many frames there are.

    Arguments
    ---------
    frames : str or Path or numpy.ndarray
        A ``.npy`` file or an array, a memory map for instance, [N, D]; any
        float type.
    n_clusters : int
        Number of clusters K.
    seed : int
        Seed of the sample and the first centroids.
    device : str
        Device with float64 that computes.
    max_passes, tol : int, float
        See `lloyd`: for the passes over all frames, where they are more than
        the sample.

    Returns
    -------
    torch.Tensor
        Centroids, [K, D] float32, on the CPU.

    Raises
    ------
    InputError
        If fewer than K frames are distinct, or not all are finite.

    Example
    -------
    >>> frames = np.repeat(np.eye(3, dtype=np.float16), 5, axis=0)
    >>> centroids = kmeans(frames, 3)
    >>> inertia(frames, centroids, assign(frames, centroids))
    0.0
    """
    frames = _open(frames)
    generator = torch.Generator().manual_seed(seed)
    sample = _draw(frames, max(SAMPLE, 32 * n_clusters), generator).to(device)
    _check_finite(sample)
    seeds = sample[: max(SEEDING, 8 * n_clusters)].unique(dim=0)
    if len(seeds) < n_clusters:
        # Many are the same, digital silence for instance.
        seeds = sample.unique(dim=0)
    if len(seeds) < n_clusters:
        raise InputError(
            f"k-means with K={n_clusters}: only {len(seeds)} of "
            f"{len(sample)} frames differ from each other; choose a smaller "
            "K or give more audio"
        )
    seeds = seeds.float()
    mean = seeds.mean(0)
    scatter = (seeds - mean).T @ (seeds - mean)
    basis = torch.linalg.eigh(scatter)[1][:, -COMPONENTS:]
    points = torch.empty(len(sample), basis.shape[1], device=device)
    for rows, x in _chunks(sample, n_clusters, device):
        points[rows] = (x - mean) @ basis
    centroids = _plus_plus((seeds - mean) @ basis, n_clusters, generator)
    limits = device, SAMPLE_PASSES
    centroids = lloyd(points, centroids, *limits, SUBSPACE_TOL, seed)
    centroids = centroids @ basis.T.cpu() + mean.cpu()
    centroids = lloyd(sample, centroids, *limits, SAMPLE_TOL, seed)
    if len(sample) == len(frames):
        return centroids
    # Only the sample's noise is left: a pass or two.
    return lloyd(frames, centroids, device, max_passes, tol, seed)


def lloyd(frames, centroids, device="cpu", max_passes=20, tol=0.0, seed=0):
    """Move centroids to the means of their frames, pass by pass.

    A centroid that has no frame left moves to one that is far from all.

    Arguments
    ---------
    frames : str or Path or numpy.ndarray or torch.Tensor
        A ``.npy`` file or an array, [N, D].
    centroids : torch.Tensor
        Centroids to start from, [K, D].
    device : str
        Device that computes.
    max_passes : int
        Most passes over all frames.
    tol : float
        Share of the centroids' variance; the algorithm stops when their mean
        squared movement is less.
    seed : int
        Seed of the places for centroids without frames.

    Returns
    -------
    torch.Tensor
        Centroids, [K, D] float32, on the CPU.
    """
    frames = _open(frames)
    generator = torch.Generator().manual_seed(seed)
    centroids = centroids.to(device, torch.float32)
    for number in range(max_passes):
        sums, counts = _sums(frames, centroids, f"k-means pass {number + 1}")
        _check_finite(sums)
        means = sums / counts[:, None]
        new = torch.where(counts[:, None] > 0, means, centroids).float()
        mean = sums.sum(0) / len(frames)
        moved, spread = (
            (new - other).square().sum(1).double() @ counts
            for other in (centroids, mean)
        )
        centroids, empty = new, (counts == 0).nonzero()[:, 0]
        if len(empty):
            far = _far(frames, centroids[counts > 0], len(empty), generator)
            centroids[empty[: len(far)]] = far
        elif moved <= tol * spread:
            break
    return centroids.cpu()


def assign(frames, centroids, device="cpu"):
    """Find each frame's nearest centroid.

    Arguments
    ---------
    frames : str or Path or numpy.ndarray
        A ``.npy`` file or an array, [N, D].
    centroids : torch.Tensor
        [K, D].
    device : str
        Device that computes.

    Returns
    -------
    torch.Tensor
        Indices of centroids, [N] long, on the CPU.
    """
    frames, nearest = _open(frames), _Nearest(centroids.to(device).float())
    # Filled, not joined: parts that stay between a chunk's matrices keep the
    # allocator from using their room again.
    labels = torch.empty(len(frames), dtype=torch.long)
    for rows, x in _chunks(frames, len(centroids), device, "labels"):
        labels[rows] = nearest(x)
    return labels


def inertia(frames, centroids, labels, device="cpu"):
    """Sum of the squared distances between frames and their centroids.

    Arguments
    ---------
    frames : str or Path or numpy.ndarray
        A ``.npy`` file or an array, [N, D].
    centroids : torch.Tensor
        [K, D].
    labels : torch.Tensor
        Each frame's centroid, [N].
    device : str
        Device that computes.

    Returns
    -------
    float
        Inertia, in the square of the frames' unit.
    """
    frames, total = _open(frames), 0.0
    centroids = centroids.to(device).float()
    for rows, x in _chunks(frames, len(centroids), device, "inertia"):
        own = centroids[labels[rows].to(device)]
        total += (x - own).square_().sum(1).double().sum().item()
    return total


class _Nearest:
    """Nearest centroid of each row: [N, D] to indices [N]."""

    def __init__(self, centroids):
        # argmin |x - c|^2 = argmax x.(c - m) - |c|^2 / 2 + const for any m:
        # with the mean it loses no digits where all is far from the origin.
        mean = centroids.mean(0)
        self.weight = centroids - mean
        self.bias = -self.weight.square().sum(1) / 2 - self.weight @ mean
        self.linear = torch.nn.functional.linear
        if mean.device.type == "cpu" and torch.backends.mkldnn.is_available():
            self.linear = one_dnn_linear

    def __call__(self, x):
        # max, since argmax alone takes longer.
        return self.linear(x, self.weight, self.bias).max(1).indices


def _sums(frames, centroids, title):
    """Sum (float64) and number of each centroid's frames."""
    nearest, n_clusters = _Nearest(centroids), len(centroids)
    sums = torch.zeros_like(centroids, dtype=torch.float64)
    counts = torch.zeros(n_clusters, dtype=torch.float64, device=sums.device)
    for _, x in _chunks(frames, n_clusters, centroids.device, title):
        labels = nearest(x)
        count = labels.bincount(minlength=n_clusters)
        # Not index_add_: on a GPU its rounding differs from run to run.
        sums += torch.nn.functional.embedding_bag(
            labels.argsort(), x, count.cumsum(0) - count, mode="sum"
        )
        counts += count
    return sums, counts


def _plus_plus(points, n_clusters, generator):
    """Greedy k-means++ (Arthur and Vassilvitskii, SODA 2007), [K, D].

    Each centroid is the best of a few frames, drawn by their squared
    distances to the centroids chosen before.
    """
    trials = 2 + int(math.log(n_clusters))
    squares = points.square().sum(1)
    columns = points.T.contiguous()
    first = torch.randint(len(points), (1,), generator=generator).item()
    chosen = [points[first]]
    distances = (points - chosen[0]).square().sum(1)
    for _ in range(n_clusters - 1):
        # On the CPU, so that all devices draw the same.
        drawn = torch.multinomial(
            distances.cpu().clamp_(min=1e-30), trials, True, generator=generator
        ).to(points.device)
        others = torch.addmm(squares, points[drawn], columns, alpha=-2)
        others += squares[drawn][:, None]
        best = torch.minimum(others, distances).sum(1).argmin()
        chosen.append(points[drawn[best]])
        # Anew, since rounding would leave equal frames apart.
        new = (points - chosen[-1]).square().sum(1)
        distances = torch.minimum(distances, new)
    return torch.stack(chosen)


def _far(frames, centroids, number, generator):
    """Up to `number` frames, drawn by their squared distances."""
    some = _draw(frames, max(SEEDING, 8 * len(centroids)), generator)
    some = some.to(centroids).unique(dim=0)
    distances = (some - centroids[_Nearest(centroids)(some)]).square().sum(1)
    number = min(number, int(distances.count_nonzero()))
    drawn = torch.multinomial(distances.cpu(), number, generator=generator)
    return some[drawn.to(some.device)]


def _open(frames):
    if isinstance(frames, (str, Path)):
        return np.load(frames, mmap_mode="r")
    return frames


def _draw(frames, number, generator):
    """Up to `number` frames in random order, as stored."""
    order = torch.randperm(len(frames), generator=generator)[:number]
    if isinstance(frames, torch.Tensor):
        return frames[order.to(frames.device)]
    # Stretch by stretch along the file, back into random order in memory.
    rows, places = order.sort()
    stretch = max(1, CHUNK // frames.shape[1])
    edges = torch.tensor([*range(stretch, len(frames), stretch)]).long()
    parts = torch.searchsorted(rows, edges)
    rows, places = rows.tensor_split(parts), places.tensor_split(parts)
    dtype = torch.from_numpy(np.empty(0, frames.dtype)).dtype
    drawn = torch.empty(len(order), frames.shape[1], dtype=dtype)
    for some, where in zip(rows, places, strict=True):
        drawn[where] = torch.from_numpy(frames[some.numpy()])
        _release(frames)
    return drawn


def _chunks(frames, n_clusters, device, title=None):
    """Yield places and frames in order, in float32, a chunk at a time."""
    size = max(1, CHUNK // max(n_clusters, frames.shape[1]))
    for start in tqdm(
        range(0, len(frames), size), title, unit="chunk", leave=False,
        delay=1, disable=title is None,
    ):  # fmt: skip
        chunk = frames[start : start + size]
        if not isinstance(chunk, torch.Tensor):
            chunk = torch.from_numpy(np.array(chunk))
            _release(frames)
        yield slice(start, start + len(chunk)), chunk.to(device).float()


def _release(frames):
    """Give a read-only map's pages back: they would count as our memory."""
    if getattr(frames, "mode", None) != "r":
        return
    while isinstance(frames, np.ndarray):
        frames = frames.base
    if hasattr(mmap, "MADV_DONTNEED"):  # not on all systems
        frames.madvise(mmap.MADV_DONTNEED)


def _check_finite(tensor):
    if not tensor.isfinite().all():
        raise InputError(
            "k-means: frames hold NaN or infinity; find the clip and remove it"
        )
