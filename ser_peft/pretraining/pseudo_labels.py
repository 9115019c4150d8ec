"""Pseudo-labels of frames: their file, and their alignment in time."""

import json
import math

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from sklearn.metrics import mutual_info_score
from sklearn.metrics.cluster import contingency_matrix

from ser_peft.errors import BAD_ARGUMENTS, InputError
from ser_peft.io import atomic_path

__all__ = ["PseudoLabels", "describe", "nearest_frames", "perplexity"]


def nearest_frames(own_centres, their_centres):
    """Align two frame grids.

    Frame t of one encoder and frame t of another are milliseconds apart,
    and one grid often has a frame more: pairing frames by their numbers lets
    labels lag, and leaves the ends without any. Pairing by time does not.

    Arguments
    ---------
    own_centres : torch.Tensor
        Centres of the frames that need a label, in samples, [T].
    their_centres : torch.Tensor
        Centres of the labelled frames, in samples, ascending, [T'].

    Returns
    -------
    torch.Tensor
        Index into `their_centres` of the nearest one, the earlier of two
        equally near ones; int64, [T].

    Example
    -------
    >>> nearest_frames(
    ...     torch.tensor([0.0, 320, 640]), torch.tensor([200.0, 520])
    ... )
    tensor([0, 0, 1])
    """
    # Float32 no longer tells half samples apart after nine minutes.
    theirs = their_centres.double()
    return torch.searchsorted(
        (theirs[1:] + theirs[:-1]) / 2, own_centres.double()
    )


class PseudoLabels:
    """Cluster numbers of all frames of many utterances, at several K.

    Arguments
    ---------
    labels : dict of str to torch.Tensor
        Utterance id -> cluster numbers, integers, [number of Ks, frames].
    sizes : list of int
        Numbers of clusters K, each at most 65536.
    first, hop : float
        Frame t of an utterance is centred at sample ``first + hop * t``.
    about : dict
        Notes on the labels' origin, kept in the file.

    Raises
    ------
    InputError
        If there are no labels, or one is no cluster's number.

    Example
    -------
    >>> labels = PseudoLabels({"a": torch.tensor([[5, 5, 0]])}, [8], 200, 320)
    >>> labels["a"]
    tensor([[5, 5, 0]])
    >>> labels.crop("a", 640, torch.tensor([200.0]))
    tensor([[0]])
    """

    def __init__(self, labels, sizes, first, hop, about=None):
        self.ids = list(labels)
        self.sizes = [*map(int, sizes)]
        self.first, self.hop = float(first), float(hop)
        self.about = dict(about or {})
        self.where = "pseudo-labels"
        if not labels or max(self.sizes, default=0) > 2**16:
            raise InputError(
                f"pseudo-labels of {len(labels)} utterances in {self.sizes} "
                "clusters: at least one, and at most 65536 clusters"
            )
        self._flat = torch.cat([v.to(torch.uint16) for v in labels.values()], 1)
        counts = torch.tensor([0, *(v.shape[1] for v in labels.values())])
        self._offsets = counts.cumsum(0)
        self._place = {id_: i for i, id_ in enumerate(self.ids)}
        highest = self._flat.numpy().max(1).tolist()
        if len(highest) != len(self.sizes) or any(
            top >= size for top, size in zip(highest, self.sizes, strict=True)
        ):
            raise InputError(
                f"pseudo-labels up to {highest} do not go with clusterings of "
                f"{self.sizes} clusters; cluster again"
            )

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, id_):
        """Labels of a whole utterance, int64, [number of Ks, frames]."""
        if id_ not in self._place:
            raise InputError(
                f"{self.where}: no labels for utterance '{id_}' among its "
                f"{len(self)}: made from other manifests; delete it and run "
                "the same command again"
            )
        start, end = self._offsets[self._place[id_] :][:2]
        return self._flat[:, start:end].long()

    def crop(self, id_, start, centres):
        """Label a stretch of an utterance, on another encoder's grid.

        Arguments
        ---------
        id_ : str
            Id of the utterance.
        start : int
            Sample at which the stretch begins.
        centres : torch.Tensor
            Centres of the other encoder's frames, in samples of the stretch,
            [T]: ``lobe.frame_centres(T)``.

        Returns
        -------
        torch.Tensor
            Labels of the frames nearest in time, int64, [number of Ks, T].
            For a start that is a multiple of that encoder's hop these are
            the whole utterance's labels from frame ``start / hop`` on.

        Raises
        ------
        InputError
            If there is no such utterance.
        """
        labels = self[id_]
        count = torch.arange(labels.shape[1], dtype=torch.float64)
        own = start + centres.double().cpu()
        return labels[:, nearest_frames(own, self.first + self.hop * count)]

    def save(self, path):
        """Write one safetensors file, of two bytes for each frame and K.

        Arguments
        ---------
        path : str or Path
            Replaced as a whole if it is there.
        """
        about = {
            "ids": self.ids,
            "sizes": self.sizes,
            "first": self.first,
            "hop": self.hop,
            "about": self.about,
        }
        with atomic_path(path) as tmp:
            save_file(
                {"labels": self._flat, "offsets": self._offsets},
                tmp,
                metadata={"pseudo_labels": json.dumps(about)},
            )

    @classmethod
    def load(cls, path):
        """Read what `save` wrote.

        Arguments
        ---------
        path : str or Path
            Output of `save`.

        Returns
        -------
        PseudoLabels

        Raises
        ------
        InputError
            If there is no such file or it is broken.
        """
        try:
            with safe_open(path, "pt") as file:
                about = json.loads(file.metadata()["pseudo_labels"])
                flat, offsets = map(file.get_tensor, ("labels", "offsets"))
            parts = flat.split(offsets.diff().tolist(), 1)
            labels = dict(zip(about.pop("ids"), parts, strict=True))
            loaded = cls(labels, **about)
        except (*BAD_ARGUMENTS, SafetensorError) as error:
            raise InputError(
                f"{path}: holds no pseudo-labels ({error}); delete it and run "
                "the same command again"
            ) from error
        loaded.where = str(path)
        return loaded


def perplexity(counts):
    """Compute the exponential of the entropy of a distribution.

    Arguments
    ---------
    counts : torch.Tensor
        Number of frames in each cluster, [K].

    Returns
    -------
    float
        Between 1 (all in one cluster) and K (all equally large).

    Example
    -------
    >>> perplexity(torch.tensor([7, 7, 0]))
    2.0
    """
    shares = counts.double() / counts.sum()
    return math.exp(torch.special.entr(shares).sum())


def describe(labels, class_of):
    """Measure how clusters relate to the classes of their utterances.

    Arguments
    ---------
    labels : PseudoLabels
        Labels of these utterances at least.
    class_of : dict of str to str
        Utterance id -> its emotion.

    Returns
    -------
    list of dict
        For each K: ``clusters`` (K), ``used`` (clusters that have a frame),
        ``perplexity``, ``largest`` (share of the most frequent cluster: the
        accuracy of always predicting it), ``purity`` (share of frames in
        their cluster's most frequent class, which rises with K),
        ``largest_class`` (the purity of a single cluster) and
        ``mutual_information`` of cluster and class in nats. Frames count, so
        long utterances count more.

    Raises
    ------
    InputError
        If an utterance has no labels.

    Example
    -------
    >>> ids = {"a": torch.tensor([[0, 0, 0]]), "b": torch.tensor([[0, 1]])}
    >>> labels = PseudoLabels(ids, [8], 200, 320)
    >>> describe(labels, {"a": "sad", "b": "happy"})[0]["purity"]
    0.8
    """
    parts = [labels[id_] for id_ in class_of]
    classes = np.repeat([*class_of.values()], [part.shape[1] for part in parts])
    rows = []
    for size, clusters in zip(labels.sizes, torch.cat(parts, 1), strict=True):
        table = contingency_matrix(clusters.numpy(), classes)
        counts = table.sum(1)
        rows.append(
            {
                "clusters": size,
                "used": len(table),
                "perplexity": perplexity(torch.from_numpy(counts)),
                "largest": int(counts.max()) / len(classes),
                "purity": int(table.max(1).sum()) / len(classes),
                "largest_class": int(table.sum(0).max()) / len(classes),
                "mutual_information": float(
                    mutual_info_score(None, None, contingency=table)
                ),
            }
        )
    return rows
