"""The card of a model, read as the Hugging Face hub reads it."""

import copy
import json
import re

import numpy as np
import pytest
from huggingface_hub import ModelCard
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from huggingface_hub.repocard_data import (
    eval_results_to_model_index,
    model_index_to_eval_results,
)
from markdown_it import MarkdownIt
from pages import HOSTILE, Page

from ser_peft.adapters import PeftLobe
from ser_peft.errors import InputError, printable
from ser_peft.evaluation.fairness import fairness, worst_speaker
from ser_peft.evaluation.metrics import scores, speaker_interval
from ser_peft.heads import LinearHead
from ser_peft.inference import EmotionModel, load_model
from ser_peft.inference.card import (
    CARD,
    move_card,
    plain,
    read_card,
    write_card,
)
from ser_peft.inference.export import export
from ser_peft.lobes import load_lobe

CLASSES = ["angry", "happy", "sad"]
RAVDESS = "https://zenodo.org/records/1188976"
EVIL = [
    HOSTILE,
    "a\n---\nlicense: mit",
    "[click](javascript:alert(1))",
    "![x](http://evil.example/x.png)",
    "www.evil.example",
    "`` | ``` |",
    "a: b # c",
    "# heading",
    "- &x *x",
    "\udce9\u202e",
]


def results_of(classes=CLASSES, speakers=("s1", "s2", "s3", "s4"), **changes):
    """``results.json`` of a small test set."""
    rng = np.random.default_rng(0)
    labels = rng.integers(len(classes), size=60).tolist()
    guesses = np.where(rng.random(60) < 0.7, labels, 0).tolist()
    spoken = [speakers[i % len(speakers)] for i in range(60)]
    groups = [f"group {i % 2}" for i in range(60)]
    judged = labels, guesses, spoken
    ends, reason = speaker_interval(*judged, classes)
    return {
        "corpus": "ravdess",
        "protocol": "peft-ser",
        "protocol_sha": "5ca1ab1e",
        "fold": 5,
        "folds_total": 5,
        "seed": 8,
        "backbone": "openai/whisper-tiny.en",
        "method": "lora",
        "head": "LinearHead",
        "classes": classes,
        **scores(labels, guesses, classes),
        "ua_ci95": ends,
        "ua_ci95_reason": reason,
        "worst_speaker": worst_speaker(*judged, classes),
        "fairness": {"gender": fairness(*judged, groups, classes)},
        "robustness": {"babble 10 dB": 0.41},
        "calibration": {
            **{"temperature": 1.5, "ece": 0.1, "ece_scaled": 0.05},
            **{"unsure": 0.6, "coverage": 0.8, "accuracy_answered": 0.75},
            "accuracy": 0.7,
        },
        "start": {"from": "linear probe", "valid_ua": 0.3, "ua": 0.31},
        "valid_ua": 0.6,
        "test_speakers": sorted(speakers),
        "trainable_parameters": {"adapter": 1_234_567, "head": 4_321},
        "total_parameters": 9_000_000,
        "kept": "best valid UA: epoch 2",
        "heard": {
            "speakers": {"ravdess": ["01", "02"]},
            "deals": ["5ca1ab1e"],
            "trust_start": [],
        },
        "versions": {"torch": "2.11.0"},
        **changes,
    }


def shown(text):
    """What a browser makes of markdown with tables and HTML."""
    text = REGEX_YAML_BLOCK.sub("", text, count=1)
    return Page(MarkdownIt().enable(["table", "strikethrough"]).render(text))


@pytest.fixture(scope="module")
def saved(tiny_backbones, tmp_path_factory):
    """A model folder."""
    encoder = PeftLobe(load_lobe(tiny_backbones["whisper"]), "frozen")
    head = LinearHead(encoder, CLASSES)
    folder = tmp_path_factory.mktemp("run") / "model"
    EmotionModel(encoder, head, CLASSES).save(folder)
    return folder


@pytest.fixture
def card_of(saved):
    """Content of the card of some results."""

    def write(results):
        write_card(saved, results)
        return (saved / CARD).read_text("utf-8")

    return write


def test_the_hub_reads_the_figures(card_of):
    results = results_of()
    card = ModelCard(card_of(results))
    data = card.data
    assert data.library_name == "ser_peft"
    assert data.pipeline_tag == "audio-classification"
    assert (data.datasets, data.language) == (["ravdess"], ["en"])
    assert data.metrics == ["recall", "accuracy", "f1"]
    assert {*data.tags} >= {"speech-emotion-recognition", "peft", "lora"}
    found = {one.metric_type: one.metric_value for one in data.eval_results}
    for kind, key in (("recall", "ua"), ("accuracy", "wa"), ("f1", "macro_f1")):
        assert found[kind] == pytest.approx(results[key], abs=1e-4)
    index = eval_results_to_model_index(data.model_name, data.eval_results)
    assert model_index_to_eval_results(index) == (
        data.model_name,
        data.eval_results,
    )
    # Written again, it is the same.
    assert str(ModelCard(str(card))) == str(card)


def test_a_person_reads_the_rest(card_of):
    results = results_of()
    text = " ".join(ModelCard(card_of(results)).text.split())
    low, high = results["ua_ci95"]
    for told in (
        f"| {results['ua']:.1%} | {low:.1%} to {high:.1%} |",
        *(f"| {k} | {v:.1%} |" for k, v in results["per_class_recall"].items()),
        "60 utterances of 4 speakers of ravdess (protocol peft-ser, fold 5 of",
        "s1, s2, s3, s4. Training heard none of them.",
        "| babble 10 dB | 41.0% |",
        "10.0% as trained, 5.0% with the temperature 1.500",
        "Of the test set 80.0% are not, and 75.0% of these are right",
        "acted",
        "linear probe",
        "2 of the speakers of ravdess",
        "torch 2.11.0",
        "Regulation 2024/1689",
    ):
        assert told in text


def test_licences_are_told_and_not_guessed(card_of):
    card = ModelCard(card_of(results_of()))
    assert card.data.license == "other"
    assert card.data["license_name"] == "corpus-cc-by-nc-sa-4.0"
    assert re.fullmatch("[a-z0-9.-]+", card.data["license_name"])
    assert "non-commercial" in card.data.tags
    assert "**Not for commercial use.**" in card.text
    heard = {"speakers": {"a corpus": ["x"], "emodb": ["03"]}}
    card = ModelCard(card_of(results_of(corpus="a corpus", heard=heard)))
    assert card.data["license_name"] == "corpus-unknown"
    assert "Corpus a corpus: no licence is known here." in card.text
    assert "commercial" not in card.text + str(card.data.tags)
    assert card.data.language == ["de"]
    assert card.data.datasets == ["a-corpus", "emodb"]


@pytest.mark.parametrize("evil", EVIL)
def test_names_are_no_markup(card_of, evil):
    plainly = results_of(["angry", "x", "sad"], ["s1", "y", "s3", "s4"])
    plainly |= {"method": "m", "corpus": "c", "backbone": "b", "kept": "k"}
    plainly["heard"] = {"speakers": {"c": ["x"]}, "trust_start": ["x"]}
    plainly = card_of(plainly)
    changes = {"protocol": evil, "robustness": {evil: 0.4}, "kept": evil}
    results = results_of(["angry", evil, "sad"], ["s1", evil, "s3", "s4"])
    results |= {**changes, "method": evil, "corpus": evil, "backbone": evil}
    results["heard"] = {"speakers": {evil: [evil]}, "trust_start": [evil]}
    content = card_of(results)
    # The front matter ends where it should, and says nothing else.
    match = REGEX_YAML_BLOCK.match(content)
    data = ModelCard(content).data
    assert (data.license, data.library_name) == ("other", "ser_peft")
    assert {*data.to_dict()} <= {*ModelCard(plainly).data.to_dict()}
    body = content[match.end() :]
    page, plain_page = shown(body), shown(plainly)
    assert page.tags == plain_page.tags
    assert [*filter(RAVDESS.__ne__, plain_page.links)] == page.links == []
    # Nor do sites that make links of whatever looks like one.
    assert not re.search(r"http://|https://|www\.", body)
    # Not only is nothing run: what was written is what is shown.
    told = " ".join(printable(evil).split())
    assert told in " ".join(page.shown.split())


def test_no_path_of_the_machine_is_told(saved, card_of):
    """Neither of the run, nor of the model itself."""
    place = "/home/anna/secret/whisper"
    heard = {"speakers": {}, "trust_start": [f"init_from: {place}"]}
    text = card_of(results_of(backbone=place, heard=heard))
    assert "/home/anna" not in text and str(saved.parent) not in text
    assert "What init\\_from named has no record" in text
    # The hub takes ids only.
    assert ModelCard(text).data.base_model is None
    assert "Give your copy of it, `backbone=`" in text


@pytest.mark.parametrize(
    "changes",
    [
        {"fairness": {}, "worst_speaker": None, "robustness": {}},
        {"calibration": {"temperature": 1.5, "ece": 0.1, "ece_scaled": 0.05}},
        {"ua_ci95": None, "ua_ci95_reason": "2 speakers: needs 4"},
        {"seed": None, "start": None, "valid_ua": None},
        {"missing_classes": ["sad"], "shares_speakers": True},
        {"text": {"backbone": "google-bert/bert-base-uncased"}},
        {
            "ccc": {"arousal": 0.5, "valence": 0.25},
            "ccc_mean": 0.375,
            "ccc_ci95": [0.2, 0.5],
            "ccc_ci95_reason": None,
        },
        {
            "by_corpus": {
                "ravdess": {
                    **{"ua": 0.5, "wa": 0.4, "macro_f1": 0.45},
                    "ua_ci95": None,
                    "ua_ci95_reason": "one speaker",
                    "test_utterances": 30,
                }
            }
        },
    ],
)
def test_all_kinds_of_runs_have_a_card(card_of, changes):
    results = results_of(**changes)
    card = ModelCard(card_of(results))
    assert card.data.eval_results
    if "ccc" in changes:
        assert "ccc" in card.data.metrics
        assert "| mean CCC | 0.375 | 0.200 to 0.500 |" in card.text
    if "by_corpus" in changes:
        assert "| ravdess | 50.0% | none: one speaker | 30 |" in card.text
    if changes.get("shares_speakers"):
        assert "**Training heard these speakers too**" in card.text


def test_a_card_of_dimensions_alone(card_of):
    results = results_of()
    for key in ("ua", "wa", "macro_f1", "weighted_f1", "confusion", "valid_ua"):
        results[key] = None
    for key in ("fairness", "worst_speaker", "calibration", "start"):
        del results[key]
    results |= {"classes": [], "per_class_recall": {}, "robustness": None}
    results |= {"ccc": {"arousal": 0.5}, "ccc_mean": 0.5}
    results |= {"ccc_ci95": None, "ccc_ci95_reason": "one speaker"}
    results["kept"] = "last epoch: 3"
    card = ModelCard(card_of(results))
    (figure,) = card.data.eval_results
    assert (figure.metric_name, figure.metric_value) == ("CCC of arousal", 0.5)
    assert "UA" not in card.text


def test_the_folder_stays_sealed(saved, card_of):
    """The card may be edited; the model is proven all the same."""
    card_of(results_of())
    with open(saved / CARD, "a") as file:
        file.write("\nWe like it.\n")
    assert load_model(saved).classes == CLASSES


def test_an_export_has_the_figures(saved, card_of, tmp_path):
    before = ModelCard(card_of(results_of()))
    export(saved, tmp_path / "out", backbone="openai/whisper-tiny.en")
    card = ModelCard.load(tmp_path / "out" / CARD)
    assert card.data.eval_results == before.data.eval_results
    assert card.data.base_model == ["openai/whisper-tiny.en"]
    merged = tmp_path / "merged"
    export(saved, merged, merge=True)
    (merged / CARD).write_text(str(card))
    export(merged, tmp_path / "again")
    again = ModelCard.load(tmp_path / "again" / CARD)
    # Whose weights are in it is known from before.
    assert again.data.base_model == ["openai/whisper-tiny.en"]
    assert "Its encoder is in this folder." in again.text
    assert "Its encoder is openai/whisper-tiny.en, which is" in card.text


def test_a_merged_export_says_so(saved, card_of, tmp_path):
    before = ModelCard(card_of(results_of()))
    export(saved, tmp_path / "merged", merge=True)
    card = ModelCard.load(tmp_path / "merged" / CARD)
    assert card.data.eval_results == before.data.eval_results
    assert "Its encoder is in this folder." in card.text
    same = card.text.partition("## Scores")[2]
    assert same == before.text.partition("## Scores")[2]
    assert load_model(tmp_path / "merged").classes == CLASSES


def test_a_card_of_ones_own_is_kept(saved, tmp_path):
    (saved / CARD).write_text("---\nlicense: mit\n---\n\n# Mine\n")
    export(saved, tmp_path / "out")
    card = ModelCard.load(tmp_path / "out" / CARD)
    assert (card.data.license, card.text.strip()) == ("mit", "# Mine")
    (saved / CARD).write_text("---\na: [\n---\n\n# Mine\n")
    with pytest.raises(InputError, match="README.md: its front matter cannot"):
        read_card(saved)
    (saved / CARD).unlink()
    with pytest.raises(InputError, match="README.md: is missing; write"):
        read_card(saved)
    move_card(saved, tmp_path / "out")  # none to copy


def test_a_run_without_card_gets_one_by_its_results(saved, tmp_path):
    """As those that an older version has trained."""
    (saved / CARD).unlink(missing_ok=True)
    path = saved.parent / "results.json"
    path.write_text(json.dumps(results_of()))
    export(saved, tmp_path / "out")
    card = ModelCard.load(tmp_path / "out" / CARD)
    assert str(read_card(saved).data) == str(card.data)
    assert card.data.eval_results
    path.write_text(json.dumps({"corpus": "x"}))
    with pytest.raises(InputError, match="results.json: an older version's"):
        read_card(saved)
    path.unlink()


def test_plain_text_says_what_it_said():
    """To any reader of markdown: what is escaped is shown."""
    text = "a_b [c] 1.5 d.e"
    assert re.sub(r"\\(.)", r"\1", plain(text)) == text
    assert plain(copy.copy(plain("a_b"))) == "a\\_b"
