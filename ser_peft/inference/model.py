"""The trained model: encoder, adapter and head; recordings to emotions."""

import math
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ser_peft.corpora.transcripts import clean_text
from ser_peft.data.audio import SAMPLE_RATE, Recording, check_samples
from ser_peft.data.checking import summary
from ser_peft.errors import InputError, out_of_memory
from ser_peft.inference.windows import by_window, window_mean
from ser_peft.io import atomic_path, write_json
from ser_peft.storage.closed import seal

__all__ = ["FORMAT", "EmotionModel", "check_scores", "identities"]

FORMAT = 1
"""Format of model.json; higher where an older ser_peft cannot read it."""
LARGEST_SCORE = 1e30
"""Larger scores may become infinite by the temperature."""


class EmotionModel(nn.Module):
    """Encoder, adapter and head: waveforms to emotion scores.

    In eval mode a clip's scores do not depend on its batch mates.

    Arguments
    ---------
    encoder : PeftLobe
        With its adapter.
    head : ser_peft.heads.Head
        Head of the encoder's width.
    classes : list of str
        Names, in the order of the scores; empty for dimensions alone.
    temperature : float
        Temperature of `predict`'s probabilities, fitted on the valid set
        (Guo et al., 2017).
    dimensions : dict
        Name, as ``arousal``, in the order of the scores -> mean and standard
        deviation in the training set, which turn the head's standardised
        answers into values on the corpus's scale.
    text_encoder : PeftLobe, optional
        Encoder of transcripts, for a head of `ser_peft.heads.fusion`.
    first_seconds : float, optional
        Hear only the beginning of longer clips, as in training.
    unsure : float, optional
        Calibrated probability below which an answer's highest one makes it
        unsure, chosen on the valid set: see
        `ser_peft.evaluation.calibration.unsure_below`.
    """

    def __init__(
        self,
        encoder,
        head,
        classes,
        temperature=1.0,
        dimensions=(),
        text_encoder=None,
        first_seconds=None,
        unsure=None,
    ):
        super().__init__()
        self.encoder = encoder
        self.text_encoder = text_encoder
        self.head = head
        self.classes = list(classes)
        self.temperature = temperature
        self.dimensions = dict(dimensions)
        self.first_seconds = first_seconds
        self.unsure = unsure

    @property
    def encoders(self):
        """Attribute -> PeftLobe, for speech and, if there is one, for text."""
        encoders = {"encoder": self.encoder, "text_encoder": self.text_encoder}
        return {name: one for name, one in encoders.items() if one}

    @property
    def sample_rate(self):
        """Sample rate of the waveforms, Hz."""
        return self.encoder.sample_rate

    @property
    def most_samples(self):
        """Samples of a clip that are heard at most, see `first_seconds`."""
        if self.first_seconds is None:
            return math.inf
        return int(self.first_seconds * self.sample_rate)

    def forward(self, wavs, lengths=None, texts=None):
        """Score clips.

        Arguments
        ---------
        wavs : torch.Tensor
            16 kHz mono, [B, T].
        lengths : torch.Tensor, optional
            Valid samples of each clip, [B]; all T by default.
        texts : list of str, optional
            Transcript of each clip, "" where it is unknown; read only by a
            model with a text encoder.

        Returns
        -------
        torch.Tensor
            [B, classes + dimensions]: logits, then the dimensions on the
            scale of the corpus. A clip longer than the encoder takes is cut
            into equal windows whose scores are averaged.

        Raises
        ------
        InputError
            If the lengths are no samples of these clips.
        """
        if lengths is None:
            lengths = torch.full((len(wavs),), wavs.shape[1])
        lengths = torch.as_tensor(lengths, device="cpu")
        if lengths.is_floating_point() or int(lengths.max()) > wavs.shape[1]:
            raise InputError(
                f"lengths: {lengths.tolist()}: give whole numbers of samples, "
                f"at most {wavs.shape[1]}"
            )
        return self.rescale(self.by_clip(self.head, wavs, lengths, texts))

    def embed(self, wavs, lengths, texts=None):
        """Vectors that the head scores, [B, D]; see `forward`."""
        return self.by_clip(self.head.embed, wavs, lengths, texts)

    def merge(self):
        """Merge adapters into their encoders where they can be.

        Returns
        -------
        bool
            Whether all of them could; the others stay as they are.
        """
        merged = True
        for encoder in self.encoders.values():
            try:
                encoder.merge()
            except InputError:
                merged = False
        return merged

    def by_clip(self, score, wavs, lengths, texts=None):
        """Apply `score` to clips' hidden states, see `by_window`, [B, ...]."""
        text = self._read_texts(texts, wavs)
        wavs, lengths = self.heard(wavs, lengths)
        return by_window(self.encoder, wavs, lengths, score, text)

    def heard(self, wavs, lengths):
        """Waveforms [B, T] and samples [B], cut to `first_seconds`."""
        if self.first_seconds is not None:
            wavs = wavs[:, : self.most_samples]
            lengths = lengths.clamp(max=self.most_samples)
        return wavs, lengths

    def _score(self, clip, texts, device):
        """Score one clip, [1, ...]; a long file is not read whole."""
        if not isinstance(clip, Recording):
            return self(clip[None].to(device), texts=texts)
        text = self._read_texts(texts, [clip])
        length = min(len(clip), self.most_samples)
        count = -(-length // self.encoder.max_samples)
        windows = (window.to(device) for window in clip.windows(length, count))
        mean = window_mean(self.encoder, windows, self.head, text)
        return self.rescale(mean[None])

    def _read_texts(self, texts, clips):
        """Hidden states and tokens of texts; nothing without text encoder."""
        if not self.text_encoder:
            return ()
        return self.text_encoder(_one_each(texts, clips) or [""] * len(clips))

    def rescale(self, scores):
        """Turn a head's scores, [B, classes + dimensions], to corpus scale."""
        if not self.dimensions:
            return scores
        logits, values = scores.float().tensor_split([len(self.classes)], 1)
        scale = torch.tensor([*self.dimensions.values()], device=values.device)
        mean, deviation = scale.unbind(1)
        return torch.cat([logits, mean + deviation * values], 1)

    @torch.no_grad()
    def predict(self, recordings, texts=None):
        """Name the emotion of each recording.

        Arguments
        ---------
        recordings : list of str, Path, numpy.ndarray or torch.Tensor
            Audio files of any rate, or 16 kHz mono samples in [-1, 1], [T].
            Oddities of a file are logged, see `read_audio`.
        texts : list of str, optional
            See `forward`.

        Returns
        -------
        list of dict
            A model with classes gives ``label``; ``scores``, the calibrated
            probability of every class, softmax of the logits over the
            temperature (``<class>_calibrated`` in ``predictions.csv``); and
            ``uncalibrated``, the same without temperature (``<class>``
            there). A model with dimensions gives ``dimensions``, as
            ``{"arousal": 3.2}``, on the scale of the corpus.

        Raises
        ------
        InputError
            If files or arrays cannot be used (all are named; give them one by
            one to have the answers for the others), or scores are NaN or
            infinite.
        """
        if isinstance(recordings, (str, Path)):
            recordings = [recordings]
            texts = texts if texts is None else [texts]
        texts = _one_each(texts, recordings)
        self.eval()
        device = next(self.head.parameters()).device
        answers, broken = [], {}
        for number, recording in enumerate(recordings):
            file = isinstance(recording, (str, Path))
            name = str(recording) if file else f"recordings[{number}]"
            text = texts and [clean_text(texts[number] or "")]
            clip = ()
            try:
                clip = _clip(recording, name)
                scores = self._score(clip, text, device)
            except InputError as error:
                broken[name] = str(error)
                continue
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                seconds = len(clip) / SAMPLE_RATE
                raise InputError(
                    f"{name}: memory ran out"
                    + f" on its {seconds:.1f} s" * bool(seconds)
                    + "; cut it, or take a machine with more memory"
                ) from error
            check_scores(scores, name)
            answers.append(self._answer(scores[0]))
        if broken:
            raise InputError(summary(broken, len(recordings)))
        return answers

    def _answer(self, scores):
        logits, values = scores.tensor_split([len(self.classes)])
        answer = {}
        if self.classes:
            answer["label"] = self.classes[int(logits.argmax())]
            for key, temperature in (
                ("scores", self.temperature),
                ("uncalibrated", 1.0),
            ):
                chances = (logits / temperature).softmax(-1).tolist()
                answer[key] = dict(zip(self.classes, chances, strict=True))
        if self.dimensions:
            named = zip(self.dimensions, values.tolist(), strict=True)
            answer["dimensions"] = dict(named)
        return answer

    def save(self, folder, heard=None):
        """Write adapter, head and a description: all that inference needs.

        Arguments
        ---------
        folder : str or Path
            Folder for ``adapter/`` (Hugging Face PEFT layout),
            ``text_adapter/`` (if there is a text encoder),
            ``head.safetensors``, ``model.json``, and ``manifest.json``, which
            lists them; replaced if it exists.
        heard : ser_peft.data.provenance.Heard, optional
            Speakers that the model has heard, for ``heard.json``.
        """
        about = {
            "format": FORMAT,
            "backbone": self.encoder.lobe.source,
            "depth": self.encoder.lobe.depth,
            "frame_stride": self.encoder.lobe.frame_stride,
            "classes": self.classes,
            "head": type(self.head).__name__,
            "head_settings": self.head.settings,
            "temperature": self.temperature,
            "dimensions": self.dimensions,
            "first_seconds": self.first_seconds,
            "unsure": self.unsure,
        }
        with atomic_path(folder) as tmp:
            tmp.mkdir()
            self.encoder.export(tmp / "adapter")
            if self.text_encoder:
                self.text_encoder.export(tmp / "text_adapter")
                lobe = self.text_encoder.lobe
                about |= {
                    "text_backbone": lobe.source,
                    "text_depth": lobe.depth,
                }
            self.head.save(tmp / "head.safetensors")
            write_json(tmp / "model.json", about)
            if heard:
                heard.write(tmp)
            seal(tmp, identities(self.encoders))


def check_scores(scores, name):
    """Refuse scores that have no probabilities.

    Arguments
    ---------
    scores : torch.Tensor
        From `EmotionModel.forward`, [B, ...].
    name : str
        Name of the clips, for the message.

    Raises
    ------
    InputError
        If one is NaN, infinite or near it.
    """
    if not (scores.abs() < LARGEST_SCORE).all():
        raise InputError(
            f"{name}: the model scores it {scores.flatten().tolist()[:8]}: its "
            "weights are damaged, or its training went astray; copy it again, "
            "or train it again with a lower learning rate"
        )


def identities(encoders):
    """Sources and hashes of encoders, for the manifest of a model folder.

    Arguments
    ---------
    encoders : dict of str to PeftLobe
        See `EmotionModel.encoders`.

    Returns
    -------
    dict
        For `ser_peft.storage.closed.seal`.
    """
    return {
        name.replace("encoder", "backbone"): {
            "source": encoder.lobe.source,
            **(encoder.lobe.identity or {}),
        }
        for name, encoder in encoders.items()
    }


def _clip(recording, name):
    """`Recording` of a long file; all else as 16 kHz mono, checked, [T]."""
    if isinstance(recording, (str, Path)):
        clip = Recording(name, warn=True)
        return clip.read() if clip.held else clip
    wav = recording
    if not torch.is_tensor(wav):
        try:
            wav = np.asarray(wav)
            if wav.dtype.kind == "f":
                # A copy: torch takes no array of foreign byte order, read
                # backwards, or read-only.
                wav = torch.from_numpy(np.array(wav, np.float32, order="C"))
        except ValueError as error:  # lists of several lengths
            raise InputError(f"{name}: is no array ({error})") from error
    if wav.ndim != 1 or not (torch.is_tensor(wav) and wav.is_floating_point()):
        raise InputError(
            f"{name}: {wav.dtype} {list(wav.shape)}; give 16 kHz mono "
            "samples [T], floats in [-1, 1]"
        )
    wav = wav.float()
    check_samples(wav, SAMPLE_RATE, name)
    return wav


def _one_each(texts, clips):
    """Texts, refused unless there is one a clip, or none at all."""
    if texts and len(texts) != len(clips):
        raise InputError(
            f"texts: {len(texts)} for {len(clips)} recordings; give one each, "
            '"" where none is known'
        )
    return texts
