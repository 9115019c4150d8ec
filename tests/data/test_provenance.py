"""Models that have heard the test speakers are refused, however they did."""

import json
import re

import pytest
from short import short_states

from ser_peft.data.provenance import RECORD, Heard, speakers_of
from ser_peft.errors import InputError

RAVDESS = {
    "corpus": "ravdess",
    "protocol": "peft-ser",
    "fold": 1,
    "protocol_sha": "a",
}


def heard(about, train="", test="", trust=False):
    """Record of a run whose speakers have names of a letter."""
    splits = {"train": train[1:], "valid": train[:1], "test": test}
    sets = {
        split: {str(i): {"speaker": s} for i, s in enumerate(names)}
        for split, names in splits.items()
    }
    return Heard(about, sets, trust)


@pytest.fixture
def model(tmp_path):
    """Function: corpus, speakers -> a ``model/`` folder that heard them."""

    def make(about, train, name="run"):
        folder = tmp_path / name / "model"
        folder.mkdir(parents=True)
        heard(about, train).write(folder)
        return folder

    return make


def test_train_and_valid_are_heard():
    assert heard(RAVDESS, "bca", "d").record == {
        "speakers": {"ravdess": ["a", "b", "c"]},
        "deals": ["a"],
        "trust_start": [],
    }


def test_what_a_start_has_heard_is_carried_on(model):
    """From run to run, under any protocol and however often."""
    run = heard(RAVDESS | {"protocol_sha": "b"}, "c", "d")
    run.add("init_from", model(RAVDESS, "ab"))
    run.add("teacher", model({**RAVDESS, "corpus": "meld"}, "d", "teacher"))
    assert run.record == {
        "speakers": {"meld": ["d"], "ravdess": ["a", "b", "c"]},
        "deals": ["b", "a"],
        "trust_start": [],
    }


def test_refused_by_name_and_number(model):
    folder = model(RAVDESS, "abcdefgh")
    run = heard(RAVDESS | {"fold": 2, "protocol_sha": "b"}, "z", "abxy")
    with pytest.raises(InputError) as error:
        run.add("init_from", folder / "adapter")
    assert str(error.value) == (
        f"init_from {folder}/adapter: has heard 2 of the 4 speakers whom this "
        "run tests (a of ravdess, b of ravdess); give one trained on the same "
        "fold of the same protocol, or on other corpora"
    )
    with pytest.raises(InputError, match=r"8 of .*e of ravdess, \.\.\.\)"):
        heard(RAVDESS, "z", "abcdefgh").add("teacher", folder)


@pytest.mark.parametrize("name", ["ravdess", "emobox:ravdess"])
@pytest.mark.parametrize("pooled", [False, True])
def test_corpora_under_other_names(name, pooled, tmp_path):
    """Pools and EmoBox speak of the same people."""
    about, entry = {**RAVDESS, "corpus": name}, {"speaker": "01"}
    if pooled:
        about["corpus"] = "pooled"
        entry = {"speaker": f"{name}/01", "corpus": name}
    Heard(about, {"train": {"x": entry}, "valid": {}, "test": {}}).write(
        tmp_path
    )
    sets = {"train": {}, "valid": {}, "test": {"y": {"speaker": "01"}}}
    with pytest.raises(InputError, match="heard 1 of the 1 .*01 of ravdess"):
        Heard(RAVDESS, sets).add("init_from", tmp_path)
    other = {**RAVDESS, "corpus": "crema-d"}
    Heard(other, sets).add("init_from", tmp_path)  # another's "01"


def test_a_column_called_corpus_is_no_pool():
    entry = {"speaker": "s", "corpus": "ravdess"}
    assert speakers_of({"corpus": "custom"}, [entry]) == {("custom", "s")}


def test_speakers_of_train_are_tested(model):
    """What has heard no more than this very deal's training may be used."""
    shared = RAVDESS | {"shares_speakers": True}
    folder = model(shared, "ab")
    run = heard(shared, "ab", "ab")
    run.add("init_from", folder)
    assert run.record["speakers"] == {"ravdess": ["a", "b"]}
    with pytest.raises(InputError, match="heard 2 of the 2"):
        heard(shared | {"protocol_sha": "b"}, "ab", "ab").add("x", folder)
    with pytest.raises(InputError, match="trains on speakers whom it tests"):
        heard(RAVDESS, "ab", "ab")


def test_without_a_record(tmp_path, caplog):
    with pytest.raises(InputError, match="no heard.json.*--trust_start=True"):
        heard(RAVDESS, "a", "b").add("init_from", tmp_path)
    run = heard(RAVDESS, "a", "b", trust=True)
    run.add("backbone", tmp_path, needed=False)
    assert not run.record["trust_start"] and not caplog.messages
    run.add("init_from", tmp_path)
    assert "it is trusted, and results.json says so" in caplog.text
    assert run.record["trust_start"] == [f"init_from: {tmp_path}"]
    # And says so of everything that starts from it.
    run.write(tmp_path)
    later = heard(RAVDESS, "a", "b")
    later.add("init_from", tmp_path)
    assert later.record["trust_start"] == [f"init_from: {tmp_path}"]


def test_trust_does_not_outweigh_a_record(model):
    run = heard(RAVDESS, "b", "a", trust=True)
    with pytest.raises(InputError, match="has heard 1 of the 1"):
        run.add("init_from", model(RAVDESS, "a"))


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"speakers": {"x": "abc"}}', '{"speakers": 3}']
)
def test_broken(tmp_path, text):
    (tmp_path / RECORD).write_text(text)
    with pytest.raises(InputError, match="heard.json: is no record"):
        heard(RAVDESS, "a", "b").add("teacher", tmp_path)


def test_the_record_is_json(model):
    record = json.loads((model(RAVDESS, "ab") / RECORD).read_text())
    assert record["speakers"] == {"ravdess": ["a", "b"]}


# ------------------------------------------------------------------ trainings

ENCODER = "IEMOCAP/hparams/ptapt.yaml"


def test_a_detour_over_pretraining(train, arguments, tmp_path):
    """Fold 1 -> P-TAPT of fold 2 -> fold 2, whose speakers fold 1 heard."""
    quick = {"number_of_epochs": 1, "manifests_folder": None}
    folds = [tmp_path / f"fold{k}" for k in (1, 2)]
    end = train(arguments(folds[0], fold=1, **quick))
    assert end.code == 0, end.log
    results = json.loads((folds[0] / "results.json").read_text())
    record = json.loads((folds[0] / "model" / RECORD).read_text())
    assert results["heard"] == record
    assert not {*results["test_speakers"]} & {*record["speakers"]["ravdess"]}

    def pretrain(output, **more):
        states = short_states(ENCODER, output.parent)
        more |= {"clusters": "[4]", "layer": 1, "states": states}
        more |= {"corpus": "ravdess", "protocol": "peft-ser", "method": "lora"}
        argv = arguments(output, ENCODER, robustness=None, **quick, **more)
        return train(argv, script="train_ptapt.py")

    says = "init_from.* has heard .* speakers whom this run tests"
    end = pretrain(tmp_path / "ptapt", fold=2, init_from=folds[0])
    assert end.code == 2 and re.search(says, end.log), end.log
    # Where pretraining took fold 1's test speakers for its own, it is the
    # last step that would have tested whom the first one heard.
    end = pretrain(tmp_path / "ptapt", fold=1, init_from=folds[0])
    assert end.code == 0, end.log
    pretrained = json.loads((tmp_path / "ptapt/pretraining.json").read_text())
    assert pretrained["heard"]["speakers"] == record["speakers"]
    end = train(
        arguments(folds[1], fold=2, init_from=tmp_path / "ptapt", **quick)
    )
    assert end.code == 2 and re.search(says, end.log), end.log
    assert not (folds[1] / "results.json").exists()


def test_trusted_starts_are_told(train, arguments, tmp_path):
    end = train(arguments(tmp_path / "a", number_of_epochs=1))
    assert end.code == 0, end.log
    for name in (RECORD, "manifest.json"):  # as runs were that had neither
        (tmp_path / "a" / "model" / name).unlink()
    again = {"init_from": tmp_path / "a", "number_of_epochs": 1}
    end = train(arguments(tmp_path / "b", **again))
    assert end.code == 2 and "--trust_start=True" in end.log
    end = train(arguments(tmp_path / "b", **again, trust_start="True"))
    assert end.code == 0, end.log
    results = json.loads((tmp_path / "b" / "results.json").read_text())
    (told,) = results["heard"]["trust_start"]
    assert told.startswith("init_from: ")
    page = (tmp_path / "b" / "report.html").read_text()
    assert "It was trusted" in page
