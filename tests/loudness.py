"""A model without weights: its scores are a clip's own."""

import numpy as np

from ser_peft.inference.recognizer import Recognizer


class Loudness(Recognizer):
    """Scores a clip by its loudness: what it answers can be known."""

    classes = ["quiet", "loud", "=odd"]
    dimensions = {"arousal": (0.0, 1.0)}
    fingerprint = "loudness"
    max_samples = 30 * 16000

    def __init__(self):
        self.batches = []

    def score(self, wavs, lengths, texts=None):
        """See `Recognizer.score`."""
        self.batches.append(len(wavs))
        rows = []
        for wav, length in zip(wavs, lengths, strict=True):
            assert not wav[length:].any()
            loud = np.abs(wav[:length]).mean()
            rows.append([1 - loud, loud * 4, -5, 10 * loud])
        return np.array(rows, np.float32)
