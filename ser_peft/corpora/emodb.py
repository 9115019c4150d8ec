"""EmoDB: 10 German actors, 10 sentences, 7 emotions, 535 clips.

Burkhardt et al. 2005, "A Database of German Emotional Speech", Interspeech,
doi 10.21437/Interspeech.2005-446.
"""

import re

from ser_peft.corpora import Utterance, corpus_folder
from ser_peft.corpora.protocols import Folds

__all__ = ["CLASS_SETS", "PROTOCOLS", "read"]

SPEAKERS = {  # gender and age
    "03": ("male", 31),
    "08": ("female", 34),
    "09": ("female", 21),
    "10": ("male", 32),
    "11": ("male", 26),
    "12": ("male", 30),
    "13": ("female", 32),
    "14": ("female", 35),
    "15": ("male", 25),
    "16": ("female", 31),
}
SENTENCES = {
    "a01": "Der Lappen liegt auf dem Eisschrank.",
    "a02": "Das will sie am Mittwoch abgeben.",
    "a04": "Heute Abend könnte ich es ihm sagen.",
    "a05": "Das schwarze Stück Papier befindet sich da oben neben dem "
    "Holzstück.",
    "a07": "In sieben Stunden wird es soweit sein.",
    "b01": "Was sind denn das für Tüten, die da unter dem Tisch stehen?",
    "b02": "Sie haben es gerade hochgetragen und jetzt gehen sie wieder "
    "runter.",
    "b03": "An den Wochenenden bin ich jetzt immer nach Hause gefahren und "
    "habe Agnes besucht.",
    "b09": "Ich will das eben wegbringen und dann mit Karl was trinken gehen.",
    "b10": "Die wird auf dem Platz sein, wo wir sie immer hinlegen.",
}
EMOTIONS = {  # by the German word's first letter: Wut, Trauer, Freude, ...
    "N": "neutral",
    "W": "angry",
    "T": "sad",
    "F": "happy",
    "L": "bored",
    "E": "disgust",
    "A": "fearful",
}
# speaker, sentence, emotion, version
NAME = re.compile(
    rf"({'|'.join(SPEAKERS)})({'|'.join(SENTENCES)})([{''.join(EMOTIONS)}])"
    r"([a-z]?)\.(wav|flac)$"
)

CLASS_SETS = {
    4: {name: name for name in ("neutral", "angry", "sad", "happy")},
    7: {name: name for name in EMOTIONS.values()},
}


def _folds(name, test):
    """Each deal is tested once; the next one is valid."""
    return Folds(name=name, test=test, valid=test[1:] + test[:1])


# The corpus has no official folds. A man and a woman each:
PAIRS = _folds("five-fold", [["03", "08"], ["10", "09"], ["11", "13"],
                             ["12", "14"], ["15", "16"]])  # fmt: skip
SINGLES = _folds("leave-one-speaker-out", [[speaker] for speaker in SPEAKERS])
PROTOCOLS = {folds.name: folds for folds in (PAIRS, SINGLES)}


def read(folder):
    """List the utterances of a published EmoDB folder.

    Arguments
    ---------
    folder : str or Path
        Holds ``wav/03a01Fa.wav`` and so on, at any depth, wav or flac.

    Returns
    -------
    list of Utterance
        Sorted by id; labels are ``emotion``, ``age`` and ``version``.

    Raises
    ------
    InputError
        If the folder is absent or holds no such files.
    """
    paths = corpus_folder(
        folder,
        "EmoDB",
        "wav with files like 03a01Fa.wav",
        lambda root: [p for p in root.rglob("*") if NAME.match(p.name)],
    )
    clips = {path.stem: path for path in sorted(paths, reverse=True)}
    utterances = []
    for name, path in sorted(clips.items()):
        speaker, sentence, emotion, version, _ = NAME.match(path.name).groups()
        gender, age = SPEAKERS[speaker]
        utterances.append(
            Utterance(
                id=name,
                wav=path,
                speaker=speaker,
                gender=gender,
                text=SENTENCES[sentence],
                labels={
                    "emotion": EMOTIONS[emotion],
                    "age": age,
                    "version": version,
                },
            )
        )
    return utterances
