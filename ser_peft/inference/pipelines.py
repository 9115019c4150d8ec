"""A model that answers like transformers' audio classification pipeline."""

from collections.abc import Iterator, Mapping
from itertools import islice

import numpy as np

from ser_peft.errors import InputError
from ser_peft.inference.recognizer import Recognizer

__all__ = ["EmotionPipeline", "pipeline"]

FUNCTIONS = "softmax", "sigmoid", "none"


def pipeline(model, top_k=5, function_to_apply="softmax", **places):
    """Make what ``transformers.pipeline("audio-classification")`` makes.

    Arguments
    ---------
    model : Recognizer, str or Path
        Model, or what `ser_peft.inference.load_model` loads.
    top_k, function_to_apply
        See `EmotionPipeline.__call__`.
    **places
        For `load_model`, as ``device``.

    Returns
    -------
    EmotionPipeline

    Example
    -------
    >>> classify = pipeline("results/whisper_lora")  # doctest: +SKIP
    >>> classify("clip.wav", top_k=1)  # doctest: +SKIP
    [{'score': 0.93, 'label': 'happy'}]
    """
    if not isinstance(model, Recognizer):
        from ser_peft.inference.loading import load_model  # needs torch

        model = load_model(model, **places)
    return EmotionPipeline(model, top_k, function_to_apply)


class EmotionPipeline:
    """Recordings to lists of labels with their scores, the highest first.

    Arguments
    ---------
    model : Recognizer
        Model with classes.
    top_k, function_to_apply
        Defaults of `__call__`.

    Raises
    ------
    InputError
        If the model has no classes.
    """

    task = "audio-classification"

    def __init__(self, model, top_k=5, function_to_apply="softmax"):
        if not model.classes:
            raise InputError(
                "pipeline: the model tells dimensions, and no classes; call "
                "its `predict`"
            )
        self.model = model
        self.settings = {
            "top_k": top_k,
            "function_to_apply": function_to_apply,
        }

    def __call__(self, inputs, batch_size=32, **settings):
        """Classify recordings.

        Arguments
        ---------
        inputs : object
            A recording in any form that `Recognizer.predict` takes, as a
            path, the bytes of a file, samples at 16 kHz, or ``{"array": ..,
            "sampling_rate": ..}`` (or ``"raw"``); a list of them; or a
            generator or dataset of them.
        batch_size : int
            Recordings that are taken at once.
        top_k : int, optional
            Number of labels of an answer; None for all.
        function_to_apply : str, optional
            "softmax": calibrated probabilities, the ``scores`` of `predict`;
            "sigmoid" or "none": of or for the logits, without temperature.

        Returns
        -------
        list or iterator
            Of one recording, a list of ``{"score": .., "label": ..}``, the
            highest score first; of a list, a list of such lists; of a
            generator or dataset, an iterator over them.

        Raises
        ------
        InputError
            If a recording cannot be used, or an argument is wrong.
        """
        settings = {**self.settings, **settings}
        if unknown := {*settings} - {*self.settings}:
            raise InputError(
                f"pipeline: {', '.join(sorted(unknown))}: unknown; give top_k, "
                "function_to_apply or batch_size"
            )
        name = settings["function_to_apply"] or "softmax"
        if name not in FUNCTIONS:
            raise InputError(
                f"function_to_apply: {name!r}; give one of "
                f"{', '.join(FUNCTIONS)}"
            )
        if batch_size < 1:
            raise InputError(f"batch_size: {batch_size}; give 1 or more")
        several = _several(inputs)
        answers = self._answers(
            [inputs] if several is None else several,
            batch_size,
            settings["top_k"],
            name,
        )
        if isinstance(inputs, list):
            return list(answers)
        return next(answers) if several is None else answers

    def _answers(self, inputs, batch_size, top_k, function):
        items = enumerate(inputs)
        while some := [*islice(items, batch_size)]:
            named = ((f"inputs[{i}]", one, None) for i, one in some)
            for group in self.model.judged(named):
                for one in group:
                    if one.problem:
                        raise one.problem
                    yield self._answer(one.scores, top_k, function)

    def _answer(self, scores, top_k, function):
        classes = self.model.classes
        values = np.asarray(scores, np.float64)[: len(classes)]
        if function == "softmax":
            values = np.array([*self.model.answer(scores)["scores"].values()])
        elif function == "sigmoid":
            values = 1 / (1 + np.exp(-values))
        order = np.argsort(-values, kind="stable")[:top_k]
        return [{"score": float(values[i]), "label": classes[i]} for i in order]


def _several(inputs):
    """Iterable of recordings; None for one that is a recording."""
    one = (str, bytes, bytearray, memoryview, tuple, Mapping)
    if isinstance(inputs, one) or hasattr(inputs, "dtype"):
        return None
    if isinstance(inputs, (list, Iterator)):
        return None if hasattr(inputs, "read") else inputs
    # Datasets of torch and of Hugging Face have no class in common.
    if hasattr(inputs, "__getitem__") and hasattr(inputs, "__len__"):
        return (inputs[i] for i in range(len(inputs)))
    return None
