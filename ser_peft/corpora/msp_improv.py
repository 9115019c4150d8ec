"""MSP-IMPROV: six dyadic sessions, twelve actors, 8,438 turns.

Busso et al. 2017, "MSP-IMPROV: An acted corpus of dyadic interactions to
study emotion perception", IEEE Transactions on Affective Computing 8(1), doi
10.1109/TAFFC.2016.2515617.
"""

import re
from dataclasses import replace

from ser_peft.corpora import About, Utterance, corpus_folder
from ser_peft.corpora.protocols import Folds, by_name
from ser_peft.corpora.tables import matched_lines
from ser_peft.corpora.votes import named, tally

__all__ = ["ABOUT", "CLASS_SETS", "PROTOCOLS", "read"]

ABOUT = About(
    language="en",
    speech="acted: actors improvise and read; they also talk between the takes",
    licence="research only",
    link="https://ecs.utdallas.edu/research/researchlabs/msp-lab/MSP-Improv.html",
    commercial=False,
    restricted=True,
)

# UTD-IMPROV-S01A-F01-P-FM01.avi; N; A:3.2; V:3.4; D:3.0 ; N:3.8;
# sentence and target emotion, speaker, recording, turn; consensus; ratings.
# WORKER00000003; Happy; Happy,Excited; A:2; V:4; D:3; N:4;
# Below it one line for each annotator: who, emotion, all emotions heard.
LINE = re.compile(
    r"UTD-(IMPROV-(S\d\d[AHNS])-([FM])0([1-6])-([PRST])-\w+)\.avi\s*;"
    r"\s*([A-Z])\s*;(.*)$"
    r"|(?!UTD-)(?:([^;]+);\s*(Neutral|Angry|Sad|Happy|Other)\b[^;]*;"
    r"(.*?);?\s*A:|.*)"
)
# A rating that nobody gave is NaN, and left out.
RATING = re.compile(r"\b([AVD]):\s*(\d+\.?\d*)(?![\d.])")

RECORDINGS = {
    "P": "natural",  # between the takes
    "R": "target-read",
    "S": "other-improvised",  # the turns around the target sentence
    "T": "target-improvised",
}

CLASS_SETS = {
    4: {"N": "neutral", "A": "angry", "S": "sad", "H": "happy"},
}

SESSIONS = [[f"session{number}"] for number in range(1, 7)]
# PEFT-SER: the sixth session validates, and the fifth where it is tested.
PEFT_SER = Folds(
    "peft-ser",
    by="group",
    test=SESSIONS,
    valid=[SESSIONS[5]] * 5 + [SESSIONS[4]],
)
PROTOCOLS = by_name(
    PEFT_SER,
    replace(PEFT_SER, name="improvised", where={"style": "improvised"}),
    # The fold of the pooled models that PEFT-SER's authors released.
    Folds("released", by="group", test=[SESSIONS[4]], valid=[SESSIONS[3]]),
)


def read(folder):
    """List the turns of the published release.

    Arguments
    ---------
    folder : str or Path
        Holds ``Evalution.txt`` (spelt so in the release; ``Evaluation.txt``
        will do) and ``Audio/session1`` to ``session6``, or these without
        ``Audio``.

    Returns
    -------
    list of Utterance
        Sorted by id; labels ``emotion`` (``N A S H``, ``O`` other, ``X`` no
        agreement), ``recording`` (one of `RECORDINGS`), ``style``
        (``natural``, ``read`` or ``improvised``) and, where rated,
        ``arousal``, ``valence``, ``dominance``, 1 to 5. The release counts
        activation downwards, 1 being the most active; here ``arousal`` is
        6 minus it, so that more is more as in other corpora. Votes are the
        annotators' of these letters; secondary ones are all the emotions that
        they heard. Whether the wav files are there is not looked at.

    Raises
    ------
    InputError
        If the folder is absent or holds no such file, or the line of a turn
        is broken.
    """
    return corpus_folder(
        folder,
        "MSP-IMPROV",
        "Evalution.txt and Audio/session1 ... session6",
        _turns,
    )


def _turns(root):
    audio = root / "Audio" if (root / "Audio").is_dir() else root
    turns, ratings_of, raters = {}, {}, None
    # One of them, should both spellings be there.
    paths = sorted(root.glob("Eval*tion.txt"))[:1]
    for _, groups in matched_lines(paths, "", LINE):
        *groups, rater, vote, heard = groups
        if groups[0] is None:
            if rater and raters is not None:  # some lines are there twice
                raters[rater.strip()] = vote[0], named(heard)
            continue
        name, sentence, sex, number, letter, emotion, rest = groups
        raters = ratings_of[name] = {}
        ratings = {key: float(value) for key, value in RATING.findall(rest)}
        labels = {
            "emotion": emotion,
            "recording": RECORDINGS[letter],
            "style": RECORDINGS[letter].split("-")[-1],
            "valence": ratings.get("V"),
            "dominance": ratings.get("D"),
        }
        if "A" in ratings:
            labels["arousal"] = round(6 - ratings["A"], 6)
        session = f"session{number}"
        turns[name] = Utterance(
            id=f"MSP-{name}",
            wav=audio / session / sentence / letter / f"MSP-{name}.wav",
            speaker=f"{sex}0{number}",
            gender="female" if sex == "F" else "male",
            labels={k: v for k, v in labels.items() if v is not None},
            group=session,
        )
    return [
        replace(turn, **tally(ratings_of[name].values()))
        for name, turn in sorted(turns.items())
    ]
