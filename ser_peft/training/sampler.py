"""Batches of one process among several."""

from speechbrain.dataio.sampler import DistributedSamplerWrapper
from torch.utils.data import DistributedSampler

__all__ = ["RankSampler"]


class RankSampler(DistributedSamplerWrapper):
    """This process's batches, also where there is but one.

    Arguments are those of SpeechBrain's `DistributedSamplerWrapper`, which
    takes the clips of a single batch for batches.

    Example
    -------
    >>> sampler = RankSampler(
    ...     [[4, 5], [6]], num_replicas=2, rank=0, shuffle=False
    ... )
    >>> [*sampler]
    [[4, 5]]
    """

    def __iter__(self):
        batches = [*self.sampler]
        chosen = DistributedSampler.__iter__(self)
        return iter([batches[i] for i in chosen])
