"""The trained model: encoder, adapter and head; recordings to emotions."""

import torch
from speechbrain.utils.autocast import AMPConfig
from torch import nn

from ser_peft.corpora.transcripts import clean_text
from ser_peft.device import check_precision, choose_precision
from ser_peft.errors import InputError
from ser_peft.inference.recognizer import Recognizer
from ser_peft.inference.windows import by_window
from ser_peft.io import atomic_path, write_json
from ser_peft.storage.closed import seal

__all__ = ["FORMAT", "EmotionModel", "TorchModel", "identities"]

FORMAT = 1
"""Format of model.json; higher where an older ser_peft cannot read it."""


class TorchModel(nn.Module, Recognizer):
    """Base class of models that torch computes.

    A subclass gives `forward`, `merge`, and `encoders`.
    """

    def optimize_for_inference(self, precision="fp32"):
        """Merge adapters where they can be, and choose the precision.

        Scores in bf16 differ from those in float32 by up to 0.01; the labels
        hardly ever. The model can no longer be trained or saved.

        Arguments
        ---------
        precision : str
            "fp32"; "bf16" or "fp16", of `predict` and whatever else calls
            `score`; or "auto", see `ser_peft.device.choose_precision`.

        Returns
        -------
        TorchModel
            This model.

        Raises
        ------
        InputError
            For fp16 on a CPU.
        """
        device = next(self.parameters()).device
        if precision == "auto":
            precision, _ = choose_precision(str(device))
        check_precision("precision", precision, device)
        self.precision = precision
        self.merge()
        self.eval()
        dtype = AMPConfig.from_name(precision).dtype
        if dtype is not torch.float32:
            # Autocast would cast them anew for every batch.
            for name, encoder in self.encoders.items():
                if "text" in name:
                    continue
                for module in encoder.modules():
                    if isinstance(module, (nn.Linear, nn.Conv1d)):
                        module.to(dtype)
        return self

    def score(self, wavs, lengths, texts=None):
        """Score clips by NumPy's arrays, see `Recognizer.score`."""
        return self.computed(self, wavs, lengths, texts)

    def computed(self, function, wavs, lengths, texts):
        """Call a function of tensors as `score` calls the model.

        Arguments
        ---------
        function : callable
            Takes what `forward` takes.
        wavs, lengths, texts
            See `Recognizer.score`.

        Returns
        -------
        numpy.ndarray
            Its result, float32 [B, ...].
        """
        self.eval()
        device = next(self.parameters()).device
        if self.reads_text and texts:
            texts = [clean_text(text) for text in texts]
        dtype = AMPConfig.from_name(self.precision).dtype
        mixed = torch.autocast(
            device.type, dtype, enabled=dtype is not torch.float32
        )
        with torch.no_grad(), mixed:
            wavs = torch.from_numpy(wavs).to(device)
            result = function(wavs, torch.from_numpy(lengths), texts)
        return result.float().cpu().numpy()


class EmotionModel(TorchModel):
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
        Answers whose highest calibrated probability is lower are unsure;
        chosen on the valid set: see
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
        self.origins = []  # see `ser_peft.storage.closed.origins_of`

    @property
    def encoders(self):
        """Attribute -> PeftLobe, for speech and, if there is one, for text."""
        encoders = {"encoder": self.encoder, "text_encoder": self.text_encoder}
        return {name: one for name, one in encoders.items() if one}

    @property
    def max_samples(self):
        """Samples of the longest window."""
        return self.encoder.max_samples

    @property
    def reads_text(self):
        """Whether there is a text encoder."""
        return self.text_encoder is not None

    @property
    def layer_weights(self):
        """Weight of each hidden state in the head's mix, [L + 1]."""
        return self.head.layer_weights.tolist()

    def describe(self):
        """Entries of ``results.json`` that say what the model is."""
        return {
            "backbone": self.encoder.lobe.source,
            "method": self.encoder.method_name,
            "head": type(self.head).__name__,
            "trainable_parameters": {
                "adapter": sum(
                    encoder.num_adapter_parameters
                    for encoder in self.encoders.values()
                ),
                "head": sum(
                    p.numel() for p in self.head.parameters() if p.requires_grad
                ),
            },
            "total_parameters": sum(p.numel() for p in self.parameters()),
        }

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

    def _read_texts(self, texts, clips):
        """Hidden states and tokens of texts; nothing without text encoder."""
        if not self.text_encoder:
            return ()
        return self.text_encoder(_one_each(texts, clips) or [""] * len(clips))

    def rescale(self, scores):
        """Turn a head's scores, [B, classes + dimensions], to corpus scale."""
        if not self.dimensions:
            return scores
        # A head that is being trained may have side classes.
        logits, values = scores.float().tensor_split([-len(self.dimensions)], 1)
        scale = torch.tensor([*self.dimensions.values()], device=values.device)
        mean, deviation = scale.unbind(1)
        return torch.cat([logits, mean + deviation * values], 1)

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
            origins = [*self.origins, *(heard.origins if heard else ())]
            seal(tmp, identities(self.encoders), origins)


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


def _one_each(texts, clips):
    """Texts, refused unless there is one a clip, or none at all."""
    if texts and len(texts) != len(clips):
        raise InputError(
            f"texts: {len(texts)} for {len(clips)} recordings; give one each, "
            '"" where none is known'
        )
    return texts
