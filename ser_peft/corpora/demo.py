"""Demo: synthetic voices acting 4 emotions, made by recipes/Demo.

512 clips (16 voices, 4 emotions, 4 sentences, twice) to try the tools on
without a licensed corpus. See ``recipes/Demo/make_corpus.py``.
"""

from ser_peft.corpora import About, Utterance, recordings
from ser_peft.corpora.protocols import FOUR, Folds, by_name

__all__ = ["ABOUT", "CLASS_SETS", "PROTOCOLS", "SENTENCES", "read"]

ABOUT = About(
    language="en",
    speech="synthetic: a synthesiser says given sentences",
    licence="the recordings belong to whoever made them",
    commercial=True,
)

SENTENCES = {
    "1": "The train leaves from platform nine.",
    "2": "There is a letter for you on the table.",
    "3": "They moved the boxes into the back room.",
    "4": "We are going to meet again on Monday.",
}
# voice_emotion_sentence_repetition
NAME = rf"([mf]\d+)_({'|'.join(FOUR)})_([1-4])_(\d+)"

CLASS_SETS = {4: {name: name for name in FOUR}}

# Each voice is tested once; every set has as many female as male voices.
PROTOCOLS = by_name(
    Folds(
        "four-fold",
        [[f"{sex}{n}" for n in (i, i + 1) for sex in "mf"]
         for i in (1, 3, 5, 7)],
    )
)  # fmt: skip


def read(folder):
    """List the utterances of a Demo folder.

    Arguments
    ---------
    folder : str or Path
        Output of ``recipes/Demo/make_corpus.py``: a folder for each voice.

    Returns
    -------
    list of Utterance
        Sorted by id; labels ``emotion`` and ``repetition``.

    Raises
    ------
    InputError
        If the folder is absent or holds no such files.
    """
    return [
        Utterance(
            id=path.stem,
            wav=path,
            speaker=voice,
            gender="male" if voice.startswith("m") else "female",
            text=SENTENCES[sentence],
            labels={"emotion": emotion, "repetition": int(repetition)},
        )
        for path, (voice, emotion, sentence, repetition) in recordings(
            folder,
            "Demo",
            "folders m1, f1, ... with files like m1_angry_2_1.flac, which "
            "recipes/Demo/make_corpus.py makes",
            NAME,
        )
    ]
