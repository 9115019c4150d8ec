"""Frame labels between clustering and masked prediction: store, alignment."""

import json
import math

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from sklearn.metrics import mutual_info_score

from ser_peft.errors import InputError
from ser_peft.io import atomic_path

__all__ = [
    "PseudoLabels",
    "describe",
    "nearest_frames",
    "perplexity",
    "purity",
]


def nearest_frames(own_centres, their_centres):
    """Align two frame grids.

    Frame t of one encoder and frame t of another lie milliseconds apart,
    and one grid often has a frame more: pairing frames by their numbers lets
    labels lag, and leaves the ends without any. Pairing by time does not.

    Arguments
    ---------
    own_centres : torch.Tensor
        Where the frames that want a label are centred, in samples, [T].
    their_centres : torch.Tensor
        Where the labelled frames are, ascending, [T'].

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
        The Ks, each at most 65536.
    first, hop : float
        Frame t of an utterance is centred at sample ``first + hop * t``.
    about : dict
        What else to keep in the file, for whoever wants to know where the
        labels came from.

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
        """Labels of a stretch of an utterance, on another encoder's grid.

        Arguments
        ---------
        id_ : str
            The utterance.
        start : int
            Its sample at which the stretch begins.
        centres : torch.Tensor
            Where the other encoder's frames are centred, in samples of the
            stretch, [T]: ``lobe.frame_centres(T)``.

        Returns
        -------
        torch.Tensor
            Of the frame nearest in time to each; int64, [number of Ks, T].
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
        """Write one safetensors file: two bytes a frame and K.

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
            The file.

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
        except (
            AttributeError,
            IndexError,
            KeyError,
            OSError,
            RuntimeError,
            SafetensorError,
            TypeError,
            ValueError,
        ) as error:
            raise InputError(
                f"{path}: holds no pseudo-labels ({error}); delete it and run "
                "the same command again"
            ) from error
        loaded.where = str(path)
        return loaded


def perplexity(counts):
    """Exponential of the entropy of a distribution.

    Arguments
    ---------
    counts : torch.Tensor
        How often each cluster occurs, [K].

    Returns
    -------
    float
        Between 1 (all in one) and K (all alike).

    Example
    -------
    >>> perplexity(torch.tensor([7, 7, 0]))
    2.0
    """
    shares = counts.double() / counts.sum()
    return math.exp(torch.special.entr(shares).sum())


def purity(clusters, classes):
    """Share of frames that belong to their cluster's most frequent class.

    It rises with the number of clusters: compare it with the largest class's
    share, and with random clusters of the same number.

    Arguments
    ---------
    clusters, classes : torch.Tensor
        Numbers from 0 of each frame, [N].

    Returns
    -------
    float
        In (0, 1].

    Example
    -------
    >>> purity(torch.tensor([0, 0, 0, 1]), torch.tensor([2, 2, 1, 1]))
    0.75
    """
    table = _table(clusters, classes)
    return int(table.amax(1).sum()) / len(clusters)


def _table(clusters, classes):
    """Frames of each cluster and class, [clusters, classes]."""
    width = int(classes.max()) + 1
    height = int(clusters.max()) + 1
    counts = torch.bincount(
        clusters * width + classes, minlength=height * width
    )
    return counts.view(height, width)


def describe(labels, class_of):
    """What clusters have to do with utterances' classes.

    Arguments
    ---------
    labels : PseudoLabels
        Of these utterances at least.
    class_of : dict of str to str
        Utterance id -> its emotion.

    Returns
    -------
    list of dict
        For each K: ``clusters`` (K), ``used`` (how many have a frame),
        ``perplexity``, ``largest`` (share of the most frequent cluster: the
        accuracy of always predicting it), ``purity``, ``largest_class`` (the
        purity of a single cluster) and ``mutual_information`` of cluster and
        class in nats. Frames count, so long utterances count more.

    Raises
    ------
    InputError
        If an utterance has no labels.
    """
    number = {name: i for i, name in enumerate(sorted({*class_of.values()}))}
    parts = [labels[id_] for id_ in class_of]
    classes = torch.cat(
        [
            torch.full((part.shape[1],), number[name])
            for part, name in zip(parts, class_of.values(), strict=True)
        ]
    )
    rows = []
    for size, clusters in zip(labels.sizes, torch.cat(parts, 1), strict=True):
        table = _table(clusters, classes)
        counts, total = table.sum(1), len(classes)
        rows.append(
            {
                "clusters": size,
                "used": int(counts.count_nonzero()),
                "perplexity": perplexity(counts),
                "largest": int(counts.max()) / total,
                "purity": purity(clusters, classes),
                "largest_class": int(table.sum(0).max()) / total,
                "mutual_information": float(
                    mutual_info_score(None, None, contingency=table.numpy())
                ),
            }
        )
    return rows
