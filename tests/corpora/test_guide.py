"""The example of docs/adding_a_corpus.md works as printed."""

import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
from trees_a import folds
from trees_b import clip

from ser_peft.cli import main
from ser_peft.corpora import about_corpus, load_corpus
from ser_peft.data import read_manifests
from ser_peft.errors import InputError

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "adding_a_corpus.md"


def code(beginning):
    """The indented block that begins so."""
    block = re.search(
        rf"^    {re.escape(beginning)}.*?(?=^\S)",
        GUIDE.read_text(),
        re.M | re.S,
    )
    return dedent(block[0])


def install(monkeypatch, folder, entry_point):
    """Leave on the path what an installed package does."""
    about = folder / "savee-1.0.dist-info"
    about.mkdir(exist_ok=True)
    (about / "METADATA").write_text("Name: savee\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        f"[ser_peft.corpora]\n{entry_point}\n"
    )
    monkeypatch.syspath_prepend(folder)


@pytest.fixture
def savee(tmp_path, monkeypatch):
    """Folder of the corpus, whose reader is installed."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "savee.py").write_text(code('"""SAVEE'))
    install(monkeypatch, site, "savee = savee")
    yield corpus(tmp_path / "SAVEE")
    sys.modules.pop("savee", None)


def corpus(root):
    for speaker in ("DC", "JE", "JK", "KL"):
        for letters in ("n", "a", "sa", "h", "su"):
            clip(root / "AudioData" / speaker / f"{letters}01.wav")
    clip(root / "AudioData" / "XY" / "n01.wav")
    clip(root / "AudioData" / "DC" / "._n01.wav")
    return root


def test_example(savee, tmp_path, capsys):
    reader = load_corpus("savee")
    utterances = reader.read(savee)
    assert len(utterances) == 20
    assert utterances[3].id == "DC_sa01"
    assert utterances[3].labels == {"emotion": "sad"}
    protocol = reader.PROTOCOLS["leave-one-speaker-out"]
    found = folds(protocol, utterances, reader.CLASS_SETS[4])
    assert [len(fold["train"]) for fold in found] == [2] * 4
    out = tmp_path / "out"
    main(["prepare", "savee", str(savee), str(out), "--fold", "4"])
    assert (
        "savee, leave-one-speaker-out, fold 4 of 4" in capsys.readouterr().out
    )
    _, manifests = read_manifests(out)
    assert [len(entries) for entries in manifests.values()] == [8, 4, 4]
    with pytest.raises(InputError, match="not SAVEE; expected AudioData/DC"):
        reader.read(out)


def test_it_is_as_short_as_it_says():
    lines = [line for line in code('"""SAVEE').splitlines() if line.strip()]
    assert len(lines) <= 60


def test_the_package_installs(tmp_path):
    """Its `pyproject.toml` gives the entry point."""
    pytest.importorskip("setuptools")
    (tmp_path / "savee.py").write_text(code('"""SAVEE'))
    (tmp_path / "pyproject.toml").write_text(code("[project]"))
    subprocess.run(
        [sys.executable, "-c", "import setuptools; setuptools.setup()",
         "-q", "egg_info"],
        cwd=tmp_path, check=True,
    )  # fmt: skip
    (points,) = tmp_path.glob("*.egg-info/entry_points.txt")
    assert points.read_text().split() == [
        "[ser_peft.corpora]", "savee", "=", "savee"
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["save", None, "", "ser_peft", 4])
def test_a_wrong_name_lists_those_that_are_known(savee, name):
    with pytest.raises(InputError) as raised:
        load_corpus(name)
    message = str(raised.value)
    named = name or "of no name"
    assert message.startswith(f"corpus {named}: unknown; choose one of crema-d")
    assert "ravdess, savee, or emobox:NAME" in message and "\n" not in message


@pytest.mark.parametrize(
    ("entry_point", "reason"),
    [
        ("savee = nowhere", "No module named 'nowhere'"),
        ("savee = json", "module 'json' has no attribute 'read'"),
        ("savee = ser_peft.corpora.tables", "no attribute 'read'"),
    ],
)
def test_an_entry_point_that_is_no_reader(
    tmp_path, monkeypatch, entry_point, reason
):
    install(monkeypatch, tmp_path, entry_point)
    with pytest.raises(InputError, match=f"corpus savee: .*{reason}.*correct"):
        load_corpus("savee")


def test_the_about_of_the_guide_is_on_cards(savee, tmp_path, monkeypatch):
    module = tmp_path / "site" / "savee.py"
    about = code("ABOUT = About(")
    module.write_text(
        f"from ser_peft.corpora import About\n{module.read_text()}\n{about}"
    )
    assert about_corpus("savee").licence == "CC BY 4.0"
    sys.modules.pop("savee")
    module.write_text(module.read_text() + "\nABOUT = 'free'\n")
    with pytest.raises(InputError, match="savee: .*its ABOUT is no ser_peft"):
        load_corpus("savee")
    assert about_corpus("savee").licence is None
