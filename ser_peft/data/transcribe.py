"""Transcripts by Whisper, for recordings of a corpus that has none."""

import os
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import (
    AutoTokenizer,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from ser_peft.corpora.transcripts import text_sources
from ser_peft.data import read_manifests
from ser_peft.data.audio import SAMPLE_RATE, read_audio
from ser_peft.data.manifests import path_of
from ser_peft.errors import InputError, out_of_memory
from ser_peft.io import write_json
from ser_peft.lobes.configs import commit_of, read_config
from ser_peft.lobes.lean import make_lean
from ser_peft.lobes.transformer import quiet

__all__ = ["Transcriber", "transcribe"]

BATCH = 16
MULTILINGUAL = 51865
"""Vocabulary size of the smallest Whisper that knows several languages."""


class Transcriber:
    """Whisper with its decoder and tokenizer; greedy, without time stamps.

    Paper: Radford et al. 2023, "Robust speech recognition via large-scale
    weak supervision".

    Arguments
    ---------
    checkpoint : str or Path
        Hugging Face id or local folder, safetensors weights.
    device : str
        Device to run on.
    language : str, optional
        Language of the speech, as ``en``. Without it a checkpoint of several
        languages guesses, which goes wrong in short clips.

    Raises
    ------
    InputError
        If it is not a whole Whisper, or does not know the language.
    """

    def __init__(self, checkpoint, device="cpu", language=None):
        source = str(checkpoint)
        pinned = {"revision": commit_of(source)}
        config = read_config(source, **pinned)
        if config.model_type != "whisper":
            raise InputError(
                f"checkpoint {source}: '{config.model_type}' does not "
                "transcribe; give a whisper"
            )
        with quiet():
            try:
                self.tokenizer = AutoTokenizer.from_pretrained(
                    source, trust_remote_code=False, **pinned
                )
                model, report = WhisperForConditionalGeneration.from_pretrained(
                    source,
                    config=config,
                    dtype=torch.float32,
                    trust_remote_code=False,
                    use_safetensors=True,
                    output_loading_info=True,
                    **pinned,
                )
            except Exception as error:  # a tokenizer's has no class
                if out_of_memory(error):
                    raise
                raise InputError(
                    f"checkpoint {source}: cannot be read ({error}); give a "
                    "Hugging Face id, or a folder with config.json, "
                    "model.safetensors and tokenizer.json"
                ) from error
        if missing := sorted(report["missing_keys"]):
            raise InputError(
                f"checkpoint {source}: model.safetensors lacks {len(missing)} "
                f"tensors ({missing[0]}, ...); give a whole Whisper, with its "
                "decoder"
            )
        self._prepare(model, source, language)
        make_lean(model)
        self.model = model.eval().to(device)
        self.extractor = WhisperFeatureExtractor(config.num_mel_bins)

    def _prepare(self, model, source, language):
        """Complete the settings of the decoding."""
        settings = model.generation_config
        if not hasattr(settings, "no_timestamps_token_id"):
            if model.config.vocab_size >= MULTILINGUAL:
                raise InputError(
                    f"checkpoint {source}: no generation_config.json, which "
                    "says where its languages are; copy it from the original"
                )
            settings.is_multilingual = False
            tokens = self.tokenizer.get_vocab()
            if "<|notimestamps|>" not in tokens:
                raise InputError(
                    f"checkpoint {source}: its tokenizer has no "
                    "<|notimestamps|>; give Whisper's own"
                )
            settings.no_timestamps_token_id = tokens["<|notimestamps|>"]
        known = [name[2:-2] for name in getattr(settings, "lang_to_id", ())]
        if language is not None and language not in known:
            raise InputError(
                f"--language {language}: {source} takes "
                f"{', '.join(sorted(known)) or 'none, it knows but one'}"
            )
        if known:
            settings.language, settings.task = language, "transcribe"
        settings.return_timestamps = False
        settings.do_sample, settings.num_beams = False, 1
        # As OpenAI's; the other half is for what was said before.
        settings.max_length = None
        settings.max_new_tokens = model.config.max_target_positions // 2

    @torch.no_grad()
    def __call__(self, wavs):
        """Transcribe recordings.

        Arguments
        ---------
        wavs : list of torch.Tensor
            16 kHz mono, [T]. Longer ones than 30 s are cut into equal parts.

        Returns
        -------
        list of str
            A text for each; empty where nothing is heard.
        """
        limit = self.extractor.n_samples
        parts = [wav.tensor_split(-(-len(wav) // limit)) for wav in wavs]
        flat = [part.numpy() for several in parts for part in several]
        texts = []
        for start in range(0, len(flat), BATCH):
            mel = self.extractor(
                flat[start : start + BATCH],
                sampling_rate=SAMPLE_RATE,
                return_tensors="pt",
            ).input_features
            with quiet():
                tokens = self.model.generate(mel.to(self.model.device))
            texts += self.tokenizer.batch_decode(
                tokens, skip_special_tokens=True
            )
        texts = iter(texts)
        return [
            " ".join(" ".join(next(texts) for _ in several).split())
            for several in parts
        ]


def transcribe(
    manifests, checkpoint, device="cpu", replace=False, language=None
):
    """Write transcripts into the entries of manifests that have none.

    The manifests still fit the same request: a training keeps them. Nothing
    is written if this is stopped.

    Arguments
    ---------
    manifests : str or Path
        Folder that `ser_peft.data.prepare` wrote.
    checkpoint, device, language
        See `Transcriber`.
    replace : bool
        Replace transcripts that are there too.

    Returns
    -------
    dict
        Split -> its `text_sources`.

    Raises
    ------
    InputError
        If the manifests, the checkpoint, the language or a recording cannot
        be used.
    """
    about, splits = read_manifests(manifests)
    # Only the last name of a folder: its place means nothing to others.
    source = str(checkpoint)
    if os.path.isdir(source):
        source = Path(source).resolve().name
    chosen = [
        entry
        for entries in splits.values()
        for entry in entries.values()
        if replace or not entry.get("text", "").strip()
    ]
    # Texts of one length take as many steps; the largest batch comes first.
    chosen.sort(key=lambda entry: -entry["duration"])
    if chosen:
        whisper = Transcriber(checkpoint, device, language)
    with tqdm(
        total=len(chosen), desc="transcribing", unit="clip", disable=None
    ) as bar:
        for start in range(0, len(chosen), BATCH):
            batch = chosen[start : start + BATCH]
            wavs = [read_audio(path_of(entry, about)) for entry in batch]
            for entry, text in zip(batch, whisper(wavs), strict=True):
                entry |= {"text": text, "text_source": source}
                if not text:
                    del entry["text"], entry["text_source"]
            bar.update(len(batch))
    if chosen:
        for split, entries in splits.items():
            write_json(Path(manifests) / f"{split}.json", entries)
    return {
        split: text_sources(entries.values())
        for split, entries in splits.items()
    }
