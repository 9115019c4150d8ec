"""EmoV-DB: 4 English speakers act 5 styles of reading, 6,893 clips.

Adigwe et al. 2018, "The Emotional Voices Database: Towards Controlling the
Emotion Dimension in Voice Generation Systems", arXiv 1806.09514.
"""

import re

from ser_peft.corpora import About, Utterance, corpus_folder
from ser_peft.corpora.protocols import Folds, by_name

__all__ = ["ABOUT", "CLASS_SETS", "PROTOCOLS", "read"]

ABOUT = About(
    language="en",
    speech="acted: readers of given sentences, in given styles",
    licence="non-commercial",
    link="https://github.com/numediart/EmoV-DB/blob/master/LICENSE.md",
    commercial=False,
)

GENDERS = {"bea": "female", "jenie": "female", "josh": "male", "sam": "male"}
# Folders and files use different words.
EMOTIONS = {
    "neutral": "neutral",
    "angry": "angry",
    "anger": "angry",
    "amused": "amused",
    "disgusted": "disgust",
    "disgust": "disgust",
    "sleepy": "sleepy",
    "sleepiness": "sleepy",
}

# Nobody is sad: the common 4 classes cannot be had.
CLASS_SETS = {
    5: {name: name for name in dict.fromkeys(EMOTIONS.values())},
    # The emotions that all four act; Josh is never angry nor disgusted.
    3: {name: name for name in ("neutral", "amused", "sleepy")},
}

# Each speaker is tested once. Two others train, Josh never alone, and he
# never validates: train and valid have all five classes.
PROTOCOLS = by_name(
    Folds(
        "leave-one-speaker-out",
        test=[["bea"], ["jenie"], ["josh"], ["sam"]],
        valid=[["sam"], ["sam"], ["bea"], ["jenie"]],
    )
)


def read(folder):
    """List the utterances of an EmoV-DB folder.

    Arguments
    ---------
    folder : str or Path
        Holds ``bea_Amused/amused_1-15_0001.wav``, or the same as
        ``bea/Amused/...``, or ``bea/amused_1-15_0001.wav``.

    Returns
    -------
    list of Utterance
        Sorted by id, which is the speaker and the file's name; the label is
        ``emotion``.

    Raises
    ------
    InputError
        If the folder is absent or holds no such files.
    """
    return corpus_folder(
        folder,
        "EmoV-DB",
        "folders like bea_Amused or bea/Amused of the speakers "
        f"{', '.join(GENDERS)}",
        _clips,
    )


def _clips(root):
    clips = {}
    for path in sorted(root.rglob("[!.]*.wav")):
        place = path.parent.relative_to(root)
        folders = re.findall("[a-z]+", str(place).lower())
        words = folders + re.findall("[a-z]+", path.stem.lower())
        speaker = next(filter(GENDERS.__contains__, folders), None)
        emotion = next(filter(EMOTIONS.__contains__, words), None)
        if speaker and emotion:
            name = f"{speaker}_{path.stem}"
            clips[name] = Utterance(
                id=name,
                wav=path,
                speaker=speaker,
                gender=GENDERS[speaker],
                labels={"emotion": EMOTIONS[emotion]},
            )
    return [clip for _, clip in sorted(clips.items())]
