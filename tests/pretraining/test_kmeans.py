"""K-means over frames on disk."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from ser_peft.errors import InputError
from ser_peft.pretraining import kmeans as module
from ser_peft.pretraining.kmeans import assign, inertia, kmeans, lloyd


def blobs(frames=3000, dim=24, centres=40, seed=0):
    """Overlapping Gaussians of unequal size, float16."""
    rng = np.random.default_rng(seed)
    means = 2 * rng.normal(size=(centres, dim))
    share = rng.dirichlet(np.ones(centres))
    which = rng.choice(centres, frames, p=share)
    noise = rng.normal(size=(frames, dim))
    return (means[which] + noise).astype(np.float16)


@pytest.fixture
def on_disk(tmp_path):
    def write(frames):
        np.save(tmp_path / "frames.npy", frames)
        return np.load(tmp_path / "frames.npy", mmap_mode="r")

    return write


def quality(frames, centroids):
    return inertia(frames, centroids, assign(frames, centroids))


def test_lloyd_is_lloyd(on_disk):
    frames = blobs()
    start = frames[:16].astype(np.float32)
    theirs = KMeans(
        16, init=start, n_init=1, max_iter=7, tol=0, algorithm="lloyd"
    ).fit(frames.astype(np.float32))
    ours = lloyd(on_disk(frames), torch.from_numpy(start), max_passes=7)
    np.testing.assert_allclose(ours, theirs.cluster_centers_, atol=1e-4)
    labels = assign(frames, ours)
    assert (labels.numpy() == theirs.labels_).mean() > 0.999
    assert inertia(frames, ours, labels) == pytest.approx(
        theirs.inertia_, rel=1e-5
    )


@pytest.mark.parametrize("n_clusters", [1, 8, 40, 64])
def test_as_good_as_scikit_learn(n_clusters):
    frames = blobs()
    best = KMeans(n_clusters, n_init=3, random_state=0).fit(frames).inertia_
    assert quality(frames, kmeans(frames, n_clusters)) < 1.02 * best


def test_sample_is_enough(monkeypatch, on_disk):
    # Wide frames, most of which the sample does not hold.
    frames = blobs(6000, dim=100)
    best = KMeans(40, n_init=3, random_state=0).fit(frames).inertia_
    monkeypatch.setattr(module, "SAMPLE", 1500)
    assert quality(frames, kmeans(on_disk(frames), 40)) < 1.02 * best


def test_seed(monkeypatch, on_disk):
    monkeypatch.setattr(module, "SAMPLE", 1000)
    frames = blobs()
    first = kmeans(frames, 16, seed=1)
    assert first.shape == (16, 24) and first.dtype == torch.float32
    assert torch.equal(first, kmeans(on_disk(frames), 16, seed=1))
    assert not torch.equal(first, kmeans(frames, 16, seed=2))


def test_file(tmp_path):
    frames = blobs(500)
    np.save(tmp_path / "frames.npy", frames)
    path = tmp_path / "frames.npy"
    centroids = kmeans(path, 4)
    assert torch.equal(centroids, kmeans(frames, 4))
    assert torch.equal(assign(path, centroids), assign(frames, centroids))


def test_chunks(monkeypatch, on_disk):
    frames = on_disk(blobs())
    whole = kmeans(frames, 16)
    labels = assign(frames, whole)
    monkeypatch.setattr(module, "CHUNK", 24 * 77)
    torch.testing.assert_close(kmeans(frames, 16), whole, atol=1e-4, rtol=1e-4)
    assert torch.equal(assign(frames, whole), labels)


def test_assign_is_brute_force():
    frames, centroids = blobs(), torch.from_numpy(blobs(30, seed=1)).float()
    distances = (
        torch.from_numpy(frames)[:, None].double() - centroids
    ).square()
    nearest = distances.sum(2).min(1)
    labels = assign(frames, centroids)
    assert torch.equal(labels, nearest.indices)
    assert inertia(frames, centroids, labels) == pytest.approx(
        nearest.values.sum().item(), rel=1e-6
    )


def test_large_values():
    # Squares overflow float16; a power of two changes no digit.
    frames = blobs()
    labels = assign(frames, kmeans(frames, 16))
    large = frames * np.float16(4096)
    assert np.abs(large).max() > 30000
    assert torch.equal(assign(large, kmeans(large, 16)), labels)


def test_far_from_the_origin():
    frames = (2000 + 20 * blobs().astype(np.float32)).astype(np.float16)
    best = KMeans(16, n_init=3, random_state=0).fit(frames.astype(np.float64))
    assert quality(frames, kmeans(frames, 16)) < 1.02 * best.inertia_


def test_empty_clusters_move():
    frames = blobs()
    start = torch.from_numpy(frames[:8]).float()
    start[3:] = 1000.0  # far from everything, and the same
    centroids = lloyd(frames, start)
    assert assign(frames, centroids).bincount(minlength=8).min() > 0
    best = KMeans(8, n_init=3, random_state=0).fit(frames).inertia_
    assert quality(frames, centroids) < 1.1 * best


def test_equal_frames():
    rng = np.random.default_rng(0)
    frames = np.repeat(rng.normal(size=(10, 6)), 30, 0).astype(np.float16)
    rng.shuffle(frames)
    assert quality(frames, kmeans(frames, 10)) == pytest.approx(0, abs=1e-6)
    with pytest.raises(InputError, match="K=11: only 10 of 300 frames differ"):
        kmeans(frames, 11)


def test_mostly_silence(monkeypatch):
    # K-means++ must look beyond the frames that it usually chooses from.
    monkeypatch.setattr(module, "SEEDING", 64)
    frames = np.zeros((4000, 6), np.float16)
    frames[:12] = np.random.default_rng(0).normal(size=(12, 6))
    assert len(assign(frames, kmeans(frames, 12)).unique()) == 12


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("sample", [50, 5000])
def test_not_finite(monkeypatch, value, sample):
    monkeypatch.setattr(module, "SAMPLE", sample)
    frames = blobs(1000)
    frames[-1, 0] = value
    with pytest.raises(InputError, match="NaN or infinity"):
        # In the sample or only met in the first pass over all.
        kmeans(frames, 1)


MEMORY = """
import re, sys
from pathlib import Path
import numpy as np
from ser_peft.pretraining import kmeans as module

module.SAMPLE = 2000
frames = np.load(sys.argv[1], mmap_mode="r")

def peak():  # not getrusage: a process starts with its parent's
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) / 1024

module.assign(frames[:20000], module.kmeans(frames[:20000], 8, max_passes=2))
before = peak()
module.assign(frames, module.kmeans(frames, 8, max_passes=2))
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="pages are given back")
def test_memory_does_not_grow(tmp_path):
    frames = np.random.default_rng(0).random((100_000, 512), np.float32)
    np.save(tmp_path / "frames.npy", frames.astype(np.float16))  # 98 MiB
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, tmp_path / "frames.npy"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 50  # 98 and more if it kept the file


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu():
    frames = blobs()
    centroids = kmeans(frames, 16, device="cuda")
    assert centroids.device.type == "cpu"
    assert torch.equal(centroids, kmeans(frames, 16, device="cuda"))
    on_cpu = quality(frames, kmeans(frames, 16))
    assert quality(frames, centroids) == pytest.approx(on_cpu, rel=0.02)
    labels = assign(frames, centroids, "cuda")
    assert (labels == assign(frames, centroids)).float().mean() > 0.999
