"""Sound files that the tests of audio make."""

import numpy as np
import soundfile


def tone(rate, seconds=0.5):
    """200 and 900 Hz, fading in and out."""
    at = np.arange(round(rate * seconds)) / rate
    wave = np.sin(2 * np.pi * 200 * at) + np.sin(2 * np.pi * 900 * at)
    return 0.2 * wave * np.hanning(len(at))


def samples(*wave, rate=16000):
    def write(path):
        soundfile.write(path, np.concatenate(wave), rate, "FLOAT")

    return write


LOUD = tone(16000)


def cut(path, share=0.5):
    """Leave a share of a file's bytes."""
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
