"""ONNX files of `ser-peft export --onnx`, run without torch."""

import json
import os
from functools import cached_property

import numpy as np

from ser_peft.errors import InputError, extra
from ser_peft.inference.recognizer import Recognizer
from ser_peft.io import refuse_pointer, sha256_of

__all__ = ["FORMAT", "KEY", "OnnxModel", "is_onnx", "load_onnx"]

FORMAT = 1
"""Format of the metadata; higher where an older ser_peft cannot read it."""
KEY = "ser_peft"
"""Key of the file's metadata under which its description is, as JSON."""


class OnnxModel(Recognizer):
    """A model in one file, run by onnxruntime on the processor.

    It needs numpy, soundfile, soxr and onnxruntime; torch is not imported.

    Arguments
    ---------
    path : str or Path
        File that `ser-peft export --onnx` wrote.
    threads : int, optional
        Number of threads; by default ``$OMP_NUM_THREADS``, which torch goes
        by too, or else one for each core that this process may use.

    Raises
    ------
    InputError
        If there is no such file, or it is not one of these.

    Example
    -------
    >>> model = OnnxModel("emotion.onnx")  # doctest: +SKIP
    >>> model.predict(["clip.wav"])[0]["label"]  # doctest: +SKIP
    'happy'
    """

    def __init__(self, path, threads=None):
        with extra("onnx"):
            import onnxruntime
            from onnxruntime.capi import onnxruntime_pybind11_state as errors

        if not os.path.isfile(path):
            raise InputError(f"{path}: no such file; check the path")
        refuse_pointer(path)
        self._errors = tuple(
            kind
            for kind in vars(errors).values()
            if isinstance(kind, type) and issubclass(kind, Exception)
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or _threads()
        options.log_severity_level = 3  # errors
        try:
            self.session = onnxruntime.InferenceSession(
                str(path),
                options,
                providers=["CPUExecutionProvider"],
                # The fused operator is the slower one.
                disabled_optimizers=["SkipLayerNormFusion"],
            )
        except self._errors as error:
            raise InputError(
                f"{path}: onnxruntime cannot load it ({error}); export it "
                "again, or copy it again"
            ) from error
        self.about = _described(self.session, path)
        for key in ("classes", "temperature", "first_seconds", "unsure"):
            setattr(self, key, self.about[key])
        self.dimensions = self.about["dimensions"]
        self.max_samples = self.about["max_samples"]
        self.precision = self.about["precision"]
        self._path = path

    @cached_property
    def fingerprint(self):
        """SHA-256 of the file."""
        return sha256_of(self._path)

    def score(self, wavs, lengths, texts=None):
        """Score clips, see `Recognizer.score`.

        They are run one by one, without padding: that is faster than a batch
        on a processor, and in int8, where a tensor has one scale, a clip's
        scores do not depend on its batch mates.
        """
        rows = [
            self.run(wav[None, :length], [length])
            for wav, length in zip(wavs, lengths, strict=True)
        ]
        return np.concatenate(rows)

    def run(self, wavs, lengths):
        """Run the graph on a padded batch, [B, T] and [B] to [B, scores]."""
        inputs = {"wavs": wavs, "lengths": np.asarray(lengths, np.int64)}
        try:
            return self.session.run(None, inputs)[0]
        except self._errors as error:
            if "alloc" in str(error):
                raise MemoryError(str(error)) from error
            raise


def _threads():
    told = os.environ.get("OMP_NUM_THREADS", "")
    if told.isdigit():
        return int(told)
    # Not on every system; there, all cores.
    mine = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count()))
    return len(mine(0))


def is_onnx(path):
    """Whether a model's name is that of an ONNX file."""
    return str(path).endswith(".onnx")


def load_onnx(path, threads=None, **options):
    """Load an ONNX file of `ser-peft export --onnx`.

    Arguments
    ---------
    path, threads
        See `OnnxModel`.
    **options
        Further arguments of `load_model`, which are not for such files.

    Returns
    -------
    OnnxModel

    Raises
    ------
    InputError
        If there is no such file, it is not one of these, or an option is
        given.
    """
    for key, value in options.items():
        if value and value != "cpu":
            raise InputError(
                f"--{key} {value}: {path} holds its own encoder, and runs on "
                "the processor in the precision of its export; leave it out"
            )
    return OnnxModel(path, threads)


def _described(session, path):
    """Description of the model, from the file's metadata."""
    found = session.get_modelmeta().custom_metadata_map
    try:
        about = json.loads(found[KEY])
        if about["format"] != FORMAT:
            raise InputError(
                f"{path}: format {about['format']}, this ser_peft reads "
                f"{FORMAT}; install the one that wrote it"
            )
        inputs = [one.name for one in session.get_inputs()]
        least = min(float(about["temperature"]), int(about["max_samples"]))
        if inputs != ["wavs", "lengths"] or not least > 0:
            raise ValueError
        return {
            **about,
            "classes": [str(name) for name in about["classes"]],
            "dimensions": {
                str(name): (float(mean), float(deviation))
                for name, (mean, deviation) in about["dimensions"].items()
            },
            "temperature": float(about["temperature"]),
            "max_samples": int(about["max_samples"]),
            "precision": str(about["precision"]),
            **{
                key: None if about[key] is None else float(about[key])
                for key in ("first_seconds", "unsure")
            },
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path}: was not written by `ser-peft export --onnx`; give a file "
            "that was"
        ) from error
