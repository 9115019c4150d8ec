"""A trained run, or a released model -> the emotions of a recording."""

import inspect
import logging
import math
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from huggingface_hub.utils import HFValidationError, validate_repo_id
from torch import nn

from ser_peft.adapters import load_adapter
from ser_peft.adapters.folder import CONFIG, refuse_nonfinite, several
from ser_peft.corpora.transcripts import clean_text
from ser_peft.data.audio import SAMPLE_RATE, Recording, check_samples
from ser_peft.data.checking import summary
from ser_peft.errors import InputError, out_of_memory
from ser_peft.heads import HEADS
from ser_peft.heads.fusion import FUSIONS
from ser_peft.io import atomic_path, write_json
from ser_peft.lobes import load_lobe, load_text
from ser_peft.lobes.configs import SCRATCH
from ser_peft.lobes.transformer import weights_of
from ser_peft.storage.checkpoints import load_tensors
from ser_peft.storage.closed import MANIFEST, check_signature, seal
from ser_peft.storage.closed import verify as verify_folder
from ser_peft.storage.model_files import ModelFile
from ser_peft.storage.released import find, is_name, is_registered
from ser_peft.storage.schema import fit, read_json

__all__ = [
    "EmotionModel",
    "by_window",
    "check_scores",
    "identities",
    "load_model",
    "read_model",
]

logger = logging.getLogger(__name__)

FORMAT = 1
"""Of model.json; higher where an older ser_peft cannot read a model."""
TOGETHER = 30 * SAMPLE_RATE
"""Samples of the windows that are encoded at once: base-sized wav2vec 2.0 and
its kin take 0.7 GB for these, most of it in the first convolution."""
LARGEST_SCORE = 1e30
"""Larger ones may become infinite by the temperature."""


def by_window(encoder, wavs, lengths, score, text=()):
    """Apply an encoder and what follows it to clips of any length.

    A clip longer than `encoder.max_samples` is cut into equal windows, and
    what they give is averaged. So many windows are encoded at once that the
    memory does not grow with the clip.

    Arguments
    ---------
    encoder : PeftLobe or SpeechLobe
        Waveforms to hidden states.
    wavs : torch.Tensor
        16 kHz mono, [B, T].
    lengths : torch.Tensor
        Valid samples of each clip, [B].
    score : callable
        Takes hidden states [L + 1, B, T', C] and valid frames [B], then
        `text`, gives [B, ...].
    text : tuple of torch.Tensor
        Hidden states and tokens of the clips' texts, if they have any.

    Returns
    -------
    torch.Tensor
        [B, ...].
    """
    limit = encoder.max_samples
    if int(lengths.max()) <= limit:
        return score(*encoder(wavs, lengths / wavs.shape[1]), *text)
    means = []
    for i, (wav, length) in enumerate(zip(wavs, lengths.tolist(), strict=True)):
        windows = wav[:length].tensor_split(-(-length // limit))
        beside = ()
        if text:
            states, tokens = text
            beside = states[:, i : i + 1], tokens[i : i + 1]
        means.append(_mean(encoder, windows, score, beside))
    return torch.stack(means)


def _mean(encoder, windows, score, text=()):
    """What the windows of one clip give, see `by_window`; the mean, [...].

    No more of them are held at once than are encoded together.
    """
    parts, windows = [], iter(windows)
    while some := [*islice(windows, 1)]:
        some += islice(windows, max(1, TOGETHER // len(some[0])) - 1)
        sizes = torch.tensor([len(window) for window in some])
        batch = nn.utils.rnn.pad_sequence(some, batch_first=True)
        beside = ()
        if text:
            states, tokens = text
            beside = (
                states.expand(-1, len(some), -1, -1),
                tokens.expand(len(some)),
            )
        parts.append(by_window(encoder, batch, sizes, score, beside))
    return torch.cat(parts).mean(0)


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
        Names, in the order of the scores; empty for dimensions alone.
    temperature : float
        Of `predict`'s probabilities, fitted on the valid set (Guo et al.,
        2017).
    dimensions : dict
        Name, as ``arousal``, in the order of the scores -> mean and standard
        deviation in the training set, between which and 0 and 1 the head's
        answers are converted.
    text_encoder : PeftLobe, optional
        Of what is said, for a head of `ser_peft.heads.fusion`.
    first_seconds : float, optional
        Of longer clips it hears the beginning alone, as in its training.
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
    ):
        super().__init__()
        self.encoder = encoder
        self.text_encoder = text_encoder
        self.head = head
        self.classes = list(classes)
        self.temperature = temperature
        self.dimensions = dict(dimensions)
        self.first_seconds = first_seconds

    @property
    def encoders(self):
        """Attribute -> PeftLobe: of speech, and of text where it reads."""
        encoders = {"encoder": self.encoder, "text_encoder": self.text_encoder}
        return {name: one for name, one in encoders.items() if one}

    @property
    def sample_rate(self):
        """Of the waveforms it takes, in Hz."""
        return self.encoder.sample_rate

    def forward(self, wavs, lengths=None, texts=None):
        """Score clips.

        Arguments
        ---------
        wavs : torch.Tensor
            16 kHz mono, [B, T].
        lengths : torch.Tensor, optional
            Valid samples of each clip, [B]; all of T where absent.
        texts : list of str, optional
            What is said in each clip, "" where that is not known; for a
            model with a text encoder, no other reads them.

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
        """The vectors that the head scores, [B, D]; see `forward`."""
        return self.by_clip(self.head.embed, wavs, lengths, texts)

    def merge(self):
        """Fold adapters into their encoders where they can be: less to do.

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

    def _score(self, clip, texts, device):
        """`forward` of one clip, [1, ...]; a long file is not read whole."""
        if not isinstance(clip, Recording):
            return self(clip[None].to(device), texts=texts)
        text = self._read_texts(texts, [clip])
        length = min(len(clip), self.most_samples)
        count = -(-length // self.encoder.max_samples)
        windows = (window.to(device) for window in clip.windows(length, count))
        return self.rescale(_mean(self.encoder, windows, self.head, text)[None])

    def _read_texts(self, texts, clips):
        """What a text encoder gives, none without one."""
        if not self.text_encoder:
            return ()
        return self.text_encoder(_one_each(texts, clips) or [""] * len(clips))

    @property
    def most_samples(self):
        """So much of a clip is heard, `first_seconds`."""
        if self.first_seconds is None:
            return math.inf
        return int(self.first_seconds * self.sample_rate)

    def heard(self, wavs, lengths):
        """Waveforms [B, T] and samples [B], cut to `first_seconds`."""
        if self.first_seconds is None:
            return wavs, lengths
        return wavs[:, : self.most_samples], lengths.clamp(
            max=self.most_samples
        )

    def rescale(self, scores):
        """Give what a head says, [B, classes + dimensions], its own scale."""
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
            What is odd about a file is logged, see `read_audio`.
        texts : list of str, optional
            See `forward`.

        Returns
        -------
        list of dict
            Of a model with classes ``label``; ``scores``, the calibrated
            probability of every class, softmax of the logits over the
            temperature (``<class>_calibrated`` in ``predictions.csv``); and
            ``uncalibrated``, as trained, without temperature (``<class>``
            there). Of one with
            dimensions ``dimensions``, as ``{"arousal": 3.2}`` on the scale
            of the corpus.

        Raises
        ------
        InputError
            If files or arrays cannot be used; names all of them. Give them
            one by one to have the answers for the others. If the scores are
            NaN or infinite.
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
        """Write what inference needs: adapter, head and a description.

        Arguments
        ---------
        folder : str or Path
            Gets ``adapter/`` (Hugging Face PEFT layout), where there is a
            text encoder ``text_adapter/``, ``head.safetensors``,
            ``model.json``, and ``manifest.json`` of all of them; replaced if
            it exists.
        heard : ser_peft.data.provenance.Heard, optional
            Whom the model has heard, for ``heard.json``.
        """
        with atomic_path(folder) as tmp:
            tmp.mkdir()
            self.encoder.export(tmp / "adapter")
            text = {}
            if self.text_encoder:
                self.text_encoder.export(tmp / "text_adapter")
                lobe = self.text_encoder.lobe
                text = {"text_backbone": lobe.source, "text_depth": lobe.depth}
            self.head.save(tmp / "head.safetensors")
            write_json(
                tmp / "model.json",
                {
                    "format": FORMAT,
                    "backbone": self.encoder.lobe.source,
                    "depth": self.encoder.lobe.depth,
                    "frame_stride": self.encoder.lobe.frame_stride,
                    **text,
                    "classes": self.classes,
                    "head": type(self.head).__name__,
                    "head_settings": self.head.settings,
                    "temperature": self.temperature,
                    "dimensions": self.dimensions,
                    "first_seconds": self.first_seconds,
                },
            )
            if heard:
                heard.write(tmp)
            seal(tmp, identities(self.encoders))


def check_scores(scores, name):
    """Refuse scores that no probability comes of.

    Arguments
    ---------
    scores : torch.Tensor
        From `EmotionModel.forward`.
    name : str
        What was scored, for the message.

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
    """What the manifest of a model folder says of its encoders.

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
    """A long file's `Recording`; all else as 16 kHz mono, checked, [T]."""
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
    """`texts`, refused unless there is one a clip, or none at all."""
    if texts and len(texts) != len(clips):
        raise InputError(
            f"texts: {len(texts)} for {len(clips)} recordings; give one each, "
            '"" where none is known'
        )
    return texts


def read_model(folder, save_path=""):
    """Read what a trained model says of itself.

    Arguments
    ---------
    folder : str or Path
        The ``model/`` folder of a run, the run's folder, or a name that
        `ser_peft.storage.released.find` knows.
    save_path : str
        Where a download is kept.

    Returns
    -------
    folder : Path
        The ``model/`` folder.
    about : dict
        ``model.json``; ``head`` is the class. ``encoders`` is what the
        manifest says of them, None without one; ``proven``, whether manifest
        or registry have the hashes of all files.

    Raises
    ------
    InputError
        If there is none, it is not understood, or a file is not as the
        manifest says.
    """
    proven = is_registered(folder)
    folder = Path(find(folder, save_path) if is_name(folder) else folder)
    if (folder / "model" / "model.json").exists():
        if (folder / "model").is_symlink():
            raise InputError(
                f"{folder / 'model'}: is a link; give the folder itself"
            )
        folder = folder / "model"
    encoders = verify_folder(folder)
    path = folder / "model.json"
    how = "describes no model", "save it again"
    missing = "give a finished run or its model/ folder"
    written = read_json(path, dict[str, object], *how, missing)
    if isinstance(written.get("format"), int) and written["format"] != FORMAT:
        raise InputError(
            f"{path}: format {written['format']}, this ser_peft reads "
            f"{FORMAT}; install the one that wrote it"
        )
    described = fit(path, written, ModelFile, *how)
    about = described.model_dump()
    if "text_backbone" not in described.model_fields_set:
        del about["text_backbone"], about["text_depth"]
    kind = about["head"]
    about["head"] = (HEADS | FUSIONS).get(kind)
    wrong = _wrong_head(about)
    if len({*about["classes"]}) < len(about["classes"]):
        wrong = f"classes: {about['classes']}: one is there twice"
    if not about["classes"] and not about["dimensions"]:
        wrong = "classes: []: neither classes nor dimensions"
    if wrong:
        raise InputError(f"{path}: {how[0]} ({wrong}); {how[1]}")
    return folder, {
        **about,
        "encoders": encoders,
        "proven": proven or encoders is not None,
    }


def _wrong_head(about):
    """What does not fit of a described head, if anything."""
    head = about["head"]
    if head is None:
        return f"head: unknown; it must be one of {', '.join(HEADS | FUSIONS)}"
    takes = {
        name
        for kind in head.__mro__
        for name in inspect.signature(kind.__init__).parameters
    }
    for key, value in about["head_settings"].items():
        if key not in takes:
            return f"head_settings.{key}: {value!r}: {head.__name__} has none"
    if (head.__name__ in FUSIONS) != ("text_backbone" in about):
        return f"head: {head.__name__}: fusions and a text_backbone go together"
    return None


def _encoder(folder, about, key, given, load, save_path, **how):
    """Load an encoder: the given one, or the very one of the training."""
    identity = (about["encoders"] or {}).get(key, {})
    if given:
        lobe = load(given, save_path, **how)
        found = (lobe.identity or {}).get("sha256")
        if found and found != identity.get("sha256", found):
            logger.warning(
                "--%s %s: has other weights than the encoder that %s was "
                "trained in", key, given, folder,
            )  # fmt: skip
        return lobe
    path, place = folder / "model.json", about[key]
    if place is None:
        raise InputError(
            f"{path}: {key}: null: its encoder was a folder of the machine "
            f"that trained it; give it as --{key}"
        )
    advice = f"give --{key} if you know the right one"
    if Path(place).is_absolute():
        # Older models have no manifest; what was registered is vouched for.
        old = about["encoders"] is None and (
            about["proven"] or _adapter_names(folder, key, place)
        )
        if "sha256" not in identity and not old:
            raise InputError(
                f"{path}: {key}: {place}: is outside of the model's folder, "
                f"and nothing says what was in it; {advice}"
            )
        found = weights_of(place)
        if found and found != identity.get("sha256", found):
            raise InputError(
                f"{path}: {key}: {place}: has other weights than when the "
                f"model was trained ({MANIFEST} has their SHA-256); restore "
                f"them, or give --{key} to take others"
            )
    elif (folder / place).is_dir():
        place = str(folder / place)  # a merged one, proven with the rest
    elif place not in SCRATCH or key != "backbone":
        try:
            validate_repo_id(place)
        except HFValidationError as error:
            raise InputError(
                f"{path}: {key}: {place}: is neither a folder in the model's "
                f"own nor a Hugging Face id; {advice}"
            ) from error
        if Path(place).exists():
            raise InputError(
                f"{path}: {key}: {place}: means the one of the Hugging Face "
                f"hub, and a file or folder here has its name; {advice}, or "
                "go to another folder"
            )
    return load(place, save_path, revision=identity.get("commit"), **how)


def _adapter_names(folder, key, place):
    """Whether the adapter was trained in the encoder that is named."""
    adapter = folder / key.replace("backbone", "adapter")
    paths = [one / CONFIG for one in several(adapter)]
    wrong, advice = "is no adapter configuration", "export the adapter again"
    configs = [
        read_json(path, dict[str, object], wrong, advice) for path in paths
    ]
    return bool(configs) and all(
        config.get("base_model_name_or_path") == place for config in configs
    )


def load_model(
    folder,
    backbone=None,
    save_path="",
    device="cpu",
    text_backbone=None,
    verify=None,
):
    """Load a trained model for inference, in float32.

    Whatever it was trained in: in bf16 a clip's scores would move by up to
    0.01 from one kind of device to another, and by 0.001 with its batch
    mates. The test of a training is computed alike (``eval_precision``).

    Arguments
    ---------
    folder : str or Path
        The ``model/`` folder of a run, the run's folder, or the name of a
        released model: see `ser_peft.storage.released`.
    backbone : str, optional
        Where the encoder is now, if not where training found it. Other
        weights than those of the training are taken then, with a warning.
    save_path : str
        Where a download is kept.
    device : str
        Where to put the model.
    text_backbone : str, optional
        Where the text encoder is now, of a model that has one.
    verify : str or Path, optional
        Public key (PEM) of who must have signed the folder, see
        `ser_peft.storage.closed.sign`.

    Returns
    -------
    EmotionModel
        In eval mode.

    Raises
    ------
    InputError
        If the folder is not a model, a file or the encoder is not as its
        manifest says, it does not fit the backbone, or a weight is NaN or
        infinite.

    Example
    -------
    >>> model = load_model("results/whisper_lora")  # doctest: +SKIP
    >>> model.predict(["clip.wav"])[0]["label"]  # doctest: +SKIP
    'happy'
    """
    folder, about = read_model(folder, save_path)
    if verify:
        check_signature(folder, verify)
    elif not about["proven"]:
        logger.warning(
            "%s: has no %s, as older versions wrote none: nothing proves that "
            "its files are whole and as they were written", folder, MANIFEST,
        )  # fmt: skip
    lobe = _encoder(
        folder, about, "backbone", backbone, load_lobe, save_path,
        depth=about["depth"], frame_stride=about["frame_stride"],
    )  # fmt: skip
    encoder = load_adapter(lobe, folder / "adapter")
    text = {}
    if "text_backbone" in about:
        lobe = _encoder(
            folder, about, "text_backbone", text_backbone, load_text,
            save_path, depth=about["text_depth"],
        )  # fmt: skip
        text = {"text_encoder": load_adapter(lobe, folder / "text_adapter")}
    classes, dimensions = about["classes"], about["dimensions"]
    head = about["head"](
        encoder, len(classes), len(dimensions), **text, **about["head_settings"]
    )
    load_tensors(head, folder / "head.safetensors")
    refuse_nonfinite(head.state_dict(), folder / "head.safetensors")
    for one in (encoder, *text.values()):
        refuse_nonfinite(one.state_dict(), one.lobe.source)
    model = EmotionModel(
        encoder,
        head,
        classes,
        about["temperature"],
        dimensions,
        first_seconds=about["first_seconds"],
        **text,
    )
    return model.eval().to(device)
