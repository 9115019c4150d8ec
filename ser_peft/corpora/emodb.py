"""EmoDB: 10 German actors, 10 sentences, 7 emotions, 535 clips.

Burkhardt et al. 2005, "A Database of German Emotional Speech", Interspeech,
doi 10.21437/Interspeech.2005-446.
"""

from ser_peft.corpora import About, Utterance, recordings
from ser_peft.corpora.protocols import FOUR, Folds, by_name

__all__ = ["ABOUT", "CLASS_SETS", "PROTOCOLS", "read"]

ABOUT = About(
    language="de",
    speech="acted: actors say given sentences",
    link="http://emodb.bilderbar.info/download/",
)

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
NAME = (
    rf"({'|'.join(SPEAKERS)})({'|'.join(SENTENCES)})([{''.join(EMOTIONS)}])"
    "([a-z]?)"
)

CLASS_SETS = {
    4: {name: name for name in FOUR},
    7: {name: name for name in EMOTIONS.values()},
}


# The corpus has no official folds. Five test a man and a woman each.
PROTOCOLS = by_name(
    Folds("five-fold", [["03", "08"], ["10", "09"], ["11", "13"],
                        ["12", "14"], ["15", "16"]]),
    Folds("leave-one-speaker-out", [[speaker] for speaker in SPEAKERS]),
)  # fmt: skip


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
    return [
        Utterance(
            id=path.stem,
            wav=path,
            speaker=speaker,
            gender=SPEAKERS[speaker][0],
            text=SENTENCES[sentence],
            labels={
                "emotion": EMOTIONS[emotion],
                "age": SPEAKERS[speaker][1],
                "version": version,
            },
        )
        for path, (speaker, sentence, emotion, version) in recordings(
            folder, "EmoDB", "wav with files like 03a01Fa.wav", NAME
        )
    ]
