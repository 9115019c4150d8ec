"""Several corpora at once: who is where, what weighs how much, scores."""

import csv
import json
from collections import Counter
from pathlib import Path

import pytest
import trees_a
import trees_b

from ser_peft.corpora import CORPORA, load_corpus
from ser_peft.corpora.protocols import FOUR, classes_of
from ser_peft.data import prepare, read_manifests
from ser_peft.data.provenance import Heard
from ser_peft.errors import InputError
from ser_peft.inference import load_model
from ser_peft.training.objectives import clip_weights

POOL = ["crema-d", "iemocap", "msp-improv", "msp-podcast"]
HPARAMS = "MultiCorpus/hparams/whisper_lora.yaml"


def prepare_pool(
    folders, out, train, test, whole_targets=False, protocol="released", **more
):
    """As the recipe's yamls say it."""
    corpora = {"folders": folders, "train": train, "test": test}
    corpora |= {"whole_targets": whole_targets}
    prepare(corpora, "nowhere", out, protocol=protocol, **more)


@pytest.fixture(scope="module")
def places(ravdess_tree, tmp_path_factory):
    """Corpus -> its miniature; the first four where the yamls expect them."""
    root = tmp_path_factory.mktemp("corpora")
    folders = {
        "iemocap": ("IEMOCAP_full_release", trees_a.iemocap_tree),
        "msp-improv": ("MSP-IMPROV", trees_a.msp_improv_tree),
        "msp-podcast": ("MSP-Podcast", trees_a.msp_podcast_tree),
        "crema-d": ("CREMA-D", trees_b.crema_d_tree),
        "emodb": ("EmoDB", trees_b.emodb_tree),
        "custom": ("mine", trees_b.custom_tree),
    }
    for folder, tree in folders.values():
        (root / folder).mkdir()
        tree(root / folder)
    found = {name: root / folder for name, (folder, _) in folders.items()}
    found["emobox:toy"] = trees_b.emobox_tree(root / "EmoBox")
    return {**found, "ravdess": ravdess_tree}


def speakers(manifests, corpus):
    """Split -> a corpus's speakers in it."""
    return {
        split: {
            entry["speaker"].removeprefix(f"{corpus}/")
            for entry in entries.values()
            if entry["corpus"] == corpus
        }
        for split, entries in manifests.items()
    }


# ---------------------------------------------------------------- manifests


def test_the_released_split(places, tmp_path):
    prepare_pool(places, tmp_path, POOL, POOL)
    about, manifests = read_manifests(tmp_path)
    assert about["corpus"] == "pooled"
    assert about["protocol"] == f"released: {'+'.join(POOL)}"
    assert about["classes"] == list(FOUR)
    assert (about["fold"], about["folds_total"]) == (1, 1)
    expected = {
        "iemocap": ({f"Ses0{n}{sex}" for n in (1, 2, 3) for sex in "FM"},
                    {"Ses04F", "Ses04M"}, {"Ses05F", "Ses05M"}),
        "msp-improv": ({f"{sex}0{n}" for n in (1, 2, 3, 6) for sex in "FM"},
                       {"F04", "M04"}, {"F05", "M05"}),
        "msp-podcast": ({"0", "1"}, {"2", "3"}, {"4", "5"}),
        "crema-d": ({"1001", "1020", "1038"}, {"1060"}, {"1080"}),
    }  # fmt: skip
    for corpus, (train, valid, test) in expected.items():
        assert speakers(manifests, corpus) == {
            "train": train, "valid": valid, "test": test
        }  # fmt: skip
    for entries in manifests.values():
        kinds = {(e["corpus"], e["emotion"]) for e in entries.values()}
        assert kinds == {(name, emotion) for name in POOL for emotion in FOUR}
        for id_, entry in entries.items():
            corpus = entry["corpus"]
            assert id_.startswith(f"{corpus}/")
            wav = Path(entry["wav"].format(data_root=about["data_folder"]))
            assert wav.is_file() and wav.is_relative_to(places[corpus])
            # Whose scale would it be?
            assert "arousal" not in entry
    sad = manifests["test"]["crema-d/1080_DFA_SAD_XX"]
    assert (sad["emotion"], sad["age"]) == ("sad", 50)


def test_equal_names_are_different_people(places, tmp_path):
    """EmoDB's 03 and RAVDESS's 03; the protocols of theirs, its fold 2."""
    names = ["emodb", "ravdess"]
    prepare_pool(places, tmp_path, names, names, fold=2)
    about, manifests = read_manifests(tmp_path)
    assert about["folds_total"] > 1
    assert about["protocol"] == "five-fold+peft-ser: emodb+ravdess"
    dealt = {name: speakers(manifests, name) for name in names}
    assert dealt["ravdess"]["test"] == {f"{n:02d}" for n in range(6, 11)}
    for name in names:
        deal = next(iter(load_corpus(name).PROTOCOLS.values()))
        assert about["corpora"][name]["protocol"] == deal.name
        assert dealt[name]["test"] == set(deal.test[1])
        assert dealt[name]["valid"] == set(deal.valid[1])
    # The same name is in different sets of the two.
    mixed = set.union(*dealt["ravdess"].values()) & set.union(
        *dealt["emodb"].values()
    )
    assert any(
        name in dealt["ravdess"][split] and name not in dealt["emodb"][split]
        for name in mixed
        for split in manifests
    )


def test_train_on_these_test_on_that(places, tmp_path):
    trained = ["msp-improv", "iemocap"]
    tested = ["iemocap", "custom", "emobox:toy"]
    prepare_pool(places, tmp_path, trained, tested)
    about, manifests = read_manifests(tmp_path)
    assert about["protocol"] == (
        "speaker-folds+emobox+released: iemocap+msp-improv to "
        "custom+emobox:toy+iemocap"
    )
    found = {
        split: {entry["corpus"] for entry in entries.values()}
        for split, entries in manifests.items()
    }
    assert found == {
        "train": {"iemocap", "msp-improv"},
        "valid": {"iemocap", "msp-improv"},
        "test": {"iemocap", "custom", "emobox:toy"},
    }
    # What is tested does not depend on what is trained.
    prepare_pool(places, tmp_path / "alone", ["custom"], ["custom"])
    _, alone = read_manifests(tmp_path / "alone")
    test = {k: e for k, e in manifests["test"].items() if "custom" in k}
    assert test.keys() == alone["test"].keys()


def test_whole_targets(places, tmp_path):
    """All of EmoDB, whose speakers nobody has heard; IEMOCAP's test split."""
    request = (places, tmp_path, ["iemocap"], ["emodb", "iemocap"])
    prepare_pool(*request)
    _, split = read_manifests(tmp_path)
    prepare_pool(*request, whole_targets=True)
    about, manifests = read_manifests(tmp_path)
    assert about["protocol"] == "whole+released: iemocap to emodb+iemocap"
    clips = {
        f"emodb/{u.id}"
        for u in load_corpus("emodb").read(places["emodb"])
        if u.labels["emotion"] in load_corpus("emodb").CLASS_SETS[4]
    }
    tested = {id_ for id_ in manifests["test"] if id_.startswith("emodb")}
    assert tested == clips and len(clips) == 40
    dealt = speakers(manifests, "emodb")
    assert len(dealt["test"]) == 10 and not dealt["train"] | dealt["valid"]
    assert speakers(manifests, "iemocap") == speakers(split, "iemocap")


def test_a_whole_target_may_have_few_speakers(places, tmp_path):
    """Two, and a class of one of them; not enough for folds."""
    lines = (places["custom"] / "data.csv").read_text("utf-8-sig").splitlines()
    table = places["custom"] / "two.csv"
    kept = [line for line in lines[1:] if ",01," in line or ",02," in line]
    table.write_text("\n".join([lines[0], *kept[1:]]))
    corpora = places | {"custom": table}
    with pytest.raises(InputError, match="corpora: custom: speaker: 2 of them"):
        prepare_pool(corpora, tmp_path, ["iemocap"], ["custom"])
    prepare_pool(corpora, tmp_path, ["iemocap"], ["custom"], whole_targets=True)
    table.unlink()
    _, manifests = read_manifests(tmp_path)
    assert len(manifests["test"]) == 7


@pytest.mark.parametrize("columns", [["corpus", "emotion"], ["corpus"], []])
def test_balance(places, tmp_path, columns):
    """Each kind of clip counts alike; RAVDESS is only tested."""
    prepare_pool(places, tmp_path, POOL, [*POOL, "ravdess"])
    _, manifests = read_manifests(tmp_path)
    weight_of = clip_weights(manifests, columns)
    sums, weights = Counter(), []
    for id_, entry in manifests["train"].items():
        weights.append(weight_of[id_])
        sums[tuple(entry[column] for column in columns)] += weights[-1]
    assert sum(weights) == pytest.approx(len(weights))
    assert len(sums) == 4 ** len(columns)
    assert max(sums.values()) == pytest.approx(min(sums.values()))
    # One training clip of each class in MSP-Podcast, six in IEMOCAP.
    few, many = (
        weight_of[next(k for k in manifests["train"] if corpus in k)]
        for corpus in ("msp-podcast", "iemocap")
    )
    assert few == pytest.approx(many * (6 if "corpus" in columns else 1))
    unheard = {w for id_, w in weight_of.items() if "ravdess" in id_}
    assert unheard == {1}


@pytest.mark.parametrize("name", CORPORA)
def test_four_classes_have_one_order(name):
    sets = getattr(load_corpus(name), "CLASS_SETS", {})
    assert classes_of(sets.get(4, {n: n for n in FOUR})) == list(FOUR)


def test_same_request_is_kept(places, tmp_path):
    def times():
        return {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}

    prepare_pool(places, tmp_path, POOL[:2], POOL[:2])
    before = times()
    prepare_pool(places, str(tmp_path), POOL[1::-1], POOL[:2])
    assert times() == before
    prepare_pool(places, tmp_path, POOL[:2], POOL[:1])
    after = times()
    assert all(after[name] > before[name] for name in before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": []}, r"corpus: .*train: .*at least 1 item.*not \[\]"),
        ({"test": "iemocap"}, "corpus: .*test: .*valid list, not 'iemocap'"),
        ({"test": ["meld"]}, "corpora: meld has no folder"),
        ({"corpora": {"iemocap": None}}, "corpora: iemocap has no folder"),
        ({"corpora": "here"}, "corpus: .*folders: .*dictionary, not 'here'"),
        ({"corpora": {"iemocap": "/no/where"}},
         "corpora: iemocap: data_folder /no/where: no such folder"),
        ({"corpora": {"savee": "/x"}, "train": ["savee"]},
         "corpora: savee: corpus savee: unknown"),
        ({"classes": 5, "test": ["crema-d"]},
         "corpora: crema-d: classes 5: crema-d has sets of 4, 6"),
        ({"classes": 6, "test": ["crema-d"]},
         "classes 6: neutral, .*, frustrated in iemocap, .*, disgust in crema"),
        ({"whole_targets": True}, "whole_targets: all of test_corpora are tr"),
        ({"protocol": "relased"}, "protocol relased: none of iemocap"),
        ({"fold": 2}, "--fold=2: there are folds 1 to 1"),
        ({"fold": 6, "test": ["msp-improv"], "protocol": "peft-ser"},
         "corpora: iemocap: --fold=6: peft-ser has folds 1 to 5"),
    ],
)  # fmt: skip
def test_unfit(places, tmp_path, change, message):
    request = {
        "train": ["iemocap"],
        "test": ["iemocap"],
        **change,
    }
    corpora = request.pop("corpora", {})
    if isinstance(corpora, dict):
        corpora = {k: v for k, v in places.items() if k != "meld"} | corpora
    with pytest.raises(InputError, match=message):
        prepare_pool(corpora, tmp_path, **request)
    assert not any(tmp_path.iterdir())


# ----------------------------------------------------------------- training


def finished(folder):
    """Results of a run, and its test ids by corpus."""
    results = json.loads((folder / "results.json").read_text())
    with open(folder / "predictions.csv", newline="") as file:
        ids = [row["id"] for row in csv.DictReader(file)]
    return results, Counter(id_.split("/")[0] for id_ in ids)


def test_two_processes(places, arguments, train, tmp_path):
    end = train(
        arguments(
            tmp_path / "run",
            HPARAMS,
            data_folder=places["iemocap"].parent,
            manifests_folder=None,
            number_of_epochs=1,
            distributed_backend="gloo",
            balanced_sampling="True",
            mixing=0.5,
        ),
        processes=2,
    )
    assert end.code == 0, end.log
    results, tested = finished(tmp_path / "run")
    assert results["processes"] == 2
    assert results["corpus"] == "pooled"
    assert sorted(tested) == POOL
    scores = results["by_corpus"]
    assert {k: v["test_utterances"] for k, v in scores.items()} == tested
    assert results["test_utterances"] == tested.total()
    wa = sum(tested[name] * scores[name]["wa"] for name in POOL)
    assert results["wa"] == pytest.approx(wa / tested.total())
    page = (tmp_path / "run" / "report.html").read_text()
    assert "msp-improv</th>" in page


def test_across_corpora(places, arguments, train, tmp_path):
    """Corpora at places of their own; what is trained on decides a run."""
    settings = {
        "data_folder": "nowhere",
        "corpora": json.dumps({k: str(v) for k, v in places.items()}),
        "manifests_folder": None,
        "number_of_epochs": 1,
        "train_corpora": "[crema-d, emodb]",
        "test_corpora": "[ravdess]",
        "whole_targets": "True",
    }
    end = train(arguments(tmp_path / "run", HPARAMS, **settings))
    assert end.code == 0, end.log
    results, tested = finished(tmp_path / "run")
    assert [*tested] == [*results["by_corpus"]] == ["ravdess"]
    only = results["by_corpus"]["ravdess"]
    assert (only["ua"], only["wa"]) == (results["ua"], results["wa"])
    assert len(results["test_speakers"]) == 24
    used = "released+five-fold+whole"
    assert results["protocol"] == f"{used}: crema-d+emodb to ravdess"
    moved = settings | {"corpora": "{ravdess: /elsewhere}"}
    end = train(arguments(tmp_path / "run", HPARAMS, **moved))
    assert (end.code, "is finished" in end.log) == (0, True), end.log
    other = settings | {"train_corpora": "[crema-d]"}
    end = train(arguments(tmp_path / "run", HPARAMS, **other))
    assert end.code == 2 and "another 'train_corpora'" in end.log


def test_heard_in_a_pool(places, arguments, train, tmp_path):
    """Also where a pool heard them, another corpus's run tests the unheard."""
    settings = {
        "data_folder": "nowhere",
        "corpora": json.dumps({k: str(v) for k, v in places.items()}),
        "manifests_folder": None,
        "number_of_epochs": 1,
        "train_corpora": "[ravdess]",
        "test_corpora": "[emodb]",
    }
    end = train(arguments(tmp_path / "pool", HPARAMS, **settings))
    assert end.code == 0, end.log
    again = {"init_from": tmp_path / "pool", "manifests_folder": None}
    end = train(arguments(tmp_path / "run", **again, fold=2))
    assert end.code == 2
    assert "pool/model/adapter: has heard 5 of the 5 speakers" in end.log


def test_a_corpus_twice_in_a_pool():
    about = {"corpus": "pooled", "protocol": "p", "protocol_sha": "a"}
    sets = {
        split: {"1": {"corpus": name, "speaker": f"{name}/07"}}
        for split, name in [
            ("train", "crema-d"), ("valid", "ravdess"),
            ("test", "emobox:ravdess"),
        ]
    }  # fmt: skip
    with pytest.raises(InputError, match="whom it tests .07 of ravdess"):
        Heard(about, sets)


STAGES = "MultiCorpus/hparams/whisper_two_stages.yaml"
ACTED, NATURAL = ["crema-d", "emodb"], ["iemocap"]


@pytest.mark.parametrize(
    ("first", "second", "how"),
    [
        (ACTED, NATURAL, {"init_parallel": "frozen"}),
        (NATURAL, ACTED, {"init_merged": "True"}),
    ],
    ids=["acted to natural", "natural to acted"],
)
def test_two_stages(places, arguments, train, tmp_path, first, second, how):
    """Both are tested on all corpora; the second knows whom the first heard."""
    settings = {
        "data_folder": "nowhere",
        "corpora": json.dumps({k: str(v) for k, v in places.items()}),
        "manifests_folder": None,
        "number_of_epochs": 1,
        "test_corpora": json.dumps([*ACTED, *NATURAL]),
        "adapter_lr": 0.01,
        "keep": "last",
    }

    def stage(name, corpora, **more):
        more["train_corpora"] = json.dumps(corpora)
        out = tmp_path / name
        end = train(arguments(out, STAGES, **settings | more))
        assert end.code == 0, end.log
        return finished(out)

    one, tested = stage("one", first)
    two, again = stage("two", second, init_from=tmp_path / "one", **how)
    assert tested == again and {*tested} == {*ACTED, *NATURAL}
    assert {*one["by_corpus"]} == {*two["by_corpus"]} == {*tested}
    assert {*one["heard"]["speakers"]} == {*first}
    assert {*two["heard"]["speakers"]} == {*first, *second}
    adapter = tmp_path / "two" / "model" / "adapter"
    rank = json.loads((adapter / "adapter_config.json").read_text())["r"]
    assert ("gates" in two) == ("init_parallel" in how)
    assert rank == (32 if "init_parallel" in how else 16)
    assert (adapter / "base").is_dir() == ("init_merged" in how)
    model = load_model(tmp_path / "two")
    with open(tmp_path / "two" / "predictions.csv", newline="") as file:
        row = next(csv.DictReader(file))
    corpus, name = row["id"].split("/")
    (path,) = places[corpus].rglob(f"{name}.wav")
    (answer,) = model.predict([str(path)])
    for emotion, score in answer["scores"].items():
        assert score == pytest.approx(float(row[emotion]), abs=1e-3)
    # Nobody whom the first stage heard is tested.
    end = train(
        arguments(
            tmp_path / "three",
            STAGES,
            **settings | {"test_corpora": json.dumps(first)},
            train_corpora=json.dumps(second),
            init_from=tmp_path / "one",
            whole_targets="True",
        )
    )
    assert (end.code, "has heard" in end.log) == (2, True), end.log
