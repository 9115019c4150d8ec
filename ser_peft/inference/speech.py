"""Where in a recording somebody speaks: Silero's detector, without torch.

The detector (https://github.com/snakers4/silero-vad, MIT licence) gives a
probability of speech for each frame of 32 ms and knows what it has heard
before, not what follows. Its weights come with the package ``silero-vad``,
whose Python code, which imports torch, is not used.
"""

import functools
import importlib.util
from pathlib import Path

import numpy as np

from ser_peft.errors import InputError

__all__ = ["FRAME", "SpeechDetector", "stretches"]

FRAME = 512
"""Samples of a frame of the detector at 16 kHz."""
CONTEXT = 64
"""Samples before a frame that the detector hears too."""
AT_ONCE = 512
"""Frames that are computed at once at most."""
ON, OFF = 0.3, 0.15
"""Probability at which speech begins, and below which it ends: lower than
Silero's own, which miss more of shouted and of whispered speech."""
SHORTEST = 8
"""Frames of the shortest speech, 0.26 s: what is shorter is a click."""


class SpeechDetector:
    """Probability of speech, frame by frame, of audio that comes in pieces.

    Raises
    ------
    InputError
        If the detector is not installed.

    Example
    -------
    >>> detector = SpeechDetector()
    >>> silence = np.zeros(16000, np.float32)
    >>> (np.concatenate([detector(silence), detector.close()]) > 0.5).sum()
    np.int64(0)
    """

    def __init__(self):
        self._session = _session()
        self._hidden = self._cell = np.zeros((1, 1, 128), np.float32)
        # The context of the next frame, and what there is of it.
        self._wav = np.zeros(CONTEXT, np.float32)

    def __call__(self, wav):
        """Hear the next samples.

        Arguments
        ---------
        wav : numpy.ndarray
            16 kHz mono, float32 [T], of any length.

        Returns
        -------
        numpy.ndarray
            Probability of each frame that is complete now, float32 [frames].
        """
        wav = np.concatenate([self._wav, wav])
        count = (len(wav) - CONTEXT) // FRAME
        self._wav = wav[count * FRAME :].copy()
        chances = [np.empty(0, np.float32)]
        if count:
            frames = np.lib.stride_tricks.sliding_window_view(
                wav[: count * FRAME + CONTEXT], CONTEXT + FRAME
            )[::FRAME]
            for start in range(0, count, AT_ONCE):
                block = np.ascontiguousarray(frames[start : start + AT_ONCE])
                heard = {"input": block, "h": self._hidden, "c": self._cell}
                some, self._hidden, self._cell = self._session.run(
                    ["speech_probs", "hn", "cn"], heard
                )
                chances.append(some.reshape(-1))
        return np.concatenate(chances)

    def close(self):
        """End the audio.

        Returns
        -------
        numpy.ndarray
            Probability of the frame that was begun, if there is one.
        """
        missing = -(len(self._wav) - CONTEXT) % FRAME
        return self(np.zeros(missing, np.float32))


@functools.cache
def _session():
    """The detector's network, on one thread."""
    try:
        import onnxruntime

        package = importlib.util.find_spec("silero_vad")
        if package is None:
            raise ImportError("no silero-vad", name="silero-vad")
    except ImportError as error:
        raise InputError(
            f"finding speech needs {error.name}: pip install onnxruntime, and "
            "pip install --no-deps 'silero-vad>=6.2.3' (alone, it would "
            "install torch)"
        ) from error
    [folder] = package.submodule_search_locations
    options = onnxruntime.SessionOptions()
    options.inter_op_num_threads = options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        Path(folder) / "data" / "silero_vad_16k_sequence.onnx",
        options,
        providers=["CPUExecutionProvider"],
    )


def stretches(chances, pause):
    """Stretches of speech between pauses.

    Arguments
    ---------
    chances : numpy.ndarray
        Probability of speech of each frame, [frames].
    pause : int
        Frames of the shortest pause; shorter ones are inside of a stretch.

    Returns
    -------
    list of (int, int)
        First frame of each stretch, and the first one after it. A stretch is
        at least `SHORTEST` frames long, or goes on beyond these frames.

    Example
    -------
    >>> chances = np.repeat([0.1, 0.9, 0.1, 0.9, 0.1], [20, 30, 5, 20, 40])
    >>> stretches(chances, pause=16), stretches(chances, pause=4)
    ([(20, 75)], [(20, 50), (55, 75)])
    """
    # Between the two thresholds it stays as it was.
    state = np.where(chances >= ON, 1, np.where(chances < OFF, 0, -1))
    last = np.where(state >= 0, np.arange(len(state)), -1)
    last = np.maximum.accumulate(last)
    speech = np.where(last >= 0, state[last], 0)
    edges = np.flatnonzero(np.diff(speech, prepend=0, append=0))
    found = []
    for start, stop in edges.reshape(-1, 2).tolist():
        if found and start - found[-1][1] < pause:
            found[-1][1] = stop
        else:
            found.append([start, stop])
    return [
        (start, stop)
        for start, stop in found
        if stop - start >= SHORTEST or start == 0 or stop == len(chances)
    ]
