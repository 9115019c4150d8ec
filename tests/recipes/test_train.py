"""The script of all recipes: settings, failures, exit status."""

import json
import re
import shutil
from io import StringIO

import numpy as np
import pytest
import soundfile
from hyperpyyaml import load_hyperpyyaml
from ruamel.yaml import YAML
from scripts import RECIPES, run_script, yaml_text

from ser_peft.errors import InputError
from ser_peft.settings.arguments import parse_arguments
from ser_peft.settings.building import building
from ser_peft.settings.finished import finished
from ser_peft.settings.yamls import read_settings
from ser_peft.training import EmotionBrain
from ser_peft.training.run import NEEDED, READ

LORA = "RAVDESS/hparams/whisper_lora.yaml"
HPARAMS = RECIPES / "RAVDESS" / "hparams"


def settings(path, *overrides):
    """The settings that a command line resolves to, as text."""
    _, options, given = parse_arguments([str(path), *overrides])
    reads = {*NEEDED, *READ, *EmotionBrain.defaults}
    return read_settings(str(path), given, reads, options)


def values(path, *overrides):
    """The same, parsed."""
    return YAML().load(settings(path, *overrides))


# ----------------------------------------------------------------- settings


def test_overrides_and_references():
    found = values(
        HPARAMS / "whisper_lora.yaml",
        "--data_folder=/a corpus",
        "--seed=3",
        "--adapter_lr=1e-5",
        "--encoder={targets: ffn}",
    )
    assert found["data_folder"] == "/a corpus"
    assert found["output_folder"] == "results/whisper_lora/fold1/3"
    assert found["adapter_opt"]["lr"] == found["adapter_lr"] == 1e-5
    assert found["encoder"]["targets"] == "ffn"
    assert found["encoder"]["method"]["r"] == 16


def test_a_method_is_a_flag(tmp_path):
    path = HPARAMS / "whisper_lora.yaml"
    given = "--data_folder=a", "--method=prompt"
    found = values(path, *given)
    assert found["output_folder"] == "results/whisper_prompt/fold1/8"
    assert found["encoder"]["method"]["length"] == 5
    assert found["adapter_opt"]["lr"] == 0.001
    found = values(path, *given, "--peft={method: {length: 3}}")
    assert found["encoder"]["method"]["length"] == 3
    found = values(path, *given, "--adapter_lr=1e-5")
    assert found["adapter_opt"]["lr"] == 1e-5
    # One of one's own, in a folder with an odd name.
    own = tmp_path / "my \u00e4 methods" / "tiny.yaml"
    own.parent.mkdir()
    own.write_text(
        "name: tiny\nlr: 0.1\nmethod: !new:peft.LoraConfig {r: 1}\n"
        "targets: attention\n"
    )
    found = values(path, "--data_folder=a", f"--method={own}")
    assert found["encoder"]["method"]["r"] == 1
    assert found["encoder"]["targets"] == "attention"
    with pytest.raises(InputError, match="--method=dorra: .* choose one of"):
        values(path, "--data_folder=a", "--method=dorra")
    with pytest.raises(InputError, match="includes no method"):
        values(RECIPES / "IEMOCAP/hparams/3mser_teacher.yaml", *given)


def test_a_copied_yaml_includes_what_its_recipe_has(tmp_path, monkeypatch):
    """Wherever it lies, the script tells which recipe that is."""
    path = tmp_path / "mine.yaml"
    path.write_text((HPARAMS / "whisper_lora.yaml").read_text())
    script = str(RECIPES / "RAVDESS" / "train.py")
    monkeypatch.setattr("sys.argv", [script])
    found = values(path, "--data_folder=a")
    assert found["encoder"]["method"]["r"] == 16
    found = values(path, "--data_folder=a", "--method=prompt")
    assert found["encoder"]["method"]["length"] == 5
    monkeypatch.setattr("sys.argv", ["elsewhere.py"])
    with pytest.raises(InputError, match="mine.yaml: !include:.*lora.yaml"):
        values(path, "--data_folder=a")


def test_help_lists_the_keys_of_the_yaml(capsys):
    with pytest.raises(SystemExit) as stop:
        parse_arguments([str(HPARAMS / "whisper_lora.yaml"), "--help"])
    assert stop.value.code == 0
    told = capsys.readouterr().out
    assert re.search(r"--keep=last +or best \(by valid UA\)", told)
    assert re.search(r"--data_folder=\(needed\) +holds Actor_01", told)
    assert re.search(r"--method=lora +or --method=dora", told)
    assert re.search("also: .*--keep_best", told)
    assert told.index("--crop=0.7") < told.index("--grad_accumulation_factor")


def test_a_yaml_is_asked_for(capsys):
    with pytest.raises(SystemExit) as stop:
        parse_arguments([])
    assert stop.value.code == 2
    assert "train.py hparams/wavlm_lora.yaml" in capsys.readouterr().err


def test_a_brain_beside_the_script(fails, arguments, tmp_path):
    line = fails(arguments(tmp_path / "run", brain="!name:no_such.Brain"))
    assert "brain: 'no_such.Brain' is no Brain" in line
    line = fails(arguments(tmp_path / "run", brain="!name:torch.nn.Linear"))
    assert "'brain' is missing or no such thing" in line


def test_classes_may_be_a_mapping():
    """hyperpyyaml refuses a mapping where the yaml has a number."""
    found = values(
        HPARAMS / "whisper_lora.yaml",
        "--data_folder=a",
        "--classes={happy: positive, sad: negative, angry: negative}",
    )
    expected = {"happy": "positive", "sad": "negative", "angry": "negative"}
    assert found["classes"] == expected == found["head"]["classes"]


def test_options_that_decide_are_settings():
    plain = values(HPARAMS / "whisper_lora.yaml", "--data_folder=a")
    given = values(
        HPARAMS / "whisper_lora.yaml",
        "--data_folder=a",
        "--precision=fp32",
        "--grad_accumulation_factor=4",
        "--debug",
        "--noprogressbar",
        "--device=cpu",
    )
    assert plain["precision"] == "auto" and given["precision"] == "fp32"
    assert set(given) - set(plain) == {"debug", "grad_accumulation_factor"}
    assert given["grad_accumulation_factor"] == 4


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed: 8", "seed: [8", "not valid yaml"),
        ("seed: 8", "seed: 8\nseed: 9", "'seed' is given twice; leave one out"),
        ("seed: 8", "seed: !ref <seat>", "seat"),
        ("keep: last", "keep: last\nkeeep: 3", "'keeep'"),
    ],
)
def test_bad_yaml(tmp_path, old, new, message):
    path = tmp_path / "bad.yaml"
    text = yaml_text(LORA)
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match=message) as raised:
        settings(path, "--data_folder=a")
    assert "bad.yaml" in str(raised.value)


@pytest.mark.parametrize("text", ["", "- 1\n- 2\n", "just words\n"])
def test_no_mapping_at_all(tmp_path, text):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(InputError):
        settings(tmp_path / "bad.yaml", "--data_folder=a")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("torch.optim.AdamW", "torch.optim.AdamX", "AdamX"),
        ("dropout: 0.2", "drop: 0.2", "'drop'"),
        ("ProbeMixHead", "BestHead", "BestHead"),
    ],
)
def test_yaml_that_cannot_be_built(tmp_path, tiny_backbones, old, new, message):
    path = tmp_path / "bad.yaml"
    text = yaml_text(LORA)
    assert old in text
    path.write_text(text.replace(old, new, 1))
    text = settings(
        path,
        "--data_folder=a",
        f"--output_folder={tmp_path / 'run'}",
        f"--backbone={tiny_backbones['whisper']}",
    )
    with pytest.raises(InputError, match=message) as raised, building(path):
        load_hyperpyyaml(StringIO(text))
    assert "bad.yaml" in str(raised.value)


def test_finished(tmp_path):
    arguments = HPARAMS / "whisper_lora.yaml", "--data_folder=a"
    text = settings(*arguments)
    assert not finished(text, tmp_path)
    (tmp_path / "hyperparams.yaml").write_text(f"# Any comment\n{text}")
    assert not finished(text, tmp_path)
    (tmp_path / "results.json").write_text("{}")
    assert finished(text, tmp_path)
    # Where data are and how fast they come is no matter.
    moved = settings(arguments[0], "--data_folder=b", "--num_workers=4")
    assert finished(moved, tmp_path)
    # The first key that differs is named, not what follows from it.
    other = settings(*arguments, "--seed=9")
    with pytest.raises(InputError, match="another 'seed'"):
        finished(other, tmp_path)
    other = settings(*arguments, "--number_of_epochs=2")
    with pytest.raises(InputError, match="another 'number_of_epochs'"):
        finished(other, tmp_path)
    other = settings(*arguments, "--debug")
    with pytest.raises(InputError, match="another 'debug'"):
        finished(other, tmp_path)


# ------------------------------------------------------------- failing well


@pytest.fixture
def fails(capsys):
    """Function: command line -> the one line that it fails with."""

    def run(argv):
        with pytest.raises(SystemExit) as stop:
            run_script(argv)
        assert stop.value.code == 2
        printed = capsys.readouterr().err
        assert "Traceback" not in printed
        # A progress bar may stand on the line before.
        (line,) = [
            line
            for line in printed.replace("\r", "\n").splitlines()
            if line.startswith("error: ")
        ]
        assert printed.endswith(f"{line}\n")
        return line

    return run


@pytest.fixture
def nothing_written(tmp_path):
    """After the test: no file in the output folder."""
    yield
    written = [p for p in (tmp_path / "run").rglob("*") if p.is_file()]
    assert written == []


@pytest.mark.usefixtures("nothing_written")
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"data_folder": None}, "--data_folder=... is needed"),
        ({"data_folder": "/no/where"}, "data_folder /no/where: no such"),
        ({"data_folder": "2024"}, "data_folder 2024: no such"),
        ({"data_folder": HPARAMS}, "this is not RAVDESS"),
        ({"data_folder": ""}, "--data_folder=... is needed"),
        ({"output_folder": "~nobody-here/run"}, "no user nobody-here"),
        ({"colour": "blue"}, "--colour: "),
        ({"fold": 9}, "fold"),
        ({"fold": 2.5}, "fold"),
        ({"fold": "zwei"}, "fold"),
        ({"classes": 5}, "classes 5: "),
        ({"classes": "many"}, "classes many: "),
        ({"classes": "[happy, sad]"}, "classes "),
        ({"classes": "{happy: joy, bored: dull}"}, "'bored'"),
        ({"classes": "{happy: joy"}, "--classes={happy: joy: not valid"),
        ({"keep": "worst"}, "keep: worst"),
        ({"schedule": "cyclic"}, "schedule: cyclic"),
        ({"seed": -1}, "seed: -1"),
        ({"seed": "lucky"}, "seed: lucky"),
        ({"number_of_epochs": 0}, "number_of_epochs: 0"),
        ({"number_of_epochs": -3}, "number_of_epochs: -3"),
        ({"number_of_epochs": 1.5}, "number_of_epochs: 1.5"),
        ({"patience": 0}, "patience: 0"),
        ({"keep_best": 0}, "keep_best: 0"),
        ({"batch_seconds": 0}, "batch_seconds: 0"),
        ({"batch_seconds": -60}, "batch_seconds: -60"),
        ({"max_seconds": -1}, "max_seconds: -1"),
        ({"crop": 1.5}, "crop: 1.5"),
        ({"adapter_lr": "abc"}, "adapter_lr: abc"),
        ({"adapter_lr": -0.1}, "adapter_lr: -0.1"),
        ({"head_lr": "nan"}, "head_lr: nan"),
        ({"label_smoothing": 2}, "label_smoothing: 2"),
        ({"num_workers": -1}, "num_workers: -1"),
        ({"augment": "no"}, "augment: no"),
        ({"start_from_probe": "off"}, "start_from_probe: off"),
        ({"backbone": "/no/model"}, "backbone /no/model: "),
        ({"backbone": HPARAMS}, "hparams: cannot be read"),
        ({"encoder": "{targets: nowhere}"}, "'nowhere' matches no module"),
        ({"encoder": "{layers: [7]}"}, "layers: [7]"),
        ({"head": "{classes: -1}"}, "head: classes -1"),
        ({"checkpointer": "{recoverables: 3}"}, "recoverables: 3: is no"),
        ({"checkpointer": "{recoverables: {head: 3}}"}, "'checkpointer' is"),
        ({"train_logger": "{save_file: 3}"}, "'train_logger' is missing or"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_values(fails, arguments, tmp_path, overrides, message):
    line = fails(arguments(tmp_path / "run", **overrides))
    assert message in line


@pytest.mark.usefixtures("nothing_written")
def test_backbone_of_another_kind(fails, arguments, tmp_path):
    (tmp_path / "bert").mkdir()
    config = {"model_type": "bert", "architectures": ["BertModel"]}
    (tmp_path / "bert" / "config.json").write_text(json.dumps(config))
    line = fails(arguments(tmp_path / "run", backbone=tmp_path / "bert"))
    assert "'bert' is not a speech encoder" in line


def test_no_such_yaml(fails, tmp_path):
    line = fails([tmp_path / "none.yaml", "--data_folder=a"])
    assert "none.yaml: cannot be read" in line


@pytest.fixture
def own_tree(ravdess_tree, tmp_path):
    """A copy of the miniature corpus, to be spoilt."""
    return shutil.copytree(ravdess_tree, tmp_path / "RAVDESS")


def spoilt(kind, path):
    """Make a recording unfit."""
    wave = np.zeros(8000, "float32")
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:30])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "short":
        soundfile.write(path, wave[:100] + 0.1, 16000)
    elif kind == "silent":
        soundfile.write(path, wave, 16000)
    else:
        wave[5] = float("nan")
        soundfile.write(path, wave + 0.1, 16000, subtype="FLOAT")


@pytest.mark.usefixtures("nothing_written")
@pytest.mark.parametrize(
    "kind", ["truncated", "empty", "short", "silent", "nan"]
)
def test_unfit_recording(fails, arguments, own_tree, tmp_path, kind):
    path = own_tree / "Actor_03" / "03-01-03-01-01-01-03.wav"
    spoilt(kind, path)
    line = fails(
        arguments(tmp_path / "run", data_folder=own_tree, manifests_folder=None)
    )
    assert path.name in line


@pytest.mark.usefixtures("nothing_written")
def test_class_missing_from_train(fails, arguments, own_tree, tmp_path):
    for path in own_tree.rglob("03-01-05-*.wav"):
        if 6 <= int(path.stem[-2:]) <= 20:
            path.unlink()
    line = fails(
        arguments(
            tmp_path / "run",
            data_folder=own_tree,
            manifests_folder=None,
            classes="{neutral: calm, angry: wild}",
        )
    )
    assert "train: no utterance of class 'wild'" in line


# --------------------------------------------- in a process, as a user does


def test_exit_status_of_the_script(train, arguments, tmp_path):
    end = train(arguments(tmp_path / "run", data_folder=tmp_path / "none"))
    assert end.code == 2
    assert end.log.startswith("error: ") and end.log.count("\n") == 1
    assert str(tmp_path / "none") in end.log
    assert not (tmp_path / "run").exists()


def test_goes_on_when_there_is_space_again(train, arguments, tmp_path):
    """In the middle of a checkpoint, then in the report."""
    argv = arguments(tmp_path / "run")
    for largest in (200_000, 20_000_000):
        end = train(argv, largest_file=largest)
        if end.code == 0:
            break
        assert end.code == 2, end.log
        assert "Traceback" not in end.log
        (line,) = [
            line
            for line in end.log.replace("\r", "\n").splitlines()
            if line.startswith("error: ")
        ]
        assert line.startswith(f"error: {tmp_path}/run/") and "ulimit" in line
        assert not (tmp_path / "run" / "results.json").exists()
    assert (tmp_path / "run" / "results.json").exists()
    assert not list((tmp_path / "run" / "save").glob("partial-*"))
