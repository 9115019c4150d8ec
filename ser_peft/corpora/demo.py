"""Demo: synthetic voices acting 4 emotions, made by recipes/Demo.

512 clips (16 voices, 4 emotions, 4 sentences, twice) to try the tools on
without a licensed corpus. See ``recipes/Demo/make_corpus.py``.
"""

import re

from ser_peft.corpora import Utterance, corpus_folder
from ser_peft.corpora.protocols import Folds

__all__ = ["CLASS_SETS", "PROTOCOLS", "SENTENCES", "read"]

SENTENCES = {
    "1": "The train leaves from platform nine.",
    "2": "There is a letter for you on the table.",
    "3": "They moved the boxes into the back room.",
    "4": "We are going to meet again on Monday.",
}
# voice_emotion_sentence_repetition
NAME = re.compile(
    r"([mf]\d+)_(neutral|angry|sad|happy)_([1-4])_(\d+)\.(flac|wav)$"
)

CLASS_SETS = {
    4: {name: name for name in ("neutral", "angry", "sad", "happy")},
}


def _voices(*numbers):
    return [f"{sex}{number}" for number in numbers for sex in "mf"]


# Each voice is tested once; every set has as many female as male voices.
PROTOCOLS = {
    "four-fold": Folds(
        name="four-fold",
        test=[_voices(1, 2), _voices(3, 4), _voices(5, 6), _voices(7, 8)],
        valid=[_voices(3, 4), _voices(5, 6), _voices(7, 8), _voices(1, 2)],
    )
}


def read(folder):
    """List the utterances of a Demo folder.

    Arguments
    ---------
    folder : str or Path
        What ``recipes/Demo/make_corpus.py`` wrote: a folder for each voice.

    Returns
    -------
    list of Utterance
        Sorted by id; labels ``emotion`` and ``repetition``.

    Raises
    ------
    InputError
        If the folder is absent or holds no such files.
    """
    paths = corpus_folder(
        folder,
        "Demo",
        "folders m1, f1, ... with files like m1_angry_2_1.flac, which "
        "recipes/Demo/make_corpus.py makes",
        lambda root: [p for p in root.rglob("*") if NAME.match(p.name)],
    )
    utterances = []
    for path in sorted(paths, key=lambda p: p.name):
        voice, emotion, sentence, repetition, _ = NAME.match(path.name).groups()
        utterances.append(
            Utterance(
                id=path.stem,
                wav=path,
                speaker=voice,
                gender="male" if voice.startswith("m") else "female",
                text=SENTENCES[sentence],
                labels={"emotion": emotion, "repetition": int(repetition)},
            )
        )
    return utterances
