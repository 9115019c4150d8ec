"""Training batches in which all kinds of clips are equally frequent."""

from collections import defaultdict

import numpy as np
import torch

from ser_peft.errors import InputError

__all__ = ["BalancedBatches", "kinds_of"]


def kinds_of(entries, columns):
    """Kinds of a manifest's clips: combinations of the values of columns.

    Arguments
    ---------
    entries : dict
        Id -> entry.
    columns : list of str
        Keys of the entries.

    Returns
    -------
    dict
        Id -> tuple of values.

    Raises
    ------
    InputError
        If no column is named.

    Example
    -------
    >>> kinds_of({"a": {"emotion": "sad"}}, ["emotion"])
    {'a': ('sad',)}
    """
    if not columns:
        raise InputError(
            "balanced_sampling: balance names no column; write balance: "
            "[emotion], or set balanced_sampling: False"
        )
    return {key: tuple(map(e.get, columns)) for key, e in entries.items()}


class BalancedBatches:
    """Batches of clips of similar length, in which all kinds are as frequent.

    An epoch draws N // K of the N clips for each of the K kinds, so that it
    takes about as long as one that hears every clip once: some clips of a
    frequent kind are left out, others the next time, and those of a rare one
    come again, none a second time before all like it in kind and length have
    come. SpeechBrain's `BalancingDataSampler` draws each clip by chance, and
    knows no lengths.

    The clips of each kind and bucket are drawn in the same number every
    epoch, which has the same number of batches therefore; schedules and the
    processes of a training count on that.

    Arguments
    ---------
    kinds : list
        Kind of each clip.
    durations : list of float
        Seconds of each clip.
    settings : dict
        Arguments of SpeechBrain's `DynamicBatchSampler`.

    Example
    -------
    >>> settings = {"max_batch_length": 4, "bucket_boundaries": [2.0]}
    >>> batches = BalancedBatches("aaab", [2.0] * 4, settings)
    >>> sorted("aaab"[i] for batch in batches for i in batch)
    ['a', 'a', 'b', 'b']
    """

    def __init__(self, kinds, durations, settings):
        self.durations, self.settings = durations, settings
        found = defaultdict(lambda: defaultdict(list))
        buckets = np.searchsorted(settings["bucket_boundaries"], durations)
        for i, (kind, bucket) in enumerate(
            zip(kinds, buckets.tolist(), strict=True)
        ):
            found[kind][bucket].append(i)
        each = len(kinds) // len(found)
        self.parts = []
        """Clips of one kind and bucket, and how many of them to draw."""
        for cells in found.values():
            counts = np.array([len(clips) for clips in cells.values()])
            # At least one each where there are as many: no clip is never
            # drawn.
            least = int(each >= len(counts))
            exact = counts / counts.sum() * (each - least * len(counts))
            number = least + exact.astype(int)
            rest = np.argsort(exact.astype(int) - exact, kind="stable")
            number[rest[: each - number.sum()]] += 1
            self.parts += zip(cells.values(), number.tolist(), strict=True)
        self.set_epoch(0)

    def set_epoch(self, epoch):
        """Draw the batches of an epoch, which follow from it and the seed."""
        from speechbrain.dataio.sampler import DynamicBatchSampler

        generator = torch.Generator()
        generator.manual_seed(self.settings.get("seed", 0) + epoch)
        drawn = []
        for clips, number in self.parts:
            while number:
                order = torch.randperm(len(clips), generator=generator)
                some = [clips[i] for i in order[:number].tolist()]
                drawn += some
                number -= len(some)
        lengths = [self.durations[i] for i in drawn]
        sampler = DynamicBatchSampler(
            drawn, lengths_list=lengths, epoch=epoch, **self.settings
        )
        self.batches = [[drawn[i] for i in batch] for batch in sampler]

    def __iter__(self):
        return iter(self.batches)

    def __len__(self):
        return len(self.batches)
