"""The example of docs/adding_a_corpus.md works as printed."""

import re
import sys
from pathlib import Path
from textwrap import dedent
from types import ModuleType

import pytest
from trees_a import folds
from trees_b import clip

import ser_peft.corpora
from ser_peft.data import prepare, read_manifests
from ser_peft.errors import InputError

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "adding_a_corpus.md"


@pytest.fixture
def savee(monkeypatch):
    code = re.search(
        r'\n    """SAVEE.*?(?=\nAdd the name)', GUIDE.read_text(), re.S
    )
    module = ModuleType("ser_peft.corpora.savee")
    exec(dedent(code[0]), module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    known = (*ser_peft.corpora.CORPORA, "savee")
    monkeypatch.setattr(ser_peft.corpora, "CORPORA", known)
    return module


def test_example(savee, tmp_path):
    for speaker in ("DC", "JE", "JK", "KL"):
        for letters in ("n", "a", "sa", "h", "su"):
            clip(tmp_path / "AudioData" / speaker / f"{letters}01.wav")
    clip(tmp_path / "AudioData" / "XY" / "n01.wav")
    utterances = savee.read(tmp_path)
    assert utterances[3].id == "DC_sa01"
    assert utterances[3].labels == {"emotion": "sad"}
    protocol = savee.PROTOCOLS["leave-one-speaker-out"]
    found = folds(protocol, utterances, savee.CLASS_SETS[4])
    assert [len(fold["train"]) for fold in found] == [2] * 4
    prepare("savee", tmp_path, tmp_path / "out", fold=4)
    _, manifests = read_manifests(tmp_path / "out")
    assert [len(entries) for entries in manifests.values()] == [8, 4, 4]
    with pytest.raises(InputError, match="not SAVEE; expected AudioData/DC"):
        savee.read(tmp_path / "out")
