"""Latency of models on the processor, side by side."""

import itertools
import time
from contextlib import contextmanager

import numpy as np
import torch
from tqdm import tqdm

__all__ = ["latency"]

_WARM_UP = 2  # rounds: the first one also allocates and compiles


@torch.no_grad()
def latency(models, wavs, texts, batches=(1, 16), repeats=20):
    """Time the forward pass of models on the processor.

    Every setting is measured with one thread and with as many as PyTorch has
    when this is called. The models take turns, repetition by repetition, so
    that whatever else the machine does hits all of them alike.

    Arguments
    ---------
    models : dict
        Name -> `ser_peft.inference.EmotionModel`, on the CPU and in eval
        mode. The first is the reference.
    wavs : torch.Tensor
        16 kHz mono clips, all of full length, [N, T]; at least as many as
        the largest batch has.
    texts : list of str
        Their transcripts, for models that read them.
    batches : tuple of int
        Clips in a batch.
    repeats : int
        Timed repetitions of each model in each setting.

    Returns
    -------
    dict
        Name -> one dict a setting: ``batch``, ``threads``, ``median_ms`` and
        ``p95_ms`` (of the whole batch, milliseconds), and of the ratio to the
        reference in the same repetition the median, ``ratio``, and the first
        and third quartile, ``ratio_quartiles``.

    Example
    -------
    >>> models = {"teacher": teacher, "student": student}  # doctest: +SKIP
    >>> found = latency(models, wavs, [""] * 16)  # doctest: +SKIP
    >>> found["student"][0]["ratio"]  # doctest: +SKIP
    0.51
    """
    found = {name: [] for name in models}
    threads = sorted({1, torch.get_num_threads()})
    settings = [*itertools.product(batches, threads)]
    rounds = _WARM_UP + repeats
    with tqdm(
        total=len(settings) * rounds, desc="latency", unit="round"
    ) as progress:
        for batch, count in settings:
            taken = {name: [] for name in models}
            with _threads(count):
                for _ in range(rounds):
                    for name, model in models.items():
                        clips = wavs[:batch], texts[:batch]
                        taken[name].append(_milliseconds(model, *clips))
                    progress.update()
            reference = np.array(taken[next(iter(models))])
            for name, milliseconds in taken.items():
                timed = milliseconds[_WARM_UP:]
                ratios = (milliseconds / reference)[_WARM_UP:]
                low, ratio, high = np.percentile(ratios, [25, 50, 75]).tolist()
                found[name].append(
                    {
                        "batch": batch,
                        "threads": count,
                        "median_ms": float(np.median(timed)),
                        "p95_ms": float(np.percentile(timed, 95)),
                        "ratio": ratio,
                        "ratio_quartiles": [low, high],
                    }
                )
    return found


def _milliseconds(model, wavs, texts):
    lengths = torch.full((len(wavs),), wavs.shape[1])
    start = time.perf_counter()
    model(wavs, lengths, texts)
    return 1000 * (time.perf_counter() - start)


@contextmanager
def _threads(count):
    """Give PyTorch so many threads, and as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
