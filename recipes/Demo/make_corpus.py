#!/usr/bin/env python3
"""Make the Demo corpus: acted emotions by a speech synthesiser.

For trying things out without any licensed corpus. Sixteen voices say four
neutral sentences in four emotions, rendered by the four things a rule-based
synthesiser can change: speaking rate, pitch, pitch range and loudness. The
settings of an utterance are drawn around its emotion's, from distributions
that overlap, and on top of the voice's own, so that no recogniser gets
everything right; background noise is added. What it scores says that the tools
work, and nothing about real emotions.

It needs the synthesiser, which pip brings:

> pip install espeakng-loader
> python make_corpus.py demo_data

writes `demo_data/<voice>/<voice>_<emotion>_<sentence>_<repetition>.flac`
(16 kHz, mono) and `demo_data/rendering.json` with the settings of each clip.
The same arguments make the same files; a corpus that is there is left alone.

eSpeak NG is under the GPL, version 3: it is loaded by this script only, which
runs in a process of its own.
"""

import argparse
import ctypes
import itertools
import json
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import lfilter, resample_poly
from tqdm import tqdm

from ser_peft.corpora.demo import SENTENCES
from ser_peft.errors import InputError, one_line_errors
from ser_peft.io import atomic_path

RATE = 16000  # Hz

# name: (accent, variant) of eSpeak NG. Male and female in turn, so that the
# first n are balanced; accents are spread over both.
VOICES = {
    "m1": ("en-US", "m1"),
    "f1": ("en-US", "f1"),
    "m2": ("en", "m2"),
    "f2": ("en", "f2"),
    "m3": ("en-GB-scotland", "m3"),
    "f3": ("en-GB-scotland", "f3"),
    "m4": ("en-US", "m4"),
    "f4": ("en-US", "f4"),
    "m5": ("en-GB-x-rp", "m5"),
    "f5": ("en-GB-x-rp", "f5"),
    "m6": ("en-GB-x-gbclan", "m6"),
    "f6": ("en-GB-x-gbclan", "steph"),
    "m7": ("en-US", "Alex"),
    "f7": ("en-US", "linda"),
    "m8": ("en-US-nyc", "Mike"),
    "f8": ("en-US-nyc", "aunty"),
}

# Mean of each emotion, in units of the spread between utterances (below).
# The directions are those of acted speech (Scherer 2003, "Vocal communication
# of emotion", Speech Communication 40); the sizes are ours.
EMOTIONS = {
    #          rate  pitch  range  loudness
    "neutral": (0.0, 0.0, 0.0, 0.0),
    "angry": (2.2, 0.9, 1.1, 2.9),
    "sad": (-2.3, -1.8, -1.8, -1.8),
    "happy": (1.2, 2.6, 2.6, 0.5),
}

# Setting: (eSpeak's number, middle, spread between utterances of an emotion,
# spread between voices). Rate and loudness are heard as ratios: their spreads
# are of the logarithm.
SETTINGS = {
    "rate": (1, np.log(182), 0.085, 0.05),  # words a minute
    "pitch": (3, 42, 9, 5),  # 0 to 100
    "range": (4, 48, 12, 8),  # 0 to 100; 0 is monotonous
    "loudness": (2, np.log(30), 0.25, 0.1),  # 100 is eSpeak's normal
}
SNR = (15, 30)  # dB
PAUSE = (0.1, 0.25)  # seconds before and after the sentence


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument("--seed", type=int, default=0, help="0 or more")
    parser.add_argument(
        "--voices", type=int, default=16, help=f"1 to {len(VOICES)}"
    )
    parser.add_argument(
        "--clips", type=int, default=8, help="clips a voice and emotion"
    )
    args = parser.parse_args()
    if not 1 <= args.voices <= len(VOICES):
        raise InputError(f"--voices: give 1 to {len(VOICES)}")
    if args.clips < 1:
        raise InputError("--clips: give 1 or more")
    if args.seed < 0:
        raise InputError("--seed: give 0 or more")
    made = {"seed": args.seed, "voices": args.voices, "clips": args.clips}
    if is_made(args.out, made):
        print(f"{args.out}: already made")
        return
    with atomic_path(args.out) as tmp:
        make(tmp, made)


def is_made(out, made):
    """Whether `out` is the finished corpus; an error if it is another."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    try:
        found = json.loads((out / "rendering.json").read_text())["made"]
    except (OSError, ValueError, KeyError, TypeError):
        found = None
    if found != made:
        raise InputError(
            f"{out}: holds something else ({found or 'no Demo corpus'}); "
            "remove it or name another folder"
        )
    return True


def make(out, made):
    """Write the whole corpus to the new folder `out`.

    Arguments
    ---------
    out : Path
        Folder to create.
    made : dict
        `seed`, `voices` (how many) and `clips` (of a voice and emotion).
    """
    synthesiser = Synthesiser(made["seed"])
    rng = np.random.default_rng(made["seed"])
    voices = list(VOICES)[: made["voices"]]
    own = dict(zip(voices, rng.standard_normal((len(voices), 4)), strict=True))
    todo = list(itertools.product(voices, EMOTIONS, range(made["clips"])))
    clips = {}
    for voice, emotion, clip in tqdm(todo, unit="clip", desc="Demo corpus"):
        settings = draw_settings(emotion, own[voice], rng)
        repetition, index = divmod(clip, len(SENTENCES))
        sentence, text = list(SENTENCES.items())[index]
        wave = synthesiser(text, voice, settings)
        wave, settings["snr"] = add_noise(wave, rng)
        name = f"{voice}_{emotion}_{sentence}_{repetition + 1}"
        path = out / voice / f"{name}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, wave, RATE, subtype="PCM_16")
        clips[name] = settings
    content = {"made": made, "espeak": synthesiser.version, "clips": clips}
    (out / "rendering.json").write_text(json.dumps(content, indent=1) + "\n")


def draw_settings(emotion, voice_offset, rng):
    """The synthesiser's settings for one utterance.

    Arguments
    ---------
    emotion : str
        A key of `EMOTIONS`.
    voice_offset : numpy.ndarray
        The voice's own deviation in each setting, in standard deviations.
    rng : numpy.random.Generator
        Source of this utterance's deviation.

    Returns
    -------
    dict of str to int
        A value for each key of `SETTINGS`, as eSpeak takes it.
    """
    settings = {}
    deviations = np.array(EMOTIONS[emotion]) + rng.standard_normal(4)
    for (name, (_, middle, spread, between)), utterance, voice in zip(
        SETTINGS.items(), deviations, voice_offset, strict=True
    ):
        value = middle + spread * utterance + between * voice
        if name in ("rate", "loudness"):
            value = np.exp(value)
        # 80 words a minute is eSpeak's slowest; above 100 it would clip.
        low, high = (80, 400) if name == "rate" else (0, 100)
        settings[name] = round(float(np.clip(value, low, high)))
    return settings


def add_noise(wave, rng):
    """Put pauses around the speech and pink-like noise under it.

    Arguments
    ---------
    wave : numpy.ndarray
        Samples[T] in [-1, 1] at 16 kHz.
    rng : numpy.random.Generator
        Source of the pauses, the noise and its level.

    Returns
    -------
    numpy.ndarray
        The noisy samples[T'].
    float
        Signal-to-noise ratio in dB, over the speech.
    """
    before, after = (int(RATE * seconds) for seconds in rng.uniform(*PAUSE, 2))
    power = np.mean(wave**2)
    wave = np.pad(wave, (before, after))
    # Rooms hum more than they hiss: a first-order low-pass on white noise.
    noise = lfilter([1.0], [1.0, -0.9], rng.standard_normal(len(wave)))
    snr = round(float(rng.uniform(*SNR)), 1)
    noise *= np.sqrt(power / np.mean(noise**2) / 10 ** (snr / 10))
    return np.clip(wave + noise, -1, 1), snr


class Synthesiser:
    """eSpeak NG's shared library, through its C interface (`speak_lib.h`).

    Flutter and breath go on from sentence to sentence, so only the same
    sequence of calls, from the first of a process, gives the same waves.

    Arguments
    ---------
    seed : int
        Of the breath noise.

    Example
    -------
    >>> synthesiser = Synthesiser(seed=0)  # doctest: +SKIP
    >>> settings = {"rate": 165, "pitch": 50, "range": 50, "loudness": 50}
    >>> synthesiser("Good morning.", "m1", settings)  # doctest: +SKIP
    array([0., 0., ...
    """

    _SYNCHRONOUS, _UTF8 = 2, 1

    def __init__(self, seed):
        try:
            import espeakng_loader
        except ImportError:
            raise InputError(
                "espeakng-loader is not installed; run "
                "`pip install espeakng-loader`"
            ) from None
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        self._chunks = []
        data = espeakng_loader.get_data_path().encode()
        self._rate = self._library.espeak_Initialize(
            self._SYNCHRONOUS, 0, data, 0
        )
        if self._rate <= 0:
            raise InputError(
                "espeakng-loader: eSpeak NG does not start; reinstall it"
            )
        # Starting up has seeded the breath noise with the time.
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(seed))
        self._library.espeak_Info.restype = ctypes.c_char_p
        self.version = self._library.espeak_Info(None).decode()
        callback = ctypes.CFUNCTYPE(
            ctypes.c_int,
            ctypes.POINTER(ctypes.c_short),
            ctypes.c_int,
            ctypes.c_void_p,
        )
        # Kept as an attribute: C holds no reference that Python would count.
        self._callback = callback(self._receive)
        self._library.espeak_SetSynthCallback(self._callback)

    def _receive(self, samples, count, events):
        if samples and count:
            self._chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0  # go on

    def __call__(self, text, voice, settings):
        """Say one sentence.

        Arguments
        ---------
        text : str
            An English sentence.
        voice : str
            A key of `VOICES`.
        settings : dict of str to int
            A value for each key of `SETTINGS`.

        Returns
        -------
        numpy.ndarray
            Samples[T] in [-1, 1] at 16 kHz.
        """
        name = "+".join(VOICES[voice]).encode()
        errors = [self._library.espeak_SetVoiceByName(name)]
        for key, (number, *_) in SETTINGS.items():
            errors.append(
                self._library.espeak_SetParameter(number, settings[key], 0)
            )
        encoded = text.encode() + b"\0"
        self._chunks.clear()
        errors.append(
            self._library.espeak_Synth(
                encoded, len(encoded), 0, 0, 0, self._UTF8, None, None
            )
        )
        if any(errors) or not self._chunks:
            raise InputError(
                f"espeakng-loader: cannot say {text!r} in voice {voice}; "
                "reinstall it"
            )
        wave = np.concatenate(self._chunks) / 32768
        return resample_poly(wave, RATE, self._rate)


if __name__ == "__main__":
    with one_line_errors():
        main()
