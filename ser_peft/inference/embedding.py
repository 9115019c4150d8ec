"""Vectors of recordings: what the head scores, or a layer's mean."""

import csv
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

from ser_peft.errors import InputError, printable
from ser_peft.heads import masked_mean
from ser_peft.inference.recognizer import Recognizer, progress_bar
from ser_peft.io import atomic_path
from ser_peft.storage.cells import as_cell

__all__ = ["Embedder", "write_vectors"]


class Embedder(Recognizer):
    """A model's vectors in the place of its scores.

    Arguments
    ---------
    model : EmotionModel
        Model. The vector of a long clip is the mean of its windows'.
    layer : int, optional
        Hidden state whose mean over time is taken, 0 for the first layer's
        input; what the head scores by default.

    Raises
    ------
    InputError
        If there is no such hidden state, or the model has none to give.
    """

    classes = ()
    dimensions = ()

    def __init__(self, model, layer=None):
        if not hasattr(model, "embed"):
            raise InputError(
                "MODEL: an ONNX file gives scores alone; give a run"
            )
        if layer is not None:
            _check_layer(model, layer)
        self.model, self.layer = model, layer
        self.first_seconds = model.first_seconds
        self.max_samples = model.max_samples

    def score(self, wavs, lengths, texts=None):
        """Vectors [B, D] of clips, see `Recognizer.score`."""
        return self.model.computed(self._vectors, wavs, lengths, texts)

    def _vectors(self, wavs, lengths, texts):
        if self.layer is None:
            return self.model.embed(wavs, lengths, texts)
        return self.model.by_clip(self._mean, wavs, lengths, texts)

    def _mean(self, states, frames, *text):
        return masked_mean(states[self.layer], frames)


def _check_layer(model, layer):
    if not hasattr(model, "encoder"):
        raise InputError(
            f"--layer {layer}: MODEL is an ensemble, of several encoders; "
            "give one of the folders in its members/"
        )
    states = model.encoder.num_layers + 1
    if layer not in range(-states, states):
        raise InputError(
            f"--layer {layer}: the encoder has hidden states 0 to {states - 1}"
        )


@torch.no_grad()
def write_vectors(
    model, listing, out, layer=None, batch_seconds=None, progress=False
):
    """Write the vectors of recordings, and an index of them.

    Arguments
    ---------
    model : EmotionModel
        Model.
    listing : iterable of (str, str or None)
        Path and text of each recording; gone through twice.
    out : str or Path
        ``.npy``, or ``.safetensors`` with the tensor ``vectors``: float32
        [recordings, D]; NaN for those that cannot be used. ``<out>.csv`` has
        their paths, seconds and problems, in the same order.
    layer : int, optional
        See `Embedder`.
    batch_seconds : float, optional
        See `Recognizer.predict`.
    progress : bool
        Show a progress bar.

    Returns
    -------
    shape : tuple of int
        Recordings, and D.
    problems : int
        Recordings that cannot be used.

    Raises
    ------
    InputError
        If `out` has another suffix, or no recording can be used.
    """
    out, index = Path(out), Path(f"{out}.csv")
    if out.suffix not in (".npy", ".safetensors"):
        raise InputError(
            f"--out {out}: give a name that ends in .npy or .safetensors"
        )
    embedder, vectors, row, problems = Embedder(model, layer), None, 0, 0
    total = sum(1 for _ in listing)
    items = ((path, path, text) for path, text in listing)
    with (
        atomic_path(index) as table,
        atomic_path(out) as tmp,
        open(table, "w", newline="", encoding="utf-8") as file,
        progress_bar(total, progress) as bar,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", "seconds", "problem"])
        for group in embedder.judged(items, batch_seconds):
            for one in group:
                if one.problem is None and vectors is None:
                    # On the disk: a million vectors are gigabytes.
                    vectors = np.lib.format.open_memmap(
                        tmp.with_name("vectors.npy"), "w+", np.float32,
                        (total, len(one.scores)),
                    )  # fmt: skip
                    vectors[:row] = np.nan
                if vectors is not None:
                    vectors[row] = np.nan if one.problem else one.scores
                problem = str(one.problem or "")
                problems += bool(problem)
                row += 1
                writer.writerow(
                    [
                        as_cell(printable(one.name)),
                        f"{one.seconds:.3f}",
                        as_cell(printable(problem)),
                    ]
                )
            bar.update(len(group))
        if vectors is None:
            raise InputError(f"{problem}; none of {total} can be used")
        vectors.flush()
        if out.suffix == ".npy":
            tmp.with_name("vectors.npy").rename(tmp)
        else:
            save_file({"vectors": vectors}, tmp)
    return vectors.shape, problems
