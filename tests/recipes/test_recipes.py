"""The yamls of all recipes, on tiny models and miniature corpora."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import trees_a
import trees_b
from hyperpyyaml import load_hyperpyyaml
from scripts import RECIPES, yaml_text
from short import short_states

from ser_peft.cli import main
from ser_peft.device import choose_precision
from ser_peft.errors import InputError
from ser_peft.inference import load_model
from ser_peft.lobes.vggish import VGGishConfig, VGGishModel
from ser_peft.settings.arguments import parse_arguments
from ser_peft.settings.yamls import OPTIONAL
from ser_peft.training import (
    DistillBrain,
    EmotionBrain,
    PtaptBrain,
    Run,
    StateBrain,
    TaptBrain,
)

ALL = sorted(
    str(path.relative_to(RECIPES)) for path in RECIPES.glob("*/hparams/*.yaml")
)
METHODS = sorted(path.stem for path in RECIPES.glob("methods/*.yaml"))
# Phase 1 of P-TAPT has a yaml, but no script of its own.
PRETRAINING = ["IEMOCAP/hparams/ptapt.yaml", "IEMOCAP/hparams/tapt.yaml"]
STATES = "IEMOCAP/hparams/ptapt_states.yaml"
DISTILLED = [name for name in ALL if name.endswith("_kd.yaml")]
# With text too, and so on a corpus that has it.
FUSED = [
    "IEMOCAP/hparams/3mser_teacher.yaml",
    "IEMOCAP/hparams/wavlm_bert.yaml",
]
YAMLS = sorted({*ALL} - {*PRETRAINING, STATES, *DISTILLED, *FUSED})
BRAINS = (DistillBrain, EmotionBrain, PtaptBrain, StateBrain, TaptBrain)


@pytest.fixture(scope="session")
def demo_tree(tmp_path_factory):
    """A miniature Demo corpus: 16 voices, two clips an emotion."""
    root = tmp_path_factory.mktemp("Demo")
    rng = np.random.default_rng(0)
    for voice in (f"{sex}{number}" for sex in "mf" for number in range(1, 9)):
        (root / voice).mkdir()
        for index, emotion in enumerate(("neutral", "angry", "sad", "happy")):
            for sentence in (1, 2):
                time = np.arange(rng.integers(4800, 9600)) / 16000
                wave = np.sin(2 * np.pi * (150 + 100 * index) * time)
                wave = 0.1 * (index + 1) * wave
                wave += rng.normal(0, 0.01, len(time))
                name = f"{voice}_{emotion}_{sentence}_1.wav"
                soundfile.write(root / voice / name, wave, 16000)
    return root


def all_trees(root):
    """The corpora of MultiCorpus, where its yamls expect them."""
    for name in ("MSP-IMPROV", "MSP-Podcast", "CREMA-D", "EmoDB"):
        (root / name).mkdir()
        TREES[name](root / name)
    trees_a.iemocap_tree(root / "IEMOCAP_full_release")


TREES = {
    "MultiCorpus": all_trees,
    "IEMOCAP": trees_a.iemocap_tree,
    "MSP-IMPROV": trees_a.msp_improv_tree,
    "MSP-Podcast": trees_a.msp_podcast_tree,
    "CREMA-D": trees_b.crema_d_tree,
    "MELD": trees_b.meld_tree,
    "EmoV-DB": trees_b.emov_db_tree,
    "EmoDB": trees_b.emodb_tree,
    "Custom": trees_b.custom_tree,
}


@pytest.fixture(scope="session")
def corpus(ravdess_tree, demo_tree, tmp_path_factory):
    """Function: name of a recipe -> its miniature corpus."""
    made = {"RAVDESS": ravdess_tree, "Demo": demo_tree}

    def find(recipe):
        if recipe not in made:
            root = tmp_path_factory.mktemp(recipe)
            made[recipe] = TREES[recipe](root) or root
            if recipe == "MultiCorpus":
                (root / "RAVDESS").symlink_to(ravdess_tree)
        return made[recipe]

    return find


def check(folder, corpus, method):
    """What every finished run leaves, and that it can be used."""
    results = json.loads((folder / "results.json").read_text())
    assert results["corpus"] == corpus
    assert results["method"] == method
    assert 0 <= results["ua"] <= 1
    assert "<html" in (folder / "report.html").read_text()
    with open(folder / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == results["test_utterances"]
    model = load_model(folder)
    noise = 0.1 * np.random.default_rng(0).normal(size=8000)
    (answer,) = model.predict([noise])
    assert list(answer["scores"]) == results["classes"]


def test_every_recipe_has_some():
    recipes = {path.parent.name for path in RECIPES.glob("*/train.py")}
    assert recipes == {name.split("/")[0] for name in YAMLS}


@pytest.mark.parametrize("name", YAMLS)
def test_yaml_runs(name, corpus, tiny_backbones, arguments, train, tmp_path):
    recipe, stem = Path(name).parts[0], Path(name).stem
    family = stem.split("_")[0].replace("vft", "wav2vec2")
    end = train(
        arguments(
            tmp_path / "run",
            name,
            data_folder=corpus(recipe),
            manifests_folder=None,
            backbone=tiny_backbones[family],
            number_of_epochs=1,
            robustness=None if recipe == "IEMOCAP" else False,
            # The yaml's own:
            **dict.fromkeys(("precision", "train_classes", "ema_decay")),
        )
    )
    assert end.code == 0, end.log
    corpus_name = "pooled" if recipe == "MultiCorpus" else recipe.lower()
    check(
        tmp_path / "run",
        corpus_name,
        "transformer" if stem == "vft" else "lora",
    )
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    asked, _ = choose_precision("cpu")
    if "compat" in name:
        asked = "fp32"  # as published
    assert results["precision"] == asked
    assert results["eval_precision"] == "fp32"
    log = (tmp_path / "run" / "train_log.txt").read_text()
    assert f"precision: {asked}, auto: " in log


@pytest.mark.parametrize("method", METHODS)
def test_method_runs(method, arguments, train, tmp_path):
    more = {}
    if method == "adalora":  # so few steps leave it no time
        more["peft"] = "{method: {tinit: 0, tfinal: 0}}"
    argv = arguments(
        tmp_path / "run", method=method, number_of_epochs=1, **more
    )
    end = train(argv)
    assert end.code == 0, end.log
    check(tmp_path / "run", "ravdess", method)


@pytest.mark.parametrize("name", PRETRAINING)
def test_pretraining_yaml_runs(
    name, corpus, tiny_pretrained, arguments, train, tmp_path
):
    """And what it leaves is a start for a training."""
    stage = Path(name).stem
    given = {
        "data_folder": corpus("IEMOCAP"),
        "manifests_folder": tmp_path / "manifests",
        "backbone": tiny_pretrained,
        "number_of_epochs": 1,
        "precision": None,
    }
    more = {}
    if stage == "ptapt":
        more = {"clusters": "[4, 6]", "layer": 1}
        more["states"] = short_states(name, tmp_path)
    out = tmp_path / "pretrained"
    end = train(
        arguments(out, name, robustness=None, **given, **more),
        script=f"train_{stage}.py",
    )
    assert end.code == 0, end.log
    results = json.loads((out / "pretraining.json").read_text())
    assert results["stage"] == stage
    assert "<html" in (out / "report.html").read_text()
    end = train(
        arguments(
            tmp_path / "run",
            "IEMOCAP/hparams/wavlm_lora.yaml",
            init_from=out,
            **given,
        )
    )
    assert end.code == 0, end.log
    check(tmp_path / "run", "iemocap", "lora")


@pytest.fixture(scope="session")
def tiny_vggish(tmp_path_factory):
    """Folder of a narrow VGGish with random weights."""
    folder = tmp_path_factory.mktemp("vggish")
    config = VGGishConfig(
        conv_dim=((4,), (4,), (8, 8), (8, 8)), hidden_dim=(32, 32)
    )
    VGGishModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def speech_and_text(
    corpus,
    tiny_backbones,
    tiny_texts,
    tiny_vggish,
    arguments,
    train,
    tmp_path_factory,
):
    """Function: yaml of `FUSED` -> its run, trained once."""
    made = {}

    def find(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp("fused") / "run"
            threem = "3mser" in name
            end = train(
                arguments(
                    made[name],
                    name,
                    data_folder=corpus("IEMOCAP"),
                    manifests_folder=None,
                    backbone=tiny_vggish if threem else tiny_backbones["wavlm"],
                    text_backbone=tiny_texts["bert"],
                    number_of_epochs=2 if threem else 1,
                    precision=None,
                    **({"head_epochs": 1} if threem else {}),
                    robustness=False if threem else None,
                )
            )
            assert end.code == 0, end.log
        return made[name]

    return find


@pytest.mark.parametrize("name", FUSED)
def test_yaml_of_speech_and_text_runs(name, speech_and_text):
    run = speech_and_text(name)
    check(run, "iemocap", "full" if "3mser" in name else "lora")
    results = json.loads((run / "results.json").read_text())
    assert results["text"]["sources"] == {"gold": results["test_utterances"]}
    assert "gold (" in (run / "report.html").read_text()
    if "bert" in name:
        assert list(results["robustness"])[0] == "no text"


def test_prediction_says_whether_it_reads(speech_and_text, corpus, capsys):
    run = speech_and_text(FUSED[1])
    wav = str(next(corpus("IEMOCAP").rglob("*.wav")))
    answers = []
    for more in ([], ["--texts", "I told you so"]):
        main(["predict", str(run), wav, "--json", *more])
        said = capsys.readouterr()
        answers.append(json.loads(said.out)["scores"])
        assert ("no --texts: this model reads" in said.err) == (not more)
    assert answers[0] != answers[1]
    with pytest.raises(SystemExit) as stop:
        main(["predict", str(run), wav, "--texts", "One", "Two"])
    assert stop.value.code == 2
    assert "--texts: 2 for 1 audio files" in capsys.readouterr().err


def test_random_split_of_distilser(
    corpus, tiny_texts, tiny_vggish, arguments, train, tmp_path
):
    """It trains, and everything says what it leaks."""
    run = tmp_path / "run"
    end = train(
        arguments(
            run,
            FUSED[0],
            protocol="distilser",
            data_folder=corpus("IEMOCAP"),
            manifests_folder=None,
            backbone=tiny_vggish,
            text_backbone=tiny_texts["bert"],
            number_of_epochs=2,
            head_epochs=1,
            robustness=None,  # the yaml's
        )
    )
    assert end.code == 0, end.log
    assert "not those of unheard" in " ".join(end.log.split())
    assert "robustness: left out" in end.log
    results = json.loads((run / "results.json").read_text())
    assert results["shares_speakers"] and results["leaks"]["speakers"] == 1
    assert "Training heard test speakers" in (run / "report.html").read_text()


def test_a_refused_student_can_be_started_again(
    arguments, train, whisper_teacher, tiny_backbones, tmp_path
):
    """With what the message asked for, in the same folder."""
    name = "RAVDESS/hparams/whisper_kd.yaml"
    for teacher, code in ((None, 2), (whisper_teacher, 0)):
        end = train(
            arguments(
                tmp_path / "run", name, teacher=teacher, number_of_epochs=1
            ),
            script="train_distill.py",
        )
        assert end.code == code, end.log
        assert teacher or "--teacher=... is needed" in end.log


@pytest.fixture(scope="session")
def whisper_teacher(arguments, train, tmp_path_factory):
    """A run on the miniature RAVDESS."""
    run = tmp_path_factory.mktemp("teacher") / "run"
    end = train(arguments(run, number_of_epochs=1))
    assert end.code == 0, end.log
    return run


@pytest.mark.parametrize("name", DISTILLED)
def test_student_yaml_runs(
    name, corpus, tiny_backbones, tiny_texts, tiny_vggish, arguments, train,
    speech_and_text, request, tmp_path,
):  # fmt: skip
    """Taught by a model of speech, or of speech and text."""
    recipe, _, file = name.split("/")
    family = file.split("_")[0]
    more = {}
    if recipe == "IEMOCAP":
        more["teacher"] = speech_and_text(FUSED[0])
    else:
        more["teacher"] = request.getfixturevalue("whisper_teacher")
    if family == "3mser":
        more |= {
            "backbone": tiny_vggish,
            "text_backbone": tiny_texts["distilbert"],
            "text_depth": "null",
            "head_epochs": 1,
        }
    elif family == "cnn":
        more["backbone"] = None  # from scratch
    else:
        more |= {"backbone": tiny_backbones[family], "depth": 1}
    end = train(
        arguments(
            tmp_path / "run",
            name,
            data_folder=corpus(recipe),
            manifests_folder=None,
            number_of_epochs=1 + more.get("head_epochs", 0),
            precision=None,
            **more,
        ),
        script="train_distill.py",
    )
    assert end.code == 0, end.log
    whole = family in ("3mser", "cnn", "whisper")
    check(tmp_path / "run", recipe.lower(), "full" if whole else "lora")


def test_any_backbone_fits(tiny_backbones, arguments, train, tmp_path):
    """The same yaml: targets and widths follow the checkpoint."""
    end = train(
        arguments(
            tmp_path / "run",
            backbone=tiny_backbones["wavlm_large"],
            number_of_epochs=1,
            fold=5,
            manifests_folder=None,
        )
    )
    assert end.code == 0, end.log
    check(tmp_path / "run", "ravdess", "lora")


def run_of(path, *overrides):
    """A checked training of a yaml."""
    return Run(*parse_arguments([str(path), *overrides]))


@pytest.mark.parametrize("name", ALL)
def test_every_key_is_read(name, tmp_path):
    """And its value is a fit one."""
    run = run_of(
        RECIPES / name, "--data_folder=a", f"--output_folder={tmp_path}"
    )
    assert run.brain in BRAINS


@pytest.mark.parametrize("key", ["adapter_rl", "patient"])
def test_no_other_key_is_taken(key, tmp_path):
    for name in (YAMLS[0], STATES, *PRETRAINING, DISTILLED[0]):
        path = tmp_path / Path(name).name
        path.write_text(f"{yaml_text(name)}\n{key}: 3\n")
        with pytest.raises(InputError, match=f"nothing reads the key '{key}'"):
            run_of(path, "--data_folder=a")


def test_flags_that_a_yaml_may_lack():
    """Some Brain reads each; a yaml may also have it."""
    defaults = set().union(*(brain.defaults for brain in BRAINS))
    assert defaults >= OPTIONAL


@pytest.mark.parametrize("brain", BRAINS)
def test_what_is_said_to_be_read_is_read(brain):
    """The settings that a Brain has stand in the code."""
    package = RECIPES.parent / "ser_peft" / "training"
    code = "".join(path.read_text() for path in package.glob("*.py"))
    script = (RECIPES / "train.py").read_text()
    for key in {*brain.defaults} - {"ckpt_interval_minutes"}:  # SpeechBrain's
        used = rf'hparams\.{key}\b|(hparams|values)(\[|\.get\()"{key}"'
        assert re.search(used, code + script), key


@pytest.mark.parametrize("name", ALL)
def test_says_what_it_is_for(name):
    """A banner first; what differs from another yaml is said there."""
    lines = (RECIPES / name).read_text().splitlines()
    assert set(lines[0]) == {"#", " "}
    assert lines[1].startswith("# ") and len(lines[1]) > 20
    assert all(len(line) <= 80 for line in lines)


@pytest.mark.parametrize("name", ALL)
def test_builds_with_plain_hyperpyyaml(
    name, tiny_backbones, tiny_texts, tiny_vggish, tiny_pretrained, tmp_path
):
    """As any SpeechBrain recipe's yaml does."""
    family = Path(name).stem.split("_")[0]
    backbone = tiny_backbones.get(family, tiny_pretrained)
    overrides = {"data_folder": "a", "output_folder": str(tmp_path)}
    if family == "3mser":
        backbone = tiny_vggish
    if family == "3mser" or "bert" in name:
        overrides["text_backbone"] = str(tiny_texts["bert"])
    if family == "3mser":
        overrides["text_depth"] = 1
    text = (RECIPES / name).read_text()
    if "depth: !ref <depth>" in text:
        overrides["depth"] = 1
    if "layer:" in text:
        overrides["layer"] = 1
    if family != "cnn":
        overrides["backbone"] = str(backbone)
    with open(RECIPES / name, encoding="utf-8") as stream:
        hparams = load_hyperpyyaml(stream, overrides)
    assert hparams["modules"]["encoder"] is hparams["encoder"]
    assert hparams["brain"].func in BRAINS
