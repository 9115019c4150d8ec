"""Hidden states below what trains: computed once, kept, reused."""

import logging
import math
from contextlib import contextmanager

import speechbrain as sb
import torch
from speechbrain.utils.distributed import if_main_process
from tqdm import tqdm

from ser_peft.data import seeded
from ser_peft.data.audio import SAMPLE_RATE
from ser_peft.errors import InputError
from ser_peft.lobes import lengths_in_samples
from ser_peft.training.base import PeftBrain
from ser_peft.training.states import FrozenStates

__all__ = ["CachingBrain", "rows_of"]

logger = logging.getLogger(__name__)


def rows_of(part, rows):
    """Some rows of a tensor, or items of a list, without a GPU's waiting."""
    if len(rows) == len(part):
        return part
    if not torch.is_tensor(part):
        return [part[i] for i in rows]
    index = torch.tensor(rows).to(part.device, non_blocking=True)
    return part.index_select(0, index)


class CachingBrain(PeftBrain):
    """Computes what lies below the lowest trained layer once a clip.

    For clips that are the same every epoch: those of valid, those of train
    without augmentation, or with ``augmented_versions``. With another
    ``cache_gb`` a training ends alike, but for the rounding of the states.

    Arguments
    ---------
    *args, **kwargs
        See `PeftBrain`. ``augmented_versions``: so many versions of each
        training clip, one an epoch in turn, instead of a new one every
        epoch. ``cache_gb``: RAM of each process for hidden states, GB.
    """

    defaults = PeftBrain.defaults | {
        "augment": False,
        "wav_augment": None,
        "augmented_versions": 0,
        "first_seconds": None,
        "cache_gb": 4,
    }

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.versions = 0
        if self.hparams.augment:
            self.versions = self.hparams.augmented_versions
        self.kept = FrozenStates(self.hparams.cache_gb)
        self.passed = set()
        """Splits, versions and layers whose clips were computed."""

    # ------------------------------------------------------------- a batch

    def this_version(self, wavs, lens, ids):
        """This epoch's augmented version of training clips.

        Arguments
        ---------
        wavs : torch.Tensor
            [B, T].
        lens : torch.Tensor
            Relative to T, [B].
        ids : list of str
            Which clips; those whose states are kept stay as they are.

        Returns
        -------
        wavs, lens : torch.Tensor
            The same for the same clip, version and seed.
        """
        version = self.sets["train"].progress.version
        clips = []
        for id_, wav, length in zip(
            ids, wavs, lengths_in_samples(wavs, lens).tolist(), strict=True
        ):
            clip = wav[None, :length]
            if ("encoder", (id_, version)) not in self.kept:
                whole = torch.ones(1, device=self.device)
                with seeded("augment", version, id_, device=self.device):
                    clip, _ = self.hparams.wav_augment(clip, whole)
                if len(clip) != 1:
                    raise InputError(
                        "augmented_versions: wav_augment makes "
                        f"{len(clip)} clips of one; let it make one, or set "
                        "augmented_versions: 0"
                    )
            clips.append(clip[0])
        sizes = torch.tensor([len(clip) for clip in clips])
        wavs = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
        return wavs, sizes / wavs.shape[1]

    def encode_train(self, wavs, lens, texts, ids):
        """Hidden states and lengths of a training batch, see `encode`."""
        version = self.sets["train"].progress.version
        keys = [(id_, version) for id_ in ids]
        if not self.encoders_frozen:
            return self.encode(wavs, lens, texts, keys, self.modules)
        # Not through DDP where nothing is to be learned.
        for encoder in self.encoders.values():
            encoder.eval()
        with torch.no_grad():
            return self.encode(wavs, lens, texts, keys, self.encoders)

    def encode(self, wavs, lens, texts, keys, modules):
        """Encode a batch; frozen layers only where nothing is kept.

        Arguments
        ---------
        wavs, lens : torch.Tensor
            Clips as of `PeftLobe.forward`; looked at only of those whose
            states are not kept.
        texts : list of str
            What is said in each.
        keys : list of tuple
            Id and version of each clip.
        modules : dict
            Name -> encoder, in DDP or not.

        Returns
        -------
        tuple of torch.Tensor
            Hidden states and frames of the audio; of the text if any.
        """
        states = ()
        inputs = {"encoder": (wavs, lens), "text_encoder": (texts,)}
        for name in self.encoders:
            below = self.below(name, inputs[name], keys)
            states += modules[name](*inputs[name], below=below)
            keys = texts  # the states of a text are kept by what it says
        return states

    def below(self, name, inputs, keys):
        """States of a batch, kept or computed; None if none is kept."""
        missing = [
            i for i, key in enumerate(keys) if (name, key) not in self.kept
        ]
        if len(missing) == len(keys):
            return None
        fresh = None
        if missing:
            some = [rows_of(part, missing) for part in inputs]
            layers = self.frozen_layers(name)
            fresh = self.encoders[name].below(*some, layers=layers)
        return self.kept.batch(name, keys, fresh, self.device)

    # ------------------------------------------------------------ an epoch

    def frozen_layers(self, name):
        """Number of an encoder's frozen lowest layers, or None."""
        encoder = self.encoders[name]
        return (
            encoder.num_layers
            if self.encoders_frozen
            else encoder.frozen_layers
        )

    @property
    def steady(self):
        """Whether nothing below the trained layers is random."""
        quiet = self.encoders_frozen or self.encoder.quiet
        return quiet and bool(self.versions or not self.hparams.augment)

    def unchanging(self, split):
        """Ids of clips that are the same in every epoch."""
        if self.frozen_layers("encoder") is None:
            return set()
        longest = self.encoder.max_samples / SAMPLE_RATE
        if split == "train":
            if not self.steady:
                return set()
            if not self.versions:  # of longer ones a random stretch
                longest = min(longest, self.hparams.max_seconds or math.inf)
        first = self.hparams.first_seconds or math.inf
        return {
            id_
            for id_, entry in self.sets[split].data.items()
            if min(entry["duration"], first) <= longest
        }

    def keep_states(self, stage):
        """Compute what the frozen layers give, where that is not kept yet."""
        split = {sb.Stage.TRAIN: "train", sb.Stage.VALID: "valid"}.get(stage)
        if split is None:
            return
        progress, version = self.sets[split].progress, None
        if split == "train" and self.versions:
            turn = (self.epoch - 1) % self.versions
            version = f"{self.hparams.seed}.{turn}"
        progress.version, progress.kept = version, set()
        for name in self.encoders:
            self.kept.trim(name, self.frozen_layers(name))
        entries = self.sets[split].data
        work = split, version, self.frozen_layers("encoder")
        if work not in self.passed:
            self.passed.add(work)
            wanted = self.unchanging(split)
            if wanted and not any(self.gather([self.kept.full])):
                self.keep_texts({entry["text"] for entry in entries.values()})
                self.keep_clips(split, wanted, version)
        progress.kept = {
            i for i in entries if ("encoder", (i, version)) in self.kept
        }

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """See `sb.Brain.on_stage_end`."""
        super().on_stage_end(stage, stage_loss, epoch)
        self.hear_all()

    def hear_all(self):
        """Give whoever reads the datasets the audio of all clips again."""
        for dataset in self.sets.values():
            dataset.progress.kept = set()

    def keep_texts(self, texts):
        """Keep the states of texts, if their encoder is frozen."""
        encoder = self.encoders.get("text_encoder")
        if encoder is None or self.frozen_layers("text_encoder") is None:
            return
        missing = [
            text
            for text in sorted({*texts, ""}, key=lambda text: (len(text), text))
            if ("text_encoder", text) not in self.kept
        ]
        with self.evaluating(encoder), self.evaluation_ctx:
            for i in range(0, len(missing), 32):
                some = missing[i : i + 32]
                self.kept.put("text_encoder", some, *encoder.below(some))

    def keep_clips(self, split, wanted, version):
        """Keep the states of clips; the processes share the work."""
        layers = self.frozen_layers("encoder")
        # Same batches in every run: a run that was killed goes
        # on with the very same states.
        loader = self.eval_loader(split)
        train = split == "train"
        rounds = max(self.gather([len(loader)]))
        batches = iter(loader)
        ctx = self.training_ctx if train else self.evaluation_ctx
        with self.evaluating(self.encoder), ctx:
            for _ in tqdm(
                range(rounds),
                desc=f"frozen layers, {split}",
                unit="batch",
                disable=self.noprogressbar or not if_main_process(),
            ):
                found = []
                batch = next(batches, None)
                if batch is not None:
                    found = self.compute_below(batch, wanted, version, layers)
                # A process may get any clip of train; of valid, always
                # its own.
                for part in self.gather(found) if train else found:
                    self.kept.put("encoder", *part)
        if self.kept.full:
            logger.warning(
                "cache_gb: %g hold the frozen layers' states of %d clips and "
                "texts; those of the others are computed every epoch",
                self.hparams.cache_gb,
                len(self.kept.clips),
            )

    def compute_below(self, batch, wanted, version, layers):
        """Keys, states and frames of the clips of a batch that are wanted."""
        rows = [
            i
            for i, id_ in enumerate(batch.id)
            if id_ in wanted and ("encoder", (id_, version)) not in self.kept
        ]
        if not rows:
            return []
        ids = [batch.id[i] for i in rows]
        wavs, lens = (rows_of(part, rows) for part in self.audio(batch))
        if version is not None:
            wavs, lens = self.this_version(wavs, lens, ids)
            wavs, lens = self.fitting(wavs, lens)
        states, frames = self.encoder.below(wavs, lens, layers)
        keys = [(id_, version) for id_ in ids]
        return [(keys, states.cpu(), frames)]

    @contextmanager
    def evaluating(self, encoder):
        """An encoder in eval mode, without gradients, and back."""
        mode = encoder.training
        encoder.eval()
        with torch.no_grad():
            yield
        encoder.train(mode)
