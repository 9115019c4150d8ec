"""From a corpus folder to manifests."""

import json
import shutil

import pytest
import soundfile

from ser_peft.corpora import Utterance, ravdess
from ser_peft.data import (
    datasets,
    prepare,
    read_manifests,
)
from ser_peft.data.writing import write_manifests
from ser_peft.errors import InputError

CLASSES = {
    4: ["neutral", "angry", "sad", "happy"],
    7: "neutral happy sad angry fearful disgust surprised".split(),
    8: "neutral calm happy sad angry fearful disgust surprised".split(),
}


def change(folder, name, edit):
    """Rewrite one JSON of a folder."""
    path = folder / f"{name}.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


@pytest.fixture
def copied_manifests(manifests, tmp_path):
    """Manifests that may be changed."""
    return shutil.copytree(manifests, tmp_path / "manifests")


@pytest.mark.parametrize("classes", [4, 7, 8])
def test_class_sets(ravdess_tree, tmp_path, classes):
    prepare("ravdess", ravdess_tree, tmp_path, classes, fold=2)
    about, manifests = read_manifests(tmp_path)
    assert about["classes"] == CLASSES[classes]
    entries = [e for split in manifests.values() for e in split.values()]
    # Calm counts as neutral in the set of 7.
    assert len(entries) == 24 * {4: 4, 7: 8, 8: 8}[classes]
    assert {e["emotion"] for e in entries} == set(CLASSES[classes])


def test_nothing_to_warn_of(ravdess_tree, tmp_path, caplog):
    prepare("ravdess", ravdess_tree, tmp_path)
    assert not caplog.messages


def test_classes_can_be_a_mapping(ravdess_tree, tmp_path):
    aroused = {"angry": "high", "sad": "low", "happy": "high", "calm": "low"}
    prepare("ravdess", ravdess_tree, tmp_path, aroused)
    about, manifests = read_manifests(tmp_path)
    assert about["classes"] == ["high", "low"]
    train = manifests["train"]
    assert train["03-01-05-01-01-01-06"]["emotion"] == "high"
    assert train["03-01-02-01-01-01-06"]["emotion"] == "low"
    assert "03-01-01-01-01-01-06" not in train


def test_manifests_are_speechbrains(ravdess_tree, manifests):
    about, contents = read_manifests(manifests)
    assert about["data_folder"] == str(ravdess_tree)
    for entries in contents.values():
        for key, entry in entries.items():
            assert entry["wav"].startswith("{data_root}/Actor_")
            wav = entry["wav"].format(data_root=ravdess_tree)
            info = soundfile.info(wav)
            assert entry["duration"] == pytest.approx(info.duration, abs=1e-4)
            assert entry["speaker"] == key[-2:]
    assert sorted({e["speaker"] for e in contents["test"].values()}) == [
        "01", "02", "03", "04", "05",
    ]  # fmt: skip


def test_a_broken_file_among_many_leaves_no_manifest(ravdess_tree, tmp_path):
    tree = shutil.copytree(ravdess_tree, tmp_path / "tree")
    broken = tree / "Actor_03" / "03-01-05-01-01-01-03.wav"
    broken.write_bytes(broken.read_bytes()[:30])
    with pytest.raises(InputError, match=broken.name):
        prepare("ravdess", tree, tmp_path / "out", 4)
    assert not list((tmp_path / "out").glob("*.json"))


def files(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_same_request_reuses_other_request_rewrites(ravdess_tree, tmp_path):
    prepare("ravdess", ravdess_tree, tmp_path, 4)
    before = files(tmp_path)
    prepare("ravdess", ravdess_tree, str(tmp_path), 4, fold=1)
    assert files(tmp_path) == before

    prepare("ravdess", ravdess_tree, tmp_path, 4, fold=2)
    after = files(tmp_path)
    assert all(after[name] > before[name] for name in before)
    about, manifests = read_manifests(tmp_path)
    assert about["fold"] == 2
    assert "06" in {e["speaker"] for e in manifests["test"].values()}


def test_other_order_of_classes_is_another_request(ravdess_tree, tmp_path):
    for names in (["sad", "happy"], ["happy", "sad"]):
        prepare("ravdess", ravdess_tree, tmp_path, {n: n for n in names})
        assert read_manifests(tmp_path)[0]["classes"] == names


def test_a_lost_manifest_is_made_again(ravdess_tree, tmp_path):
    prepare("ravdess", ravdess_tree, tmp_path, 4)
    (tmp_path / "valid.json").unlink()
    prepare("ravdess", ravdess_tree, tmp_path, 4)
    assert read_manifests(tmp_path)[1]["valid"]


def test_a_kill_while_writing_leaves_no_mix(
    ravdess_tree, tmp_path, monkeypatch
):
    """Of two folds: the train set of one with the test set of the other."""
    prepare("ravdess", ravdess_tree, tmp_path, 4, fold=1)

    def killed(path, content):
        if path.name == "valid.json":
            raise KeyboardInterrupt
        path.write_text(json.dumps(content))

    with monkeypatch.context() as patch:
        patch.setattr("ser_peft.data.writing.write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare("ravdess", ravdess_tree, tmp_path, 4, fold=2)
    with pytest.raises(InputError, match="protocol.json: .*No such file"):
        read_manifests(tmp_path)
    prepare("ravdess", ravdess_tree, tmp_path, 4, fold=1)
    _, manifests = read_manifests(tmp_path)
    assert "06" in {e["speaker"] for e in manifests["train"].values()}


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"corpus": "ravdes"}, "corpus ravdes: unknown; .*ravdess"),
        ({"protocol": "random"}, "protocol random: ravdess has peft-ser"),
        ({"fold": 6}, "fold=6: peft-ser has folds 1 to 5"),
        ({"fold": 0}, "fold=0"),
        ({"classes": 5}, "classes 5: ravdess has sets of 4, 7, 8"),
        ({"classes": ["sad", "happy"]}, "classes .*ravdess has sets of 4"),
        ({"classes": {"sadness": "sad", "happy": "happy"}}, "'sadness'"),
        ({"classes": {"sad": "sad"}}, "at least two classes"),
        ({"classes": {"sad": 1, "happy": 2}}, "sad: 1 is no text; write '1'"),
        ({"data_folder": "/no/such/folder"}, "/no/such/folder: no such"),
    ],
)
def test_unfit_requests(ravdess_tree, tmp_path, request_, message):
    request_ = {
        "corpus": "ravdess",
        "data_folder": ravdess_tree,
        "classes": 4,
        **request_,
    }
    with pytest.raises(InputError, match=message):
        prepare(save_folder=tmp_path, **request_)
    assert not list(tmp_path.iterdir())


def test_a_speaker_in_two_splits_writes_nothing(ravdess_tree, tmp_path):
    clips = [
        Utterance(path.stem, path, path.stem[-2:])
        for path in sorted(ravdess_tree.rglob("*.wav"))[:16]
    ]
    about = {"data_folder": str(ravdess_tree), "classes": ["low", "high"]}
    labels = {u.id: "low" if i % 2 else "high" for i, u in enumerate(clips)}
    splits = {"train": clips[:9], "valid": clips[9:12], "test": clips[12:]}
    with pytest.raises(InputError, match="speaker 02 is in train and in valid"):
        write_manifests(splits, labels, tmp_path, about)
    assert not list(tmp_path.iterdir())


def test_voices_that_are_trained_on_and_tested(ravdess_tree, tmp_path, caplog):
    """Each has one class only, and some in train and test."""
    splits = {"train": [], "valid": [], "test": []}
    for path in sorted(ravdess_tree.rglob("*.wav"))[:48]:
        for split, part in zip(splits, ("01", "02", "03"), strict=True):
            if path.stem[-2:] == part or path.stem[-2:] == "04":
                splits[split].append(path)
    splits = {
        split: [Utterance(f"{split}{p.stem}", p, p.stem[-2:]) for p in paths]
        for split, paths in splits.items()
    }
    labels = {
        u.id: "low" if int(u.speaker) < 4 else "high"
        for utterances in splits.values()
        for u in utterances
    }
    about = {"data_folder": str(ravdess_tree), "classes": ["low", "high"]}
    about |= {"corpus": "x", "protocol": "y", "fold": 1}
    about["shares_speakers"] = True
    write_manifests(splits, labels, tmp_path, about)
    assert "4 of 4 speakers with several clips have one" in caplog.messages[-1]
    assert caplog.messages[-1].endswith(
        "scores may be those of knowing the voices, some of which are tested "
        "and trained on here"
    )


def test_an_id_that_is_there_twice(ravdess_tree, tmp_path, monkeypatch):
    read = ravdess.read
    monkeypatch.setattr(ravdess, "read", lambda folder: 2 * read(folder))
    with pytest.raises(InputError, match="ravdess: two utterances have the id"):
        prepare("ravdess", ravdess_tree, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_labels_are_columns(ravdess_tree, tmp_path):
    """But they take no name that manifests or batches need."""
    given = {"emotion": "sad", "age": 31, "arousal": 3.5, "style": "read"}
    taken = {"speaker": "x", "wav": "y", "gender": "z", "label": "w", "id": "v"}
    no_scalar = {"votes": ["sad", "happy"], "race": None}
    paths = sorted(ravdess_tree.rglob("*.wav"))
    splits, labels = {}, {}
    for split, actor in (("train", "01"), ("valid", "02"), ("test", "03")):
        splits[split] = [
            Utterance(path.stem, path, actor, labels=given | taken | no_scalar)
            for path in paths
            if path.parent.name == f"Actor_{actor}"
        ]
        for i, utterance in enumerate(splits[split]):
            labels[utterance.id] = "low" if i % 2 else "high"
    about = {"corpus": "x", "protocol": "p", "fold": 1, "folds_total": 1}
    about |= {"data_folder": str(ravdess_tree), "classes": ["low", "high"]}
    write_manifests(splits, labels, tmp_path, about)
    _, manifests = read_manifests(tmp_path)
    entry = manifests["test"]["03-01-01-01-01-01-03"]
    assert entry.pop("duration") > 0
    assert entry == {
        "wav": "{data_root}/Actor_03/03-01-01-01-01-01-03.wav",
        "speaker": "03",
        "emotion": "high",
        "age": 31,
        "arousal": 3.5,
        "style": "read",
    }
    _, sets = datasets(tmp_path)
    assert {item["label"] for item in sets["train"]} == {0, 1}


def test_the_next_fold_decodes_nothing(ravdess_tree, tmp_path, monkeypatch):
    tree = shutil.copytree(ravdess_tree, tmp_path / "tree")
    prepare("ravdess", tree, tmp_path / "1", 4, fold=1)
    monkeypatch.delattr("ser_peft.data.checking.Recording")
    prepare("ravdess", tree, tmp_path / "2", 4, fold=2)
    one, two = (
        {
            key: entry["duration"]
            for entries in read_manifests(tmp_path / fold)[1].values()
            for key, entry in entries.items()
        }
        for fold in "12"
    )
    assert one == two


@pytest.mark.parametrize(
    ("name", "edit", "message"),
    [
        ("valid", lambda c: c["03-01-01-01-01-01-24"].update(speaker="06"),
         "speaker 06 is in train and in valid"),
        ("test", lambda c: c["03-01-01-01-01-01-01"].update(emotion="bored"),
         "test: 03-01-01-01-01-01-01 has class 'bored'"),
        ("train", lambda c: [c.pop(k) for k in list(c) if k[6:8] == "05"],
         "train: no utterance of class 'angry'"),
        ("test", lambda c: c.clear(), "test: no utterances"),
        ("test", lambda c: c["03-01-01-01-01-01-01"].pop("speaker"),
         "test.json: .*03-01-01-01-01-01-01: has no 'speaker'"),
        ("train", lambda c: c["03-01-01-01-01-01-06"].pop("duration"),
         "train.json: .*03-01-01-01-01-01-06: has no 'duration'"),
        ("protocol", lambda c: c.pop("classes"),
         "protocol.json: .*has no 'classes'"),
    ],
)  # fmt: skip
def test_manifests_that_cannot_be_judged(copied_manifests, name, edit, message):
    change(copied_manifests, name, edit)
    with pytest.raises(InputError, match=message):
        read_manifests(copied_manifests)


def test_manifests_missing_or_broken(copied_manifests, tmp_path):
    with pytest.raises(InputError, match="protocol.json: .*No such file"):
        read_manifests(tmp_path / "nowhere")
    (copied_manifests / "test.json").write_text('{"03-01')
    with pytest.raises(InputError, match="test.json: .*not valid JSON"):
        read_manifests(copied_manifests)
    (copied_manifests / "test.json").unlink()
    with pytest.raises(InputError, match="test.json: .*No such file"):
        read_manifests(copied_manifests)
