"""RAVDESS, the speech part: 24 actors, 8 emotions, 1,440 utterances.

Livingstone and Russo 2018, "The Ryerson Audio-Visual Database of Emotional
Speech and Song", PLoS ONE 13(5), doi 10.5281/zenodo.1188976.
"""

from ser_peft.corpora import About, Utterance, recordings
from ser_peft.corpora.protocols import FOUR, Folds, by_name

__all__ = ["ABOUT", "CLASS_SETS", "PROTOCOLS", "read"]

ABOUT = About(
    language="en",
    speech="acted: actors say given sentences",
    licence="CC BY-NC-SA 4.0",
    link="https://zenodo.org/records/1188976",
    commercial=False,
)

EMOTIONS = {
    "01": "neutral",
    "02": "calm",
    "03": "happy",
    "04": "sad",
    "05": "angry",
    "06": "fearful",
    "07": "disgust",
    "08": "surprised",
}
SENTENCES = {
    "01": "Kids are talking by the door.",
    "02": "Dogs are sitting by the door.",
}
# modality-channel-emotion-intensity-statement-repetition-actor; 03-01 is
# audio-only speech, what the published Audio_Speech archive holds.
NAME = r"03-01-(0[1-8])-(0[12])-(0[12])-(0[12])-(0[1-9]|1\d|2[0-4])"

CLASS_SETS = {
    4: {name: name for name in FOUR},
    # PEFT-SER: calm counts as neutral.
    7: {name: name for name in EMOTIONS.values()} | {"calm": "neutral"},
    8: {name: name for name in EMOTIONS.values()},
}


def _actors(first, last):
    return [f"{actor:02d}" for actor in range(first, last + 1)]


# The folds of PEFT-SER.
PROTOCOLS = by_name(
    Folds(
        "peft-ser",
        test=[_actors(1, 5), _actors(6, 10), _actors(11, 15),
              _actors(16, 20), _actors(21, 24)],
        valid=[_actors(21, 24)] * 4 + [_actors(17, 20)],
    )
)  # fmt: skip


def read(folder):
    """List the utterances of a published RAVDESS folder.

    Arguments
    ---------
    folder : str or Path
        Holds ``Actor_01`` to ``Actor_24`` (wav as published, or flac), at
        any depth. A clip that is there twice, as in some mirrors, is taken
        once.

    Returns
    -------
    list of Utterance
        Sorted by id; labels ``emotion``, ``intensity`` and ``repetition``.

    Raises
    ------
    InputError
        If the folder is absent or holds no such files.
    """
    return [
        Utterance(
            id=path.stem,
            wav=path,
            speaker=actor,
            gender="male" if int(actor) % 2 else "female",
            text=SENTENCES[sentence],
            labels={
                "emotion": EMOTIONS[emotion],
                "intensity": "strong" if intensity == "02" else "normal",
                "repetition": int(repetition),
            },
        )
        for path, (
            emotion,
            intensity,
            sentence,
            repetition,
            actor,
        ) in recordings(
            folder,
            "RAVDESS",
            "Actor_01 ... Actor_24 with files like 03-01-05-01-02-01-12.wav",
            NAME,
        )
    ]
