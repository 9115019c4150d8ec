"""A trained model -> one ONNX file, checked against torch."""

import json
import logging
import math
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import balanced_accuracy_score
from torch import nn
from torch.export import Dim

from ser_peft.data.manifests import path_of, read_manifests
from ser_peft.errors import BAD_ARGUMENTS, InputError, extra, out_of_memory
from ser_peft.inference.ensembles import EnsembleModel
from ser_peft.inference.loading import load_model
from ser_peft.inference.onnx import FORMAT, KEY, OnnxModel, is_onnx
from ser_peft.inference.quantizing import quantize
from ser_peft.io import SAMPLE_RATE, atomic_path

__all__ = ["export_onnx"]

logger = logging.getLogger(__name__)

TOLERANCE = 1e-4
"""Largest difference between the scores of onnxruntime and torch."""
CLIPS = 32
"""Number of valid clips whose scores are compared."""
LARGEST = 2**31 - 2**20
"""Bytes of weights that fit into one file of ONNX."""


class _Graph(nn.Module):
    """What is exported: waveforms [B, T] and samples [B] to scores [B, N]."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, wavs, lengths):
        states = self.model.encoder(wavs, lengths / wavs.shape[1])
        return self.model.rescale(self.model.head(*states))


def export_onnx(run, out, int8=False, backbone=None):
    """Write a trained model as one ONNX file, waveforms in, scores out.

    The adapter is merged into the encoder where it can be. onnxruntime must
    give the scores of torch, for clips of the run's valid set if that is
    there, and for generated ones of all lengths.

    Arguments
    ---------
    run : str or Path
        A finished run, its ``model/`` folder, or a model's name.
    out : str or Path
        New file, ``*.onnx``. Its inputs are ``wavs``, 16 kHz mono [B, T], and
        ``lengths``, samples [B]; its output is ``scores``,
        [B, classes + dimensions], as of `EmotionModel`. A description is in
        its metadata, see `ser_peft.inference.onnx`.
    int8 : bool
        Keep the weights of the encoder's and the head's matrix products in
        int8, and multiply in it.
    backbone : str, optional
        Place of the encoder now, see `load_model`.

    Returns
    -------
    dict
        The description that is in the file.

    Raises
    ------
    InputError
        If `run` is no model, `out` is there already, the model cannot be
        exported, or the scores differ by more than `TOLERANCE`.
    """
    with extra("onnx"):
        import onnx
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    out = Path(out)
    if out.suffix != ".onnx":
        raise InputError(f"{out}: --onnx writes one file; call it {out}.onnx")
    if out.exists():
        raise InputError(f"{out}: is there already; give a new file")
    if is_onnx(run):
        raise InputError(f"{run}: is an ONNX file already; give a run")
    model = load_model(run, backbone)
    if isinstance(model, EnsembleModel):
        raise InputError(
            f"{run}: --onnx: is an ensemble, of {len(model.members)} models, "
            "and a file holds one; export a folder in its members/, or a "
            "student of it"
        )
    if model.reads_text:
        raise InputError(
            f"{run}: --onnx: reads transcripts too; export a model of speech "
            "alone"
        )
    model.merge()
    source, entries = _valid_set(run, model)
    about = _description(model)
    with atomic_path(out) as tmp:
        graph = _trace(model, run)
        _write(onnx, graph, about, tmp)
        exported = OnnxModel(tmp)
        about["checked"] = _check(model, exported, source, entries, run)
        if int8:
            about["precision"] = "int8"
            quantize(tmp)
            _write(onnx, onnx.load(tmp), about, tmp)
            about["int8"] = _compare(exported, OnnxModel(tmp), source, entries)
        _write(onnx, onnx.load(tmp), about, tmp)
    return about


def _description(model):
    """What those who run the file need to know."""
    lobe = model.encoder.lobe
    packages = ("ser_peft", "torch", "transformers", "onnx", "onnxruntime")
    return {
        "format": FORMAT,
        "classes": model.classes,
        "dimensions": model.dimensions,
        "temperature": model.temperature,
        "unsure": model.unsure,
        "first_seconds": model.first_seconds,
        "max_samples": lobe.max_samples,
        "sample_rate": SAMPLE_RATE,
        # The name of a folder is enough: others do not have it.
        "backbone": Path(lobe.source).name
        if Path(lobe.source).is_absolute()
        else lobe.source,
        "head": type(model.head).__name__,
        "precision": "fp32",
        "versions": {name: version(name) for name in packages},
    }


def _trace(model, run):
    """ONNX model of any batch and any length."""
    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    if size > LARGEST:
        raise InputError(
            f"{run}: --onnx: has {size / 2**30:.1f} GiB of weights, and an "
            "ONNX file holds 2; take a smaller backbone"
        )
    wavs = torch.randn(3, 2 * SAMPLE_RATE)
    lengths = torch.tensor([2 * SAMPLE_RATE, 20000, 9000])
    batch = Dim("batch")
    shapes = {"wavs": {0: batch, 1: Dim.DYNAMIC}, "lengths": {0: batch}}
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(
                _Graph(model.eval()), (wavs, lengths), dynamic_shapes=shapes
            )
            program = torch.onnx.export(
                program,
                input_names=["wavs", "lengths"],
                output_names=["scores"],
                verbose=False,
            )
    except (*BAD_ARGUMENTS, torch.onnx.errors.OnnxExporterError) as error:
        if out_of_memory(error):
            raise
        raise InputError(
            f"{run}: --onnx: {model.encoder.method_name} in a "
            f"{type(model.encoder.lobe).__name__} cannot be exported ({error})"
        ) from error
    return program.model_proto


def _write(onnx, graph, about, path):
    onnx.helper.set_model_props(graph, {KEY: json.dumps(about)})
    onnx.save(graph, path)


def _valid_set(run, model):
    """Name and entries of the run's valid set; none where it is gone."""
    for folder in (Path(run) / "manifests", Path(run).parent / "manifests"):
        if not (folder / "valid.json").is_file():
            continue
        try:
            about, manifests = read_manifests(folder)
        except InputError as error:
            logger.warning("%s; checked on generated signals", error)
            break
        return f"{about['corpus']}, valid", {
            path_of(entry, about): entry
            for entry in manifests["valid"].values()
        }
    return "generated signals", {}


def _signals():
    """Silence, and signals like voices of 10 ms to 9 s: [B, T] and [B]."""
    generator = np.random.default_rng(0)
    lengths = (SAMPLE_RATE * np.array([1, 0.01, 0.3, 1, 2.5, 4, 9])).astype(int)
    wavs = np.zeros((len(lengths), lengths.max()), np.float32)
    for row, length in zip(wavs[1:], lengths[1:], strict=True):
        time = np.arange(length) / SAMPLE_RATE
        pitch = generator.uniform(90, 250) * (1 + 0.2 * np.sin(3 * time))
        phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
        wav = sum(np.sin(k * phase) / k for k in range(1, 12))
        wav *= 0.1 * (1 + np.sin(8 * np.pi * time))
        row[:length] = wav + generator.normal(0, 0.003, length)
    return wavs, lengths


def _scores(model, clips):
    """Scores of files, [N, classes + dimensions]; of signals without any."""
    if not clips:
        return model.score(*_signals())
    rows = []
    for group in model.judged((path, path, None) for path in clips):
        for one in group:
            if one.problem:
                raise one.problem
            rows.append(one.scores)
    return np.stack(rows)


def _check(model, exported, source, entries, run):
    """Compare the scores of torch and onnxruntime."""
    some = [*entries][:: math.ceil(len(entries) / CLIPS) or 1]
    wanted = _scores(model, [])
    gaps = [wanted - exported.run(*_signals())]
    gaps.append(wanted - _scores(exported, []))
    if some:
        gaps.append(_scores(model, some) - _scores(exported, some))
    largest = max(float(np.abs(gap).max()) for gap in gaps)
    if not largest <= TOLERANCE:
        raise InputError(
            f"{run}: --onnx: onnxruntime's scores differ by {largest:.2g} from "
            f"those of torch, more than {TOLERANCE}; the model cannot be "
            "exported"
        )
    return {"on": source, "clips": len(some), "difference": largest}


def _compare(exported, smaller, source, entries):
    """How the scores of int8 differ from those of float32."""
    full, less = (_scores(one, [*entries]) for one in (exported, smaller))
    count = len(exported.classes)
    found = {
        "on": source,
        "clips": len(full),
        "difference": float(np.abs(full - less).max()),
    }
    if count:
        found["agreement"] = float(
            (full[:, :count].argmax(1) == less[:, :count].argmax(1)).mean()
        )
    labels = [entry.get("emotion") for entry in entries.values()]
    known = [i for i, one in enumerate(labels) if one in exported.classes]
    if known:
        truth = [exported.classes.index(labels[i]) for i in known]
        found["ua"] = {
            name: float(
                balanced_accuracy_score(truth, one[known, :count].argmax(1))
            )
            for name, one in (("fp32", full), ("int8", less))
        }
    return found
