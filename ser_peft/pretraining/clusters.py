"""Phase 2 of P-TAPT: from an encoder's frames to pseudo-labels."""

import numpy as np
import torch
from tqdm import tqdm

from ser_peft.lobes import lengths_in_samples
from ser_peft.pretraining.kmeans import assign, kmeans
from ser_peft.pretraining.pseudo_labels import PseudoLabels

__all__ = ["cluster_frames", "random_labels"]


def cluster_frames(encoder, loaders, folder, sizes, seed, device="cpu"):
    """Cluster the frames of the training clips, and label those of all clips.

    The frames of the last hidden state go to a file of two bytes a number,
    deleted at the end, so that memory does not grow with the corpus.

    Arguments
    ---------
    encoder : PeftLobe
        Emotion-state estimator, in eval mode.
    loaders : dict
        ``train`` and ``valid``: batches of whole clips. Clusters are fitted
        on the first.
    folder : Path
        Folder with room for the file.
    sizes : list of int
        Number of clusters of each clustering.
    seed : int
        Seed of the starting centroids.
    device : str
        Device of the encoder, and of the clustering if it has float64.

    Returns
    -------
    PseudoLabels
        Labels of all frames of all clips.
    """
    counts, fitted = {}, 0
    path = folder / "frames.f16"
    with open(path, "wb") as file:
        for split in ("train", "valid"):
            for id_, frames in _frames(encoder, loaders[split], device):
                counts[id_] = len(frames)
                frames.half().cpu().numpy().tofile(file)
                fitted += len(frames) * (split == "train")
    if torch.device(device).type == "mps":
        device = "cpu"
    shape = (sum(counts.values()), encoder.hidden_size)
    everything = np.memmap(path, np.float16, "r", shape=shape)
    labels = []
    for size in sizes:
        centroids = kmeans(everything[:fitted], size, seed, device)
        labels.append(assign(everything, centroids, device))
    path.unlink()
    return _labels(encoder, counts, torch.stack(labels), sizes)


def random_labels(encoder, loaders, folder, sizes, seed, device="cpu"):
    """Label every frame at random, to show what masking alone teaches.

    Arguments and return value are those of `cluster_frames`.
    """
    counts = {}
    for split in ("train", "valid"):
        for batch in tqdm(loaders[split], desc="frames", unit="batch"):
            frames = encoder.lobe.valid_frames(*batch.sig)
            counts |= zip(batch.id, frames.tolist(), strict=True)
    generator = torch.Generator().manual_seed(seed)
    labels = [
        torch.randint(size, (sum(counts.values()),), generator=generator)
        for size in sizes
    ]
    return _labels(encoder, counts, torch.stack(labels), sizes)


def _labels(encoder, counts, labels, sizes):
    parts = labels.split([*counts.values()], 1)
    first, second = encoder.lobe.frame_centres(2).tolist()
    return PseudoLabels(
        dict(zip(counts, parts, strict=True)), sizes, first, second - first
    )


@torch.no_grad()
def _frames(encoder, loader, device):
    """Yield the id and the frames [T', C] of each clip."""
    for batch in tqdm(loader, desc="frames", unit="batch"):
        wavs, lens = (tensor.to(device) for tensor in batch.sig)
        if wavs.shape[1] <= encoder.max_samples:
            states, frames = encoder(wavs, lens)
            parts = zip(states[-1], frames.tolist(), strict=True)
            yield from zip(batch.id, (s[:n] for s, n in parts), strict=True)
            continue
        samples = lengths_in_samples(wavs, lens).tolist()
        for id_, wav, length in zip(batch.id, wavs, samples, strict=True):
            yield id_, _long(encoder, wav[None, :length])


def _long(encoder, wav):
    """Encode a clip [1, T] of any length to [T', C], window by window.

    Windows overlap by the samples that a frame sees beyond its hop, so that
    frames are as many and as far apart as those of the whole clip.
    """
    lobe = encoder.lobe
    hop = lobe.frame_hop * lobe.frame_stride
    overlap = max(0, lobe.min_samples - lobe.frame_hop)
    step = (encoder.max_samples - overlap) // hop * hop
    total = int(lobe.valid_frames(wav))
    frames = [
        encoder(wav[:, start : start + step + overlap])[0][-1, 0, : step // hop]
        for start in range(0, wav.shape[1], step)
    ]
    return torch.cat(frames)[:total]
