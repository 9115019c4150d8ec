"""IEMOCAP: five dyadic sessions, ten actors, 10,039 turns.

Busso et al. 2008, "IEMOCAP: interactive emotional dyadic motion capture
database", Language Resources and Evaluation 42, doi
10.1007/s10579-008-9076-6.
"""

import re
from collections import Counter
from dataclasses import replace

from ser_peft.corpora import About, Utterance, corpus_folder
from ser_peft.corpora.protocols import Folds, RandomSplit, by_name
from ser_peft.corpora.tables import matched_lines

__all__ = ["ABOUT", "CLASS_SETS", "PROTOCOLS", "read"]

ABOUT = About(
    language="en",
    speech="acted: actors improvise and play scripts",
    licence="research only, not to be passed on",
    link="https://sail.usc.edu/iemocap/iemocap_release.htm",
    commercial=False,
    restricted=True,
)

# [6.2901 - 8.2357]  Ses01F_impro01_M000  neu  [2.5000, 2.5000, 2.5000]
# The dialogue names who wears the markers, the end of the turn who speaks;
# the numbers are valence, activation and dominance.
TURN = re.compile(
    r"\[[^]]*\]\s+((Ses0[1-5])[FM]_(impro|script)\w*_([FM])\w{3})\s+(\w+)\s+"
    r"\[\s*(\d+\.?\d*),\s*(\d+\.?\d*),\s*(\d+\.?\d*)\s*\]\s*$"
    # C-E2:  Anger; Frustration;  (comment)
    # Below a turn, what each evaluator called it. C-F1 and C-M1 are the
    # actors' own; the corpus's consensus is without them.
    r"|C-E[^:]*:([^(]*)"
)
# Ses01F_impro01_F000 [006.2901-008.2357]: Excuse me.
TRANSCRIPT = re.compile(
    r"^[ \t]*(Ses\w+)[ \t]*\[[^]\n]*\][ \t]*:[ \t]*(.*?)\s*$", re.MULTILINE
)

BASIC = {"neu": "neutral", "ang": "angry", "sad": "sad", "hap": "happy"}
CLASS_SETS = {
    # The 5,531 utterances that most papers mean: excited counts as happy.
    4: {**BASIC, "exc": "happy"},
    5: {**BASIC, "exc": "happy", "fru": "frustrated"},
    6: {**BASIC, "exc": "excited", "fru": "frustrated"},
}

SESSIONS = [[f"Session{number}"] for number in range(1, 6)]

PROTOCOLS = by_name(
    Folds(
        "peft-ser",
        by="group",
        test=SESSIONS,
        valid=[SESSIONS[4]] * 4 + [SESSIONS[3]],
    ),
    Folds("leave-one-session-out", by="group", test=SESSIONS),
    # The usual ten folds: the other speaker of the session validates.
    Folds(
        "leave-one-speaker-out",
        test=[[f"Ses0{n}{sex}"] for n in range(1, 6) for sex in "FM"],
        valid=[[f"Ses0{n}{sex}"] for n in range(1, 6) for sex in "MF"],
    ),
    # Scripted sentences come back in every session, so that a model may know
    # a test sentence by heart; improvised ones do not.
    Folds(
        "improvised",
        by="group",
        test=SESSIONS,
        where={"style": "improvised"},
    ),
    # The fold of the pooled models that PEFT-SER's authors released.
    Folds("released", by="group", test=[SESSIONS[4]], valid=[SESSIONS[3]]),
    # The split of DistilSER and 3M-SER: its sizes are theirs, 4479, 498 and
    # 554 utterances of 4 classes; the utterances depend on their files' order.
    RandomSplit("distilser"),
)


def read(folder):
    """List the turns of the published release.

    Arguments
    ---------
    folder : str or Path
        Holds ``Session1`` to ``Session5``.

    Returns
    -------
    list of Utterance
        Sorted by id; labels ``emotion`` (the corpus's code, ``xxx`` where
        the annotators did not agree), ``dialogue``, ``style``
        (``improvised`` or ``scripted``) and ``arousal``, ``valence``,
        ``dominance`` (1 to 5). Votes are the codes' of the evaluators, not
        of the actors themselves; who gave several labels counts for each.
        Whether the wav files are there is not looked at.

    Raises
    ------
    InputError
        If the folder is absent or holds no annotated turns, or the line of a
        turn is broken.
    """
    return corpus_folder(
        folder,
        "IEMOCAP",
        "Session1 ... Session5 with dialog/EmoEvaluation/"
        "Ses01F_impro01.txt and sentences/wav",
        _turns,
    )


def _turns(root):
    # `Ses*` passes over the ._* files that macOS leaves; the annotators' own
    # judgements are in folders below.
    texts, turns, votes = {}, {}, Counter()
    for path in root.glob("Session[1-5]/dialog/transcriptions/Ses*.txt"):
        texts |= TRANSCRIPT.findall(path.read_text("utf-8", errors="replace"))
    paths = root.glob("Session[1-5]/dialog/EmoEvaluation/Ses*.txt")
    for path, groups in matched_lines(paths, ("[", "C-E"), TURN):
        *groups, said = groups
        if said is not None:
            # Anger is ang, Neutral state is neu: the codes' three letters.
            codes = {x.strip()[:3].lower() for x in said.split(";")} - {""}
            votes.update(codes)
            continue
        name, number, style, sex, emotion, *numbers = groups
        votes = Counter()
        valence, arousal, dominance = map(float, numbers)
        session = path.parents[2]
        turns[name] = Utterance(
            id=name,
            wav=session / "sentences" / "wav" / name[:-5] / f"{name}.wav",
            speaker=number + sex,
            gender="female" if sex == "F" else "male",
            text=texts.get(name),
            labels={
                "emotion": emotion,
                "dialogue": name[:-5],
                "style": "improvised" if style == "impro" else "scripted",
                "arousal": arousal,
                "valence": valence,
                "dominance": dominance,
            },
            group=session.name,
            votes=votes,
        )
    return [
        replace(turn, votes=dict(sorted(turn.votes.items())) or None)
        for _, turn in sorted(turns.items())
    ]
