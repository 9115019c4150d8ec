"""Parameter counts from configurations alone."""

import json

import pytest
import torch
import transformers
from scripts import RECIPES, yaml_text
from transformers import AutoModel

from ser_peft.adapters import PeftLobe
from ser_peft.cli import main
from ser_peft.errors import InputError
from ser_peft.evaluation.params import (
    count_methods,
    count_recipe,
    format_table,
    methods,
)
from ser_peft.heads import HEADS
from ser_peft.lobes import load_lobe, shapes
from ser_peft.lobes.configs import KNOWN, config_of

METHODS = list(methods())
LORA = "RAVDESS/hparams/whisper_lora.yaml"

# The table of Feng and Narayanan's code, "PEFT-SER": adapters of width 128,
# prompts of 5 and 3, LoRA of rank 8, 16 and 32 on the feed-forward layers,
# (prompt 1, adapter 128, LoRA 32) combined, the head of 4 classes, the whole
# checkpoint and its encoder, in the last two columns in millions.
BASE = (2_370_048, 46_080, 27_648, 737_280, 1_474_560, 2_949_120, 5_328_384,
        395_280)  # fmt: skip
PUBLISHED = {
    "facebook/wav2vec2-base-960h": (*BASE, 94.37, 94.37),
    "microsoft/wavlm-base-plus": (*BASE, 94.38, 94.38),
    "openai/whisper-small": (*BASE, 241.73, 88.15),
    "openai/whisper-base": (
        790_272, 15_360, 9_216, 245_760, 491_520, 983_040, 1_776_384,
        329_738, 72.59, 20.59,
    ),
    "openai/whisper-tiny": (
        395_264, 7_680, 4_608, 122_880, 245_760, 491_520, 888_320,
        296_968, 37.76, 8.21,
    ),
    "openai/whisper-medium": (
        6_319_104, 122_880, 73_728, 1_966_080, 3_932_160, 7_864_320,
        14_208_000, 460_828, None, 307.2,
    ),
}  # fmt: skip
COLUMNS = (
    {"method": "adapter"},
    {"method": "prompt", "length": 5},
    {"method": "prompt", "length": 3},
    {"method": "lora", "rank": 8, "targets": "ffn"},
    {"method": "lora", "rank": 16, "targets": "ffn"},
    {"method": "lora", "rank": 32, "targets": "ffn"},
    {"method": "combined", "rank": 32, "targets": "ffn"},
)


def parameters(module):
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """A known backbone is not looked up."""

    def refuse(*args, **kwargs):
        raise AssertionError("asked the hub")

    monkeypatch.setattr("huggingface_hub.file_download.hf_hub_download", refuse)
    monkeypatch.setattr("transformers.utils.hub.hf_hub_download", refuse)


@pytest.mark.parametrize("backbone", PUBLISHED)
def test_equals_the_published_table(backbone):
    *adapters, head, checkpoint, encoder = PUBLISHED[backbone]
    rows = [
        count_methods(backbone, conv=False, **column)[0] for column in COLUMNS
    ]
    assert [row["adapter"] for row in rows] == adapters
    assert {row["head"] for row in rows} == {head}
    for row, adapter in zip(rows, adapters, strict=True):
        assert row["total"] == row["encoder"] + adapter + head
        assert row["adapter_bytes"] == 4 * adapter
        digits = len(str(encoder).split(".")[1])
        assert round(row["encoder"] / 1e6, digits) == encoder
    if checkpoint:
        with torch.device("meta"):
            whole = AutoModel.from_config(config_of(backbone))
        assert round(parameters(whole) / 1e6, 2) == checkpoint


@pytest.mark.parametrize(
    "backbone", ["microsoft/wavlm-large", "facebook/mms-300m"]
)
def test_equals_the_released_large_models(backbone):
    (row,) = count_methods(backbone, "lora", rank=16, targets="ffn")
    assert row["adapter"] == 3_932_160
    assert row["head"] == 460_829  # with the "-conv" output


@pytest.mark.parametrize(
    ("backbone", "rank", "width", "layers"),
    [
        ("facebook/wav2vec2-large", 4, 1024, 24),
        ("facebook/hubert-base-ls960", 4, 768, 12),
        ("openai/whisper-large-v3", 32, 1280, 32),
    ],
)
def test_formulas(backbone, rank, width, layers):
    """LoRA 10 r H L, adapter L (257 H + 128), prompt P H L."""
    rows = {
        name: count_methods(backbone, name, rank=rank, length=7, targets="ffn")[
            0
        ]["adapter"]
        for name in ("lora", "parallel_adapter", "prompt")
    }
    assert rows == {
        "lora": 10 * rank * width * layers,
        "parallel_adapter": layers * (257 * width + 128),
        "prompt": 7 * width * layers,
    }


# Parameters of the checkpoints as published on the hub, their encoder's
# where they have a decoder too.
SIZES = {
    "facebook/wav2vec2-base": 94_371_712,
    "facebook/wav2vec2-large": 315_428_992,
    "facebook/wav2vec2-large-robust": 315_438_720,
    "facebook/wav2vec2-large-xlsr-53": 315_438_720,
    "facebook/mms-300m": 315_438_720,
    "facebook/hubert-base-ls960": 94_371_712,
    "facebook/hubert-large-ll60k": 315_438_720,
    "microsoft/wavlm-base": 94_381_936,
    "microsoft/wavlm-large": 315_453_120,
    "openai/whisper-tiny.en": 8_208_384,
    "openai/whisper-medium.en": 307_216_384,
    "openai/whisper-large": 636_784_640,
    "openai/whisper-large-v2": 636_784_640,
    "openai/whisper-large-v3": 636_968_960,
}


@pytest.mark.parametrize("backbone", SIZES)
def test_known_backbones_have_their_size(backbone):
    lobe = shapes(backbone)
    assert parameters(lobe) == SIZES[backbone]
    assert {p.device.type for p in lobe.layers.parameters()} == {"meta"}
    assert lobe.source == backbone


def test_base_models_are_transformers_defaults():
    """The table of configurations says only what differs from these."""
    for kind in ("Wav2Vec2", "Hubert", "WavLM"):
        config = getattr(transformers, f"{kind}Config")
        bases = [name for name, known in KNOWN.items() if known == (config, {})]
        assert bases
    tiny = config_of("openai/whisper-tiny").to_dict()
    assert tiny == transformers.WhisperConfig().to_dict()


def test_tiny_en_is_as_its_checkpoint(shared_whisper):
    """Against the real config.json."""
    known = config_of("openai/whisper-tiny.en")
    real = config_of(shared_whisper)
    for key in (
        "d_model encoder_layers encoder_attention_heads encoder_ffn_dim "
        "num_mel_bins max_source_positions vocab_size decoder_layers"
    ).split():
        assert getattr(known, key) == getattr(real, key), key


@pytest.mark.parametrize("name", ["wav2vec2", "wavlm_large", "whisper"])
def test_counts_what_training_counts(tiny_backbones, tmp_path, name):
    """Every method, against a model with weights and against its file."""
    folder = tiny_backbones[name]
    rows = count_methods(folder, head="ProbeMixHead", classes=8)
    assert [row["method"] for row in rows] == METHODS
    for row, (method, targets, _) in zip(rows, methods().values(), strict=True):
        lobe = load_lobe(folder)
        assert row["encoder"] == parameters(lobe)
        encoder = PeftLobe(lobe, method, targets)
        head = HEADS["ProbeMixHead"](encoder, 8)
        trained = [p for p in encoder.parameters() if p.requires_grad]
        assert row["adapter"] == sum(p.numel() for p in trained)
        assert row["head"] == parameters(head)
        assert row["total"] == parameters(encoder) + parameters(head)
        if row["method"] == "frozen":
            assert row["adapter_bytes"] == 0
            continue
        encoder.export(tmp_path / row["method"])
        files = list((tmp_path / row["method"]).rglob("*.safetensors"))
        # Each begins with the length of its header.
        written = sum(
            len(data) - 8 - int.from_bytes(data[:8], "little")
            for data in (path.read_bytes() for path in files)
        )
        if row["method"] == "adalora":  # a number for every adapted module
            written += 6 * 2 * 4
        assert row["adapter_bytes"] == written


@pytest.mark.parametrize(
    "name", ["lora", "adapter", "prompt", "frozen", "full"]
)
def test_recipes(tiny_backbones, tmp_path, name):
    """A recipe's own method, targets and head, on any backbone."""
    path = tmp_path / f"whisper_{name}.yaml"
    path.write_text(yaml_text(LORA, name))
    expected = {"backbone": "openai/whisper-tiny.en", "method": name}
    row = count_recipe(path)
    (same,) = count_methods("openai/whisper-tiny.en", name, head="ProbeMixHead")
    settings = {"settings": f"whisper_{name}.yaml"}
    assert row == same | settings | expected
    (same,) = count_methods(tiny_backbones["hubert"], name, head="ProbeMixHead")
    row = count_recipe(path, tiny_backbones["hubert"])
    assert row == same | settings
    assert format_table([row]).count("\n") == 3


def test_recipe_whose_classes_have_a_name(tmp_path):
    """How many these are, only the manifests know."""
    text = yaml_text(LORA, "frozen")
    text = text.replace("classes: 4  #", "classes: !PLACEHOLDER  #")
    (tmp_path / "a.yaml").write_text(text)
    heads = [count_recipe(tmp_path / "a.yaml", classes=n) for n in (4, 6)]
    four = count_recipe(RECIPES / LORA)
    assert heads[0]["head"] == four["head"] < heads[1]["head"]


# BERT's 12 layers have 7,087,872 parameters each; VGGish, fusion and head
# 74,693,828 together.
DISTILSER = {
    "google-bert/bert-base-uncased": {
        12: 184_176_068,
        8: 155_824_580,
        6: 141_648_836,
        4: 127_473_092,
        2: 113_297_348,
    },
    "distilbert/distilbert-base-uncased": {"": 141_056_708},
}


@pytest.mark.parametrize(
    ("text", "depth", "total"),
    [
        (text, depth, total)
        for text, students in DISTILSER.items()
        for depth, total in students.items()
    ],
)
def test_teacher_and_students_of_distilser(tmp_path, text, depth, total):
    path = tmp_path / "student.yaml"
    yaml = yaml_text("IEMOCAP/hparams/3mser_kd.yaml")
    yaml = yaml.replace("google-bert/bert-base-uncased", text)
    path.write_text(yaml.replace("text_depth: 6", f"text_depth: {depth}"))
    row = count_recipe(path)
    assert row["total"] == total
    assert row["head"] == 2_552_644
    assert row["encoder"] == row["total"] - row["head"]


@pytest.mark.parametrize(
    "path",
    ["RAVDESS/cnn_kd", "IEMOCAP/wavlm_kd", "RAVDESS/whisper_kd"],
)
def test_students_are_counted_as_they_are_cut(path):
    recipe, name = path.split("/")
    row = count_recipe(RECIPES / recipe / "hparams" / f"{name}.yaml")
    layers = {"cnn_kd": 305_856, "wavlm_kd": 37_674_704}
    # Of four layers two are cut off.
    layers["whisper_kd"] = 8_208_384 - 2 * 1_774_080
    assert row["encoder"] == layers[name]
    assert row["total"] == row["encoder"] + row["head"] + (
        row["adapter"] if row["method"] == "lora" else 0
    )


def refused(capsys, *argv):
    with pytest.raises(SystemExit) as stop:
        main(["params", *map(str, argv)])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_command(tiny_backbones, capsys):
    known, folder = "openai/whisper-tiny", str(tiny_backbones["wavlm"])
    flags = "--method lora --rank 8 --targets ffn --no-conv".split()
    main(["params", known, folder, *flags])
    *_, first, second = capsys.readouterr().out.splitlines()
    assert first.split("|")[1:6] == [
        f" {known.ljust(len(folder))} ", " lora   ", " r=8, ffn ",
        " 122,880 ", " 296,968 ",
    ]  # fmt: skip
    assert folder in second
    main(["params", folder])
    assert len(capsys.readouterr().out.splitlines()) == 2 + len(METHODS)
    main(["params", known, "--method", "prompt", "--length", "3", "--json"])
    row = json.loads(capsys.readouterr().out)
    assert row["adapter"] == 4_608 and row["method"] == "prompt"


def test_command_counts_a_recipe(capsys):
    path = str(RECIPES / LORA)
    main(["params", "--yaml", path, "openai/whisper-base", "--json"])
    assert json.loads(capsys.readouterr().out)["adapter"] == 884_736


def test_a_recipe_may_include(tmp_path):
    path = RECIPES / LORA
    whole = count_recipe(path, "openai/whisper-tiny")
    (tmp_path / "lora.yaml").write_text("!new:peft.LoraConfig {r: 16}\n")
    text = yaml_text(LORA).replace("!ref <peft[method]>", "!include:lora.yaml")
    (tmp_path / "a.yaml").write_text(text)
    found = count_recipe(tmp_path / "a.yaml", "openai/whisper-tiny")
    assert found == {**whole, "settings": "a.yaml"}


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("!new:ser_peft.heads.ProbeMixHead", "!new:os.system", "!new:os.sys"),
        ("!new:peft.LoraConfig", "!apply:os.system", "!apply:os.system"),
        ("!apply:ser_peft.lobes.load_lobe", "!name:builtins.exec", "!name:"),
        ("r: 16", "r: !!python/object/apply:os.getcwd []", "python/object"),
        ("r: 16", "r: !module:antigravity", "!module:antigravity"),
        ("r: 16", "r: (!!python/object/apply:os.getcwd [])", "python/object"),
        ("seed: 8", "seed: !applyref:os.getcwd", "!applyref"),
        ("seed: 8", "seed: !include:b.yaml", "b.yaml: !applyref"),
    ],
)
def test_a_yaml_calls_nothing_else(tmp_path, monkeypatch, old, new, named):
    inline = "!new:peft.LoraConfig\n        r: 16"
    text = yaml_text(LORA).replace("!ref <peft[method]>", inline)
    assert old in text
    (tmp_path / "a.yaml").write_text(text.replace(old, new))
    (tmp_path / "b.yaml").write_text("x: !applyref:os.getcwd\n")
    # For this call only: pytest asks for the folder, too.
    with monkeypatch.context() as patch:
        for name in ("os.getcwd", "os.system", "builtins.exec"):
            patch.setattr(name, lambda *args: pytest.fail("called"))
        with pytest.raises(InputError, match=named):
            count_recipe(tmp_path / "a.yaml")


def test_refusals(tmp_path, capsys):
    def line(*argv):
        return refused(capsys, *argv)

    tiny = "openai/whisper-tiny"
    assert "--method lore: unknown; give adalora, " in line(
        tiny, "--method", "lore"
    )
    assert "--head Foot: unknown" in line(tiny, "--head", "Foot")
    assert "LinearHead has no such" in line(
        tiny, "--head", "LinearHead", "--no-conv"
    )
    assert "matches no module" in line(tiny, "--targets", "nothing")
    assert f"backbone {tmp_path}: " in line(tmp_path)
    assert "give a BACKBONE" in line()
    for text in (
        "backbone: openai/whisper-tiny",
        "a: [",
        "seed: 8",
        "- 1",
        "x",
        "a: !ref <nope>",
        "a: !include:none.yaml {}",
    ):
        (tmp_path / "a.yaml").write_text(text)
        with pytest.raises(InputError, match="a.yaml: cannot be counted"):
            count_recipe(tmp_path / "a.yaml")
