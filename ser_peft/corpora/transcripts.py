"""Transcripts: their words and their sources."""

import re
from collections import Counter

__all__ = ["GOLD", "clean_text", "text_sources"]

GOLD = "gold"
"""Source of a corpus's own transcripts."""

CUE = re.compile(r"[\[(].*?[\])]")


def clean_text(text):
    """Drop cues and needless blanks from a transcript.

    Cues in brackets, as [LAUGHTER] and (sighs), are dropped as in 3M-SER.

    Arguments
    ---------
    text : str
        Transcript.

    Returns
    -------
    str
        The words; empty where no letter or digit is left.

    Example
    -------
    >>> clean_text("[LAUGHTER]  Well (sighs) no.")
    'Well no.'
    >>> clean_text("[BREATHING] ...")
    ''
    """
    words = " ".join(CUE.sub(" ", text).split())
    return words if any(map(str.isalnum, words)) else ""


def text_sources(entries):
    """Count the sources of a manifest's transcripts.

    Arguments
    ---------
    entries : iterable of dict
        A manifest's entries.

    Returns
    -------
    dict
        Source, as ``gold``, the name of a checkpoint, or ``none`` -> entries.

    Example
    -------
    >>> said = {"text": "No.", "text_source": "whisper-tiny.en"}
    >>> text_sources([said, {"text": "Yes."}, {"text": " "}, {}])
    {'whisper-tiny.en': 1, 'gold': 1, 'none': 2}
    """
    return dict(
        Counter(
            # Older manifests have no source for the corpus's own.
            entry.get("text_source", GOLD)
            if entry.get("text", "").strip()
            else "none"
            for entry in entries
        )
    )
