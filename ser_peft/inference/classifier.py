"""A model as SpeechBrain's `EncoderClassifier`: wave, embedding, posteriors."""

import torch
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.inference.classifiers import EncoderClassifier
from speechbrain.utils.fetching import FetchConfig, FetchSource
from speechbrain.utils.parameter_transfer import Pretrainer
from torch import nn

from ser_peft.data.audio import read_audio, resample
from ser_peft.errors import InputError
from ser_peft.inference.loading import load_model
from ser_peft.io import SAMPLE_RATE
from ser_peft.lobes import lengths_in_samples

__all__ = [
    "AsIs",
    "Embedding",
    "EmotionClassifier",
    "ModelLoader",
    "Normalizer",
    "Posteriors",
]


class AsIs(nn.Module):
    """Normalisation that changes nothing: the model has its own."""

    def forward(self, features, lengths=None):
        """Return the features."""
        return features


class Embedding(nn.Module):
    """Waveforms to the vectors that the head scores.

    `ModelLoader` gives it its ``model``.
    """

    def __init__(self):
        super().__init__()
        self.model = None

    def forward(self, wavs, wav_lens):
        """Embed waveforms.

        Arguments
        ---------
        wavs : torch.Tensor
            16 kHz mono, [B, T].
        wav_lens : torch.Tensor
            Lengths relative to T, [B].

        Returns
        -------
        torch.Tensor
            [B, 1, D]. Those of the windows of a long clip are averaged.
        """
        lengths = lengths_in_samples(wavs, wav_lens).cpu()
        return self.model.embed(wavs, lengths)[:, None]


class Posteriors(nn.Module):
    """Embeddings to logarithms of the classes' calibrated probabilities.

    `ModelLoader` gives it its ``model``.
    """

    def __init__(self):
        super().__init__()
        self.model = None

    def forward(self, embeddings):
        """Turn embeddings, [B, 1, D], into log-posteriors, [B, 1, classes]."""
        return self.of_scores(self.model.head.score(embeddings[:, 0]))[:, None]

    def of_scores(self, scores):
        """Turn scores of the model, [B, ...], into log-posteriors."""
        logits = scores[:, : len(self.model.classes)].float()
        return (logits / self.model.temperature).log_softmax(-1)


class Normalizer:
    """Audio of any rate and channels as the model hears it.

    In the place of SpeechBrain's `AudioNormalizer`.
    """

    def __call__(self, audio, sample_rate):
        """Mix and resample.

        Arguments
        ---------
        audio : torch.Tensor
            [T, channels] or [T].
        sample_rate : int
            Its rate, Hz.

        Returns
        -------
        torch.Tensor
            16 kHz mono, [T'].
        """
        mono = audio.mean(1) if audio.ndim > 1 else audio
        wav = resample(mono.float().cpu().numpy(), sample_rate, SAMPLE_RATE)
        return torch.from_numpy(wav).to(audio.device)


class ModelLoader(Pretrainer):
    """`Pretrainer` that loads a whole model folder, checked as ever.

    Arguments
    ---------
    embedding_model : Embedding
        Gets the model.
    classifier : Posteriors
        Gets the model.
    label_encoder : speechbrain.dataio.encoder.CategoricalEncoder
        Gets the classes.
    backbone, text_backbone : str, optional
        See `ser_peft.inference.load_model`.
    """

    def __init__(
        self,
        embedding_model,
        classifier,
        label_encoder,
        backbone=None,
        text_backbone=None,
    ):
        super().__init__()
        self.parts = embedding_model, classifier
        self.label_encoder = label_encoder
        self.places = {"backbone": backbone, "text_backbone": text_backbone}
        self.source = self.revision = None

    def collect_files(
        self, default_source=None, fetch_config=None, local_strategy=None
    ):
        """Remember where the model is, a folder or a name on the hub.

        Arguments
        ---------
        default_source : str, Path or FetchSource
            Folder or name.
        fetch_config : FetchConfig, optional
            Its ``revision`` is that of the hub.
        local_strategy : LocalStrategy, optional
            Unused: a folder is read where it is.
        """
        if isinstance(default_source, FetchSource):
            _, default_source = default_source
        self.source = default_source
        self.revision = (fetch_config or FetchConfig()).revision

    def load_collected(self):
        """Load the model.

        Raises
        ------
        InputError
            See `load_model`; or if the model has no classes.
        """
        model = load_model(
            self.source,
            save_path=str(self.collect_in or ""),
            revision=self.revision,
            **self.places,
        )
        if not model.classes:
            raise InputError(
                f"{self.source}: tells dimensions, and no classes, which "
                "SpeechBrain's classifiers give; load it by ser_peft.load_model"
            )
        for part in self.parts:
            part.model = model
        encoder = self.label_encoder
        encoder.update_from_iterable(model.classes, sequence_input=False)
        encoder.expect_len(len(model.classes))


class EmotionClassifier(EncoderClassifier):
    """Trained model with the interface of SpeechBrain's `EncoderClassifier`.

    ``out_prob`` are logarithms of the calibrated probabilities that `predict`
    gives as ``scores``. Any model folder will do, and no yaml of it is run.
    On a folder that ``ser-peft export --speechbrain`` wrote, SpeechBrain's
    own class answers the same, but for clips that are longer than the
    encoder's longest window (30 s).

    Example
    -------
    >>> classifier = EmotionClassifier.from_hparams(
    ...     "results/whisper_lora"
    ... )  # doctest: +SKIP
    >>> _, _, _, labels = classifier.classify_file("clip.wav")  # doctest: +SKIP
    """

    @classmethod
    def from_hparams(
        cls,
        source,
        savedir=None,
        revision=None,
        backbone=None,
        text_backbone=None,
        **options,
    ):
        """Load a model.

        Arguments
        ---------
        source : str or Path
            See `ser_peft.inference.load_model`.
        savedir : str or Path, optional
            Folder for downloads.
        revision : str, optional
            Commit, branch or tag of a model on the hub.
        backbone, text_backbone : str, optional
            Places of the encoders now, if training found them elsewhere.
        **options
            For `speechbrain.inference.interfaces.Pretrained`, as ``run_opts``.

        Returns
        -------
        EmotionClassifier

        Raises
        ------
        InputError
            See `load_model`; or if the model has no classes.
        """
        embedding, posteriors = Embedding(), Posteriors()
        labels = CategoricalEncoder()
        loader = ModelLoader(
            embedding, posteriors, labels, backbone, text_backbone
        )
        loader.set_collect_in(savedir)
        loader.collect_files(source, FetchConfig(revision=revision))
        loader.load_collected()
        modules = {
            "compute_features": nn.Identity(),
            "mean_var_norm": AsIs(),
            "embedding_model": embedding,
            "classifier": posteriors,
        }
        return cls(modules, {"label_encoder": labels}, **options)

    def load_audio(self, path, savedir=None):
        """Read an audio file as `predict` does: 16 kHz mono, [T]."""
        return read_audio(path, warn=True).to(self.device)

    def encode_batch(self, wavs, wav_lens=None, normalize=False):
        """Embed waveforms, [B, 1, D]; see `EncoderClassifier.encode_batch`.

        Raises
        ------
        InputError
            If asked to `normalize`.
        """
        if normalize:
            raise InputError(
                "normalize: the model has no statistics of its embeddings; "
                "leave it out"
            )
        return super().encode_batch(wavs, wav_lens)

    def classify_batch(self, wavs, wav_lens=None):
        """Classify waveforms.

        Arguments
        ---------
        wavs : torch.Tensor
            16 kHz mono, [B, T] or [T].
        wav_lens : torch.Tensor, optional
            Lengths relative to T, [B]; all of T by default.

        Returns
        -------
        out_prob : torch.Tensor
            Logarithms of the calibrated probabilities, [B, classes].
        score : torch.Tensor
            The largest of each row, [B].
        index : torch.Tensor
            Its class, [B].
        text_lab : list of str
            Its class's name.
        """
        wavs = torch.atleast_2d(wavs).float().to(self.device)
        lengths = lengths_in_samples(wavs, wav_lens).cpu()
        scores = self.mods.embedding_model.model(wavs, lengths)
        out_prob = self.mods.classifier.of_scores(scores)
        score, index = out_prob.max(-1)
        names = self.hparams.label_encoder.decode_torch(index)
        return out_prob, score, index, names

    def classify_file(self, path, **options):
        """Classify an audio file, see `classify_batch`, with B = 1."""
        return self.classify_batch(self.load_audio(path, **options))
