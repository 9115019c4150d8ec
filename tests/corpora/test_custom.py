"""A csv of one's own: cells, folds, splits, mistakes."""

import shutil
import unicodedata

import numpy as np
import pytest
import torch
from trees_a import folds
from trees_b import custom_tree

from ser_peft.cli import main
from ser_peft.corpora import Utterance, custom
from ser_peft.corpora.protocols import classes_of
from ser_peft.data import prepare, read_audio, read_manifests
from ser_peft.errors import InputError

FOUR = ["neutral", "angry", "sad", "happy"]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return custom_tree(tmp_path_factory.mktemp("Custom"))


@pytest.fixture
def copy(small, tmp_path):
    return shutil.copytree(small, tmp_path / "Custom")


def write(folder, rows, header="path,label,speaker,split"):
    (folder / "data.csv").write_text("\n".join([header, *rows]) + "\n")
    return folder / "data.csv"


def test_one_row(small):
    assert custom.read(small)[1] == Utterance(
        id="clips/s1_angry.wav",
        wav=small / "clips" / "s1_angry.wav",
        speaker="01",
        gender="male",
        text="I am angry, you see",
        labels={"emotion": "angry", "age": "31", "valence": 1.5},
        votes={"neutral": 1, "angry": 4, "bored": 1},
    )


def test_a_row_with_votes_needs_no_label(tmp_path):
    for name in "abcd":
        (tmp_path / f"{name}.wav").touch()
    rows = ["a.wav,sad,x,3,", "b.wav,,x,1,1", "c.wav,happy,y,,3"]
    path = write(tmp_path, rows, "path,label,speaker,votes_sad,votes_happy")
    agreed, split, _ = found = custom.read(path)
    assert agreed.votes == {"sad": 3}
    assert split.labels == {"emotion": ""}
    assert split.votes == {"sad": 1, "happy": 1}
    assert custom.class_sets(found) == {"all": {"happy": "happy", "sad": "sad"}}
    for cell in ("1.5", "-1", "many"):
        write(tmp_path, [f"d.wav,sad,x,{cell}"], "path,label,speaker,votes_sad")
        with pytest.raises(InputError, match=f"row 2, .* '{cell}' is no"):
            custom.read(path)


def test_the_csv_or_its_folder(small, copy):
    assert custom.read(small) == custom.read(small / "data.csv")
    shutil.copy(copy / "data.csv", copy / "other.csv")
    with pytest.raises(InputError, match="2 csv files; give one"):
        custom.read(copy)
    assert len(custom.read(copy / "other.csv")) == 20


def test_classes_are_the_labels_found(small, copy):
    sets = custom.class_sets(custom.read(small))
    assert list(sets) == ["all", 4]
    assert classes_of(sets["all"]) == classes_of(sets[4]) == FOUR
    path = copy / "data.csv"
    path.write_text(
        path.read_text("utf-8-sig").replace(",angry,0", ",zesty,0")
        .replace(",sad,0", ",bored,0")
    )  # fmt: skip
    sets = custom.class_sets(custom.read(copy))
    assert list(sets) == ["all"]
    assert list(sets["all"]) == ["neutral", "happy", "bored", "zesty"]


def test_speakers_are_dealt(small):
    utterances = custom.read(small)
    protocols = custom.protocols(utterances)
    assert list(protocols) == ["speaker-folds"]
    classes = custom.class_sets(utterances)["all"]
    found = folds(protocols["speaker-folds"], utterances, classes)
    assert len(found) == 5
    assert {s for fold in found for s in fold["test"]} == {
        f"{n:02d}" for n in range(1, 6)
    }
    for one, next_one in zip(found, found[1:] + found[:1], strict=True):
        assert one["valid"] == next_one["test"]
    assert protocols == custom.protocols(utterances[::-1])


def test_classes_are_spread(tmp_path):
    """20 speakers, half of them never angry: every fold has both kinds."""
    (tmp_path / "a.wav").touch()
    rows = [
        f"a.wav#t={i},{i + 1},{label},s{i % 20}"
        for i in range(200)
        for label in ["angry" if i % 20 < 10 and i % 2 else "calm"]
    ]
    rows = [row.replace("a.wav#t=", '"a.wav#t=') for row in rows]
    rows = [row.replace(",", "|", 1).replace(",", '",', 1).replace("|", ",")
            for row in rows]  # fmt: skip
    utterances = custom.read(write(tmp_path, rows, "path,label,speaker"))
    protocol = custom.protocols(utterances)["speaker-folds"]
    for fold in folds(protocol, utterances, {"calm": "calm", "angry": "angry"}):
        assert len(fold["test"]) == 4


def clips(**speakers):
    """Utterances of speakers: name -> labels of their clips."""
    return [
        Utterance(f"{s}{i}", f"{s}{i}.wav", s, labels={"emotion": label})
        for s, labels in speakers.items()
        for i, label in enumerate(labels.split())
    ]


def few_angry():
    """29 speakers, 27 of one class only, 4 of them angry."""
    labels = ["calm " * 9] * 9 + ["sad " * 6] * 8 + ["happy " * 7] * 8
    labels += ["angry " * 20, "angry " * 5, "angry sad ", "angry happy " * 3]
    return clips(**{f"s{i:02d}": label for i, label in enumerate(labels)})


def test_four_are_angry(caplog):
    """As many folds, with everybody tested once, and all classes in all."""
    utterances = few_angry()
    protocol = custom.protocols(utterances)["speaker-folds"]
    classes = custom.class_sets(utterances)["all"]
    found = folds(protocol, utterances, classes)
    tested = [speaker for fold in found for speaker in fold["test"]]
    assert len(found) == 4 and len(tested) == len({*tested}) == 29
    assert caplog.messages == [
        "custom: 4 folds, not 5: class 'angry' has 4 speakers only (s25, s26, "
        "s27, s28)"
    ]


@pytest.mark.parametrize("seed", range(5))
def test_drawn_corpora(seed):
    """No class is missing where each has five speakers or more."""
    rng = np.random.default_rng(seed)
    labels = [
        " ".join(rng.choice([*FOUR, "bored"], size, p=rng.dirichlet([0.4] * 5)))
        for size in rng.integers(1, 30, 40)
    ]
    utterances = clips(**{f"s{i}": label for i, label in enumerate(labels)})
    protocol = custom.protocols(utterances)["speaker-folds"]
    classes = custom.class_sets(utterances)["all"]
    found = folds(protocol, utterances, classes)
    tested = [speaker for fold in found for speaker in fold["test"]]
    assert len(found) == 5 and len(tested) == len({*tested}) == 40


def test_only_the_classes_count(caplog):
    """One label that is left out has but one speaker, one that is merged."""
    utterances = few_angry() + clips(x="bored sad sad", y="glum sad")
    with pytest.raises(InputError) as raised:
        custom.protocols(utterances)
    assert str(raised.value) == (
        "label: class 'bored' has 1 speaker only (x): too few to train, "
        "validate and test on different ones; add speakers, leave its rows "
        "out, merge it with another class (classes in the yaml: a map), or "
        "give a column split"
    )
    classes = {"sad": "sad", "glum": "sad", "happy": "happy", "calm": "calm"}
    protocol = custom.protocols(utterances, classes)["speaker-folds"]
    assert len(folds(protocol, utterances, classes)) == 5
    assert not caplog.messages
    # Without classes all are alike: of dimensions alone.
    assert custom.protocols(utterances, {})["speaker-folds"].folds == 5


@pytest.mark.parametrize(
    ("speakers", "why"),
    [
        ("abcdef", "in more, a class would be missing from some"),
        ("abcd", "class 'a' has 3 speakers only (b, c, d)"),
    ],
)
def test_nobody_has_all_classes(speakers, why, caplog):
    """A part of one speaker lacks one: three of two, or no way out."""
    utterances = clips(**{s: " ".join({*speakers} - {s}) for s in speakers})
    protocol = custom.protocols(utterances)["speaker-folds"]
    assert caplog.messages == [f"custom: 3 folds, not 5: {why}"]
    assert (
        sorted(map(len, protocol.test))
        == {6: [2, 2, 2], 4: [1, 1, 2]}[len(speakers)]
    )


def test_a_stretch_of_a_recording(small, copy):
    wav = "clips/s1_sad.wav"
    table = write(copy, [f'"{wav}#t=0.1,0.25",sad,1,train',
                         f"{wav},sad,2,dev", f"{wav}#,sad,3,Test"])  # fmt: skip
    (copy / f"{wav}#").touch()
    stretch, whole, _ = custom.read(table)
    sig = read_audio(stretch.wav)
    assert torch.equal(sig, read_audio(whole.wav)[1600:4000])
    with pytest.raises(InputError, match="#t=0.2,0.1: 0.000 s .*too short"):
        read_audio(f"{copy / wav}#t=0.2,0.1")
    with pytest.raises(InputError, match="#t=now: cannot be read"):
        read_audio(f"{copy / wav}#t=now")


def test_all_rows_without_a_file_are_told(copy):
    table = write(copy, ["x.wav,sad,1", "clips/s1_sad.wav,sad,2",
                         "y.wav,sad,3", "z.wav,sad,3"],
                  "path,label,speaker")  # fmt: skip
    with pytest.raises(InputError) as raised:
        custom.read(table)
    assert str(raised.value) == (
        f"{table}, row 2, column path: no such file: {copy}/x.wav; 3 rows name "
        "none, also 4, 5"
    )


def test_names_in_another_form_of_unicode(copy):
    """The table has an ä as one character, the disk as two; and reverse."""
    names = ["ä.wav", unicodedata.normalize("NFD", "ö.wav")]
    forms = "NFD", "NFC"
    for name, form in zip(names, forms, strict=True):
        shutil.copy(
            copy / "clips" / "s1_sad.wav",
            copy / unicodedata.normalize(form, name),
        )
    rows = [f'"{names[0]}",sad,1', f'"{names[1]}#t=0,0.2",sad,2']
    first, second = custom.read(write(copy, rows, "path,label,speaker"))
    assert first.id == names[0] and first.wav.is_file()
    assert len(read_audio(second.wav)) == 3200


def test_given_split(copy, caplog):
    for name in ("c", "d"):
        shutil.copy(copy / "clips" / "s1_sad.wav", copy / f"{name}.wav")
    clips = sorted(path.name for path in (copy / "clips").glob("s[12]_*"))
    rows = [f"clips/{c},{c[3:-4]},{c[:2]},train" for c in clips]
    rows += ["c.wav,sad,c,Validation", "d.wav,sad,d, test"]
    table = write(copy, rows)
    prepare("custom", table, copy / "out")
    about, manifests = read_manifests(copy / "out")
    assert (about["protocol"], about["folds_total"]) == ("split", 1)
    assert about["classes"] == FOUR
    assert {k: len(v) for k, v in manifests.items()} == {
        "train": 8, "valid": 1, "test": 1,
    }  # fmt: skip
    warned = [
        f"custom, split, fold 1: no clip of 'neutral', 'angry', 'happy' in "
        f"{split}: its scores are over 1 of 4 classes"
        for split in ("valid", "test")
    ]
    assert caplog.messages == warned
    prepare("custom", table, copy / "out")  # kept
    assert caplog.messages == 2 * warned
    write(copy, [row.replace(",d,", ",c,") for row in rows])
    with pytest.raises(InputError, match="speaker c is in valid and in test"):
        prepare("custom", table, copy / "out")


def test_speakers_of_one_class_are_warned_of(copy, caplog):
    """Ten of two clips each: but for the last, of one class only."""
    paths = sorted(path.name for path in (copy / "clips").iterdir())
    labels = ["sad"] * 6 + ["calm"] * 6 + ["happy"] * 7 + ["sad"]
    rows = [f"clips/{path},{label},s{i // 2}" for i, (path, label) in
            enumerate(zip(paths, labels, strict=True))]  # fmt: skip
    table = write(copy, rows, "path,label,speaker")
    for _ in range(2):  # written, kept
        caplog.clear()
        prepare("custom", table, copy / "out", fold=2)
        assert caplog.messages[-1] == (
            "custom: the speaker gives away the class: 9 of 10 speakers with "
            "several clips have one class only, and two clips of a speaker "
            "are of one class in 90 % of all cases (30 % by chance): a model "
            "may learn voices, not emotions; scores on other speakers hold, "
            "but rest on few a class ('calm': 3)"
        )
    about, _ = read_manifests(copy / "out")
    assert about["confounding"]["one_class"] == 9
    assert about["missing_classes"] == {}


def test_an_edited_csv_is_read_again(copy):
    out = copy / "out"
    prepare("custom", copy / "data.csv", out, "all", fold=2)
    before = (out / "protocol.json").stat().st_mtime_ns
    prepare("custom", copy, out, None, fold=2)  # the same, said otherwise
    assert (out / "protocol.json").stat().st_mtime_ns == before
    path = copy / "data.csv"
    text = path.read_text("utf-8-sig")
    path.write_text(text.replace("s1_sad.wav,sad", "s1_sad.wav,angry"))
    prepare("custom", path, out, "all", fold=2)
    everything = {}
    for entries in read_manifests(out)[1].values():
        everything |= entries
    assert everything["clips/s1_sad.wav"]["emotion"] == "angry"
    assert everything["clips/s1_sad.wav"]["valence"] == 2.5


def test_command_line(small, tmp_path, capsys):
    command = ["prepare", "custom", str(small / "data.csv"), str(tmp_path)]
    for classes in ([], ["--classes", "all"], ["--classes", "4"]):
        main([*command, *classes, "--fold", "3"])
        out = capsys.readouterr().out
        assert out.startswith("custom, speaker-folds, fold 3 of 5 (")
        assert out.splitlines()[-1].split() == ["speakers", "3", "1", "1"]
    with pytest.raises(SystemExit):
        main([*command, "--classes", "7"])
    assert "classes 7: custom has sets of all, 4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "data.csv: no rows"),
        (["a.wav,sad,,train"], "row 2, column speaker: is empty"),
        (["a.wav,sad,x,train", "b.wav, ,x,train"], "row 3, column label: is"),
        (["b.wav,sad,x,train"], "row 2, column path: no such file: .*b.wav"),
        (["a.wav,sad,x,later"], "row 2, column split: 'later' is not one of"),
        (["a.wav,sad,x,"], "row 2, column split: '' is not one of train"),
        (["a.wav,sad,x"], "row 2, column split: '' is not one of train"),
        (["a.wav"], "row 2, column label: the row ends early"),
        (["a.wav,sad,x,train"] * 2, "row 3, column path: 'a.wav' is also in "
         ".*data.csv, row 2"),
        (["a.wav,sad,x,train"], "column split: no row is test"),
    ],
)  # fmt: skip
def test_bad_cells(tmp_path, rows, message):
    (tmp_path / "a.wav").touch()
    with pytest.raises(InputError, match=message):
        custom.read(write(tmp_path, rows))


def test_bad_number(tmp_path):
    (tmp_path / "a.wav").touch()
    table = write(tmp_path, ['a.wav,sad,x,"3,5"'], "path,label,speaker,AROUSAL")
    assert custom.read(table)[0].labels["arousal"] == 3.5
    head = "path,label,speaker,arousal"
    table = write(tmp_path, ["a.wav,sad,x,nan"], head)  # as pandas says none
    assert "arousal" not in custom.read(table)[0].labels
    table = write(tmp_path, ["a.wav,sad,x,inf"], head)
    with pytest.raises(InputError, match="row 2, column arousal: 'inf' is no"):
        custom.read(table)
    table = write(tmp_path, ["a.wav,sad,x,low"], head)
    with pytest.raises(InputError, match="row 2, column arousal: 'low' is no"):
        custom.read(table)


def test_a_column_that_would_take_clips_out(tmp_path):
    (tmp_path / "a.wav").touch()
    head = "path,label,speaker,no_majority"
    table = write(tmp_path, ["a.wav,sad,x,0"], head)
    with pytest.raises(InputError, match="column no_majority: .*rename it"):
        custom.read(table)


def test_bad_tables(tmp_path):
    with pytest.raises(InputError, match="no such folder; give the Custom"):
        custom.read(tmp_path / "nowhere.csv")
    with pytest.raises(InputError, match="not Custom; expected just one csv"):
        custom.read(tmp_path)
    table = write(tmp_path, ["a,b,c"], "file,label,speaker")
    with pytest.raises(InputError, match="no column 'path'; it has file, lab"):
        custom.read(table)


def test_names_that_look_alike(copy, caplog):
    """In decomposed characters, with backslashes, in other capitals."""
    for name in ("\u00fc.wav", "clips/a.wav", "b.wav", "c.wav"):
        (copy / name).touch()
    rows = [
        "u\u0308.wav,fr\u00f6h,Zo\u00eb",
        "clips\\a.wav,fro\u0308h,Zoe\u0308",
        "b.wav,fr\u00f6h ,zo\u00eb",
    ]
    found = custom.read(write(copy, rows, "path,Label, SPEAKER"))
    assert [u.wav.name for u in found] == ["\u00fc.wav", "a.wav", "b.wav"]
    assert list(custom.class_sets(found)["all"]) == ["fr\u00f6h"]
    assert len({u.speaker for u in found}) == 2
    assert "Zo\u00eb and zo\u00eb are taken for different people" in caplog.text
    again = write(copy, [*rows, "./b.wav,sad,x"], "path,label,speaker")
    with pytest.raises(InputError, match=r"'./b.wav' is also in .*row 4"):
        custom.read(again)


def test_labels_in_other_capitals(small, copy):
    path = copy / "data.csv"
    text = path.read_text("utf-8-sig")
    path.write_text(text.replace(",angry,", ",Angry,", 1))
    with pytest.raises(InputError, match="'Angry' and 'angry' differ in their"):
        prepare("custom", path, copy / "out", "all")
    same = {"Angry": "angry", "angry": "angry", "sad": "sad"}
    prepare("custom", path, copy / "out", same, fold=1)
    assert read_manifests(copy / "out")[0]["classes"] == ["angry", "sad"]


def test_too_few_speakers(tmp_path):
    (tmp_path / "a.wav").touch()
    (tmp_path / "b.wav").touch()
    table = write(
        tmp_path, ["a.wav,sad,x", "b.wav,sad,y"], "path,label,speaker"
    )
    with pytest.raises(InputError, match="speaker: 2 of them.*at least 3"):
        custom.protocols(custom.read(table))
