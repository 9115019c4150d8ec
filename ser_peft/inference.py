"""A trained run, or a released model -> the emotions of a recording."""

import json
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ser_peft.adapters import load_adapter
from ser_peft.data import read_audio
from ser_peft.errors import InputError
from ser_peft.heads import HEADS, load_tensors
from ser_peft.io import atomic_path, write_json
from ser_peft.lobes import load_lobe

__all__ = ["EmotionModel", "load_model"]


class EmotionModel(nn.Module):
    """Encoder, adapter and head: waveforms to emotion scores.

    In eval mode a clip's scores do not depend on its batch mates.

    Arguments
    ---------
    encoder : PeftLobe
        With its adapter.
    head : ser_peft.heads.Head
        Of the same width.
    classes : list of str
        Names, in the order of the scores.
    """

    def __init__(self, encoder, head, classes):
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.classes = list(classes)

    @property
    def sample_rate(self):
        """Of the waveforms it takes, in Hz."""
        return self.encoder.sample_rate

    def forward(self, wavs, lengths=None):
        """Score clips.

        Arguments
        ---------
        wavs : torch.Tensor
            16 kHz mono, [B, T].
        lengths : torch.Tensor, optional
            Valid samples of each clip, [B]; all of T where absent.

        Returns
        -------
        torch.Tensor
            Logits, [B, classes]. A clip longer than the encoder takes is
            cut into equal windows whose logits are averaged.
        """
        if lengths is None:
            lengths = torch.full((len(wavs),), wavs.shape[1])
        lengths = torch.as_tensor(lengths, device=wavs.device)
        limit = self.encoder.max_samples
        if limit is None or int(lengths.max()) <= limit:
            return self._score(wavs, lengths)
        scores = []
        for wav, length in zip(wavs, lengths.tolist(), strict=True):
            windows = wav[:length].tensor_split(-(-length // limit))
            sizes = torch.tensor([len(w) for w in windows])
            batch = nn.utils.rnn.pad_sequence(windows, batch_first=True)
            scores.append(self._score(batch, sizes.to(wav.device)).mean(0))
        return torch.stack(scores)

    def _score(self, wavs, lengths):
        hidden, frames = self.encoder(wavs, lengths / wavs.shape[1])
        return self.head(hidden, frames)

    @torch.no_grad()
    def predict(self, recordings):
        """Name the emotion of each recording.

        Arguments
        ---------
        recordings : list of str, Path, numpy.ndarray or torch.Tensor
            Audio files of any rate, or 16 kHz mono samples, [T].

        Returns
        -------
        list of dict
            ``label`` and ``scores``, the probability of every class.

        Raises
        ------
        InputError
            If a file cannot be used.
        """
        if isinstance(recordings, (str, Path)):
            recordings = [recordings]
        self.eval()
        device = next(self.head.parameters()).device
        answers = []
        for recording in recordings:
            if isinstance(recording, (str, Path)):
                wav = read_audio(recording)
            else:
                wav = torch.as_tensor(np.asarray(recording)).float()
            scores = self(wav[None].to(device))[0].softmax(-1).tolist()
            best = int(np.argmax(scores))
            answers.append(
                {
                    "label": self.classes[best],
                    "scores": dict(zip(self.classes, scores, strict=True)),
                }
            )
        return answers

    def save(self, folder):
        """Write what inference needs: adapter, head and a description.

        Arguments
        ---------
        folder : str or Path
            Gets ``adapter/`` (Hugging Face PEFT layout),
            ``head.safetensors`` and ``model.json``; replaced if it exists.
        """
        with atomic_path(folder) as tmp:
            tmp.mkdir()
            self.encoder.export(tmp / "adapter")
            self.head.save(tmp / "head.safetensors")
            write_json(
                tmp / "model.json",
                {
                    "format": 1,
                    "backbone": self.encoder.lobe.source,
                    "classes": self.classes,
                    "head": type(self.head).__name__,
                    "head_settings": self.head.settings,
                },
            )


def load_model(folder, backbone=None, save_path="", device="cpu"):
    """Load a trained model for inference.

    Arguments
    ---------
    folder : str or Path
        The ``model/`` folder of a run, or the run's folder.
    backbone : str, optional
        Where the encoder is now, if not where training found it.
    save_path : str
        Where a download is kept.
    device : str
        Where to put the model.

    Returns
    -------
    EmotionModel
        In eval mode.

    Raises
    ------
    InputError
        If the folder is not a model or does not fit the backbone.

    Example
    -------
    >>> model = load_model("results/whisper_lora")  # doctest: +SKIP
    >>> model.predict(["clip.wav"])[0]["label"]  # doctest: +SKIP
    'happy'
    """
    folder = Path(folder)
    if (folder / "model" / "model.json").exists():
        folder = folder / "model"
    try:
        about = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"{folder}: no model.json there; give the model/ folder of a "
            "finished run"
        ) from error
    lobe = load_lobe(backbone or about["backbone"], save_path)
    encoder = load_adapter(lobe, folder / "adapter")
    head = HEADS[about["head"]](
        encoder, len(about["classes"]), **about["head_settings"]
    )
    load_tensors(head, folder / "head.safetensors")
    return EmotionModel(encoder, head, about["classes"]).eval().to(device)
