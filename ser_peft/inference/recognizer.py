"""What every trained model does with recordings, whatever computes it."""

import math
import os
from contextlib import nullcontext
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np

from ser_peft.errors import InputError, summary
from ser_peft.inference.batches import judge
from ser_peft.inference.clips import several
from ser_peft.io import SAMPLE_RATE

__all__ = ["Recognizer", "check_scores", "progress_bar"]

LARGEST_SCORE = 1e30
"""Larger scores may become infinite by the temperature."""


class Recognizer:
    """Base class of models: recordings to emotions.

    It needs numpy, soundfile and soxr only. A subclass gives `score` and
    these attributes.

    Attributes
    ----------
    classes : list of str
        Names, in the order of the scores; empty for dimensions alone.
    dimensions : dict
        Names in the order of the scores -> mean and standard deviation.
    temperature : float
        Temperature of the probabilities, fitted on the valid set (Guo et
        al., 2017).
    unsure : float or None
        Answers whose highest calibrated probability is lower are unsure.
    first_seconds : float or None
        Hear only the beginning of longer clips, as in training.
    max_samples : int
        Longest window: longer clips are cut into equal ones, whose scores
        are averaged.
    reads_text : bool
        Whether transcripts are read too.
    fingerprint : str
        SHA-256 of the files that it was loaded from; empty for none.
    precision : str
        Precision that it computes in.
    """

    temperature = 1.0
    unsure = None
    first_seconds = None
    max_samples = math.inf
    reads_text = False
    fingerprint = ""
    precision = "fp32"

    sample_rate = SAMPLE_RATE
    """Sample rate of the waveforms, Hz."""

    def score(self, wavs, lengths, texts=None):
        """Score clips of at most `max_samples`.

        Arguments
        ---------
        wavs : numpy.ndarray
            16 kHz mono, zero-padded, float32 [B, T].
        lengths : numpy.ndarray
            Valid samples of each clip, [B].
        texts : list of str, optional
            Transcript of each clip, "" where it is unknown.

        Returns
        -------
        numpy.ndarray
            float32 [B, classes + dimensions]: logits, then the dimensions on
            the scale of the corpus.
        """
        raise NotImplementedError

    @property
    def most_samples(self):
        """Samples of a clip that are heard at most, see `first_seconds`."""
        if self.first_seconds is None:
            return math.inf
        return int(self.first_seconds * self.sample_rate)

    def predict(
        self,
        recordings,
        texts=None,
        batch_seconds=None,
        progress=False,
        top_k=None,
        unsure=None,
    ):
        """Name the emotion of each recording.

        Arguments
        ---------
        recordings : list
            Each one a path of an audio file; 16 kHz mono samples, [T], as an
            array, tensor or list of floats in [-1, 1] or of integers;
            ``(samples, rate)``; ``{"array": samples, "sampling_rate": rate}``;
            the bytes of a file; or an open file. One of these alone is a list
            of one; a 2-D array is a list of clips of equal length. Oddities
            of a file are logged, see `read_audio`.
        texts : list of str, optional
            Transcript of each recording, "" where it is unknown; read only by
            a model with a text encoder.
        batch_seconds : float, optional
            Seconds of audio that are scored at once, padding included.
        progress : bool
            Show a progress bar.
        top_k : int, optional
            Give only so many classes, the likeliest first.
        unsure : float, optional
            Threshold to take in place of the model's own, see `answer`.

        Returns
        -------
        list of dict
            See `answer`.

        Raises
        ------
        InputError
            If recordings cannot be used (all are named; give them one by
            one to have the answers for the others), or scores are NaN or
            infinite.
        """
        texts = [texts] if isinstance(texts, str) else texts
        recordings = several(recordings)
        if not hasattr(recordings, "__len__"):
            recordings = list(recordings)
        total = len(recordings)
        if texts and len(texts) != total:
            raise InputError(
                f"texts: {len(texts)} for {total} recordings; give one each, "
                '"" where none is known'
            )
        items = (
            (
                str(one)
                if isinstance(one, (str, os.PathLike))
                else f"recordings[{number}]",
                one,
                texts and texts[number],
            )
            for number, one in enumerate(recordings)
        )
        answers, broken = [], {}
        with progress_bar(total, progress) as bar:
            for group in self.judged(items, batch_seconds):
                for one in group:
                    if one.problem:
                        broken[one.name] = str(one.problem)
                    else:
                        answer = self.answer(one.scores, top_k, unsure)
                        answers.append(answer)
                bar.update(len(group))
        if broken:
            raise InputError(summary(broken, total))
        return answers

    def stream(
        self,
        window=4.0,
        hop=1.0,
        rate=SAMPLE_RATE,
        unsure=None,
        batch_seconds=None,
    ):
        """Open a stream of audio that comes in pieces.

        Arguments
        ---------
        window, hop, rate, unsure, batch_seconds
            See `ser_peft.inference.streams.Stream`.

        Returns
        -------
        Stream
            ``push(samples)`` returns the windows that became complete,
            ``close()`` the rest.
        """
        from ser_peft.inference.streams import Stream

        return Stream(self, window, hop, rate, unsure, batch_seconds)

    def timeline(
        self,
        recording,
        window=4.0,
        hop=1.0,
        unsure=None,
        batch_seconds=None,
        progress=False,
        name=None,
    ):
        """Follow emotions through a recording of any length.

        Arguments
        ---------
        recording : object
            Path, or whatever else `predict` takes as one recording; files
            longer than half an hour are not held in memory.
        window, hop, unsure, batch_seconds
            See `ser_peft.inference.streams.Stream`.
        progress : bool
            Show a progress bar.
        name : str, optional
            Name of the recording; by default its path.

        Returns
        -------
        Timeline
            Windows, and segments of one emotion each. See
            `ser_peft.inference.timeline`.

        Raises
        ------
        InputError
            If the recording cannot be used, see `read_audio`.
        """
        from ser_peft.inference.timeline import follow

        return follow(
            self, recording, window, hop, unsure, batch_seconds, progress, name
        )

    def judged(self, items, batch_seconds=None):
        """Score recordings, more than fit into a list.

        Arguments
        ---------
        items : iterable of (str, object, str or None)
            Name, recording and text of each.
        batch_seconds : float, optional
            See `predict`.

        Yields
        ------
        list of Judged
            The next ones, in order: name, seconds, and scores or a problem.

        Raises
        ------
        InputError
            If scores are NaN or infinite.
        """
        for group in judge(self, items, batch_seconds):
            for one in group:
                if one.scores is not None:
                    check_scores(one.scores, one.name)
            yield group

    def optimize_for_inference(self, precision="fp32"):
        """Compute as fast as can be; here all is done already."""
        return self

    def answer(self, scores, top_k=None, unsure=None):
        """Put scores into words.

        Arguments
        ---------
        scores : numpy.ndarray
            Of one clip, [classes + dimensions], from `score`.
        top_k : int, optional
            Give only so many classes, the likeliest first.
        unsure : float, optional
            Threshold in place of the model's own.

        Returns
        -------
        dict
            A model with classes gives ``label``; ``scores``, the calibrated
            probability of every class, softmax of the logits over the
            temperature (``<class>_calibrated`` in ``predictions.csv``);
            ``uncalibrated``, the same without temperature (``<class>``
            there); and ``unsure``, if there is a threshold: whether no class
            reaches it. A model with dimensions gives ``dimensions``, as
            ``{"arousal": 3.2}``, on the scale of the corpus.
        """
        logits, values = np.split(
            np.asarray(scores, np.float64), [len(self.classes)]
        )
        answer = {}
        if self.classes:
            answer["label"] = self.classes[int(logits.argmax())]
            order = np.arange(len(logits))
            if top_k is not None:
                order = np.argsort(-logits, kind="stable")[:top_k]
            calibrated = _softmax(logits / self.temperature)
            for key, chances in (
                ("scores", calibrated),
                ("uncalibrated", _softmax(logits)),
            ):
                answer[key] = {
                    self.classes[i]: float(chances[i]) for i in order
                }
            threshold = self.unsure if unsure is None else unsure
            if threshold is not None:
                answer["unsure"] = bool(calibrated.max() < threshold)
        if self.dimensions:
            answer["dimensions"] = dict(
                zip(self.dimensions, values.tolist(), strict=True)
            )
        return answer


def progress_bar(total, shown=True, done=0):
    """Progress bar of recordings, with their rate and the time left.

    Arguments
    ---------
    total, done : int
        Recordings in all, and those that were there before.
    shown : bool
        Without it, the bar that is returned does nothing.
    """
    if not shown or not find_spec("tqdm"):  # where only ONNX files are run
        return nullcontext(SimpleNamespace(update=int))
    from tqdm import tqdm

    return tqdm(total=total, initial=done, unit="file", dynamic_ncols=True)


def _softmax(logits):
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def check_scores(scores, name):
    """Refuse scores that have no probabilities.

    Arguments
    ---------
    scores : numpy.ndarray or torch.Tensor
        From `EmotionModel.forward` or `Recognizer.score`, [...].
    name : str
        Name of the clips, for the message.

    Raises
    ------
    InputError
        If one is NaN, infinite or near it.
    """
    if not (abs(scores) < LARGEST_SCORE).all():
        raise InputError(
            f"{name}: the model scores it {scores.flatten().tolist()[:8]}: its "
            "weights are damaged, or its training went astray; copy it again, "
            "or train it again with a lower learning rate"
        )
