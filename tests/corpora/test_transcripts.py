"""Transcripts: cues and sources."""

import pytest

from ser_peft.corpora.transcripts import clean_text, text_sources


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Oh, no.", "Oh, no."),
        ("[LAUGHTER] What (sighs)  is\tit?\n", "What is it?"),
        ("(one)(two) three [four", "three [four"),
        ("Nein, Ärger [LACHEN] 7", "Nein, Ärger 7"),
        ("[BREATHING]", ""),
        ("[BREATHING].", ""),
        (" ... ", ""),
        ("♪♪", ""),
        ("", ""),
    ],
)
def test_clean_text(text, words):
    assert clean_text(text) == words


def test_text_sources():
    entries = [
        {"text": "a", "text_source": "gold"},
        {"text": "b", "text_source": "openai/whisper-small"},
        {"text": "c", "text_source": "openai/whisper-small"},
        {"text": "", "text_source": "gold"},
        {},
        {"text": "as older manifests are"},
        # Somebody listened, and heard no words.
        {"text": "[SIGH]", "text_source": "gold"},
    ]
    assert text_sources(entries) == {
        "gold": 3,
        "openai/whisper-small": 2,
        "none": 2,
    }
    assert text_sources([]) == {}
