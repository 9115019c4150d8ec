"""Released models by name; what went wrong with the original ones."""

import json
import shutil

import peft
import pytest
import torch
import transformers
from sealed import reseal

import ser_peft
from ser_peft.adapters import BottleneckConfig, PeftLobe, PromptConfig
from ser_peft.cli import main
from ser_peft.data.provenance import RECORD
from ser_peft.errors import InputError
from ser_peft.heads import LayerMixHead
from ser_peft.inference import EmotionModel, load_model
from ser_peft.inference.export import export
from ser_peft.lobes import load_lobe
from ser_peft.storage import released
from ser_peft.storage.released import RELEASED, find, hashes

CLASSES = ["neutral", "angry", "sad", "happy"]

# The released models' backbones in small: base or large as they are.
FAMILIES = {
    "whisper-tiny-lora-16-conv": "whisper",
    "whisper-base-lora-16-conv": "whisper",
    "whisper-small-lora-16-conv": "whisper",
    "wavlm-plus-lora-16-conv": "wavlm",
    "wavlm-large-lora-16-conv": "wavlm_large",
    "mms-lora-16-conv": "mms",
}
ONE_EACH = (
    "whisper-base-lora-16-conv",
    "wavlm-plus-lora-16-conv",
    "wavlm-large-lora-16-conv",
    "mms-lora-16-conv",
)


def noise(samples, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(samples, generator=generator)


def train(folder, backbone, method=None, **settings):
    """What training leaves in `folder`, but for the training."""
    torch.manual_seed(0)
    method = method or peft.LoraConfig(r=16, lora_alpha=1)
    encoder = PeftLobe(load_lobe(backbone), method, "ffn")
    head = LayerMixHead(encoder, 4, **settings)
    model = EmotionModel(encoder, head, CLASSES)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.eval().save(folder)
    return model


@pytest.fixture(scope="module")
def backbones(tiny_backbones, tmp_path_factory):
    """`tiny_backbones`, and one like MMS: wav2vec 2.0 with pre-norm layers."""
    folder = tmp_path_factory.mktemp("backbones") / "mms"
    config = transformers.AutoConfig.from_pretrained(tiny_backbones["wav2vec2"])
    config.update(
        {
            "feat_extract_norm": "layer",
            "do_stable_layer_norm": True,
            "conv_bias": True,
        }
    )
    torch.manual_seed(0)
    transformers.Wav2Vec2Model(config).save_pretrained(folder)
    return {**tiny_backbones, "mms": folder}


@pytest.fixture(scope="module")
def shelf(backbones, tmp_path_factory):
    """A folder with a model of every released name."""
    folder = tmp_path_factory.mktemp("shelf")
    for name, family in FAMILIES.items():
        train(folder / name, backbones[family])
    return folder


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    """A user who has no model: empty home, no variables."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("SER_PEFT_MODELS", "SER_PEFT_REGISTRY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def here(shelf, monkeypatch):
    """A user who has them all."""
    monkeypatch.setenv("SER_PEFT_MODELS", str(shelf))


@pytest.fixture
def register(tmp_path, monkeypatch):
    """Function: entries -> the registry that is in use."""

    def write(entries):
        path = tmp_path / "models.json"
        path.write_text(json.dumps(entries))
        monkeypatch.setenv("SER_PEFT_REGISTRY", str(path))
        return path

    return write


# --------------------------------------------- what the original got wrong


def test_all_released_names_are_known():
    assert set(RELEASED) == set(FAMILIES)
    assert RELEASED["mms-lora-16-conv"] == "facebook/mms-300m"


def test_an_unknown_name_is_told_the_names(register):
    """It was an AssertionError that named none."""
    with pytest.raises(InputError) as error:
        ser_peft.load_model("whisper-large-lora-16-conv")
    assert all(name in str(error.value) for name in RELEASED)
    register({"mine": {"source": "x", "sha256": {"a": "b"}}})
    with pytest.raises(InputError, match="one of .*mine"):
        ser_peft.load_model("yours")


@pytest.mark.parametrize("name", FAMILIES)
def test_loads_in_eval_mode(here, name):
    """ "wavlm-plus" always raised TypeError; the others came in train mode,
    so that their answers were random."""
    model = ser_peft.load_model(name)
    assert not any(module.training for module in model.modules())
    wavs = noise((2, 9000))
    assert torch.equal(model(wavs), model(wavs))
    answer = model.predict([wavs[0]])[0]
    assert list(answer["scores"]) == CLASSES


@torch.no_grad()
@pytest.mark.parametrize("name", ONE_EACH)
def test_lengths_count(here, name):
    """Only Whisper took any; the others raised AttributeError."""
    model = ser_peft.load_model(name)
    wavs = noise((2, 16000))
    found = model(wavs, lengths=torch.tensor([16000, 7000]))
    cut = model(wavs[1:, :7000])
    torch.testing.assert_close(found[1:], cut, atol=1e-4, rtol=0)
    assert not torch.allclose(found, model(wavs), atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("name", ONE_EACH)
def test_a_batch_without_lengths_is_scored_whole(here, name):
    """Whisper gave the first clip's scores only."""
    model = ser_peft.load_model(name)
    wavs = noise((3, 8000))
    scores = model(wavs)
    assert scores.shape == (3, 4)
    assert (scores[0] - scores[2]).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("name", ONE_EACH)
def test_batch_mates_do_not_matter(here, name):
    """The large models normalised the batch as one."""
    model = ser_peft.load_model(name)
    quiet, loud = noise(8000), 5 + 9 * noise(8000, 1)
    alone = model(quiet[None])
    beside = model(torch.stack([quiet, loud]))[:1]
    torch.testing.assert_close(beside, alone, atol=1e-4, rtol=0)


@torch.no_grad()
def test_long_clips_are_windowed(here):
    """31 s failed on the size of the position embeddings."""
    model = ser_peft.load_model("whisper-tiny-lora-16-conv")
    clip = noise(31 * 16000)
    halves = torch.stack([model(half[None])[0] for half in clip.chunk(2)])
    torch.testing.assert_close(
        model(clip[None])[0], halves.mean(0), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("family", ["whisper", "wavlm"])
def test_width_follows_the_backbone(backbones, tmp_path, family):
    """Prompts were 768 wide, whatever the backbone."""
    config = transformers.AutoConfig.from_pretrained(backbones[family])
    width = "d_model" if family == "whisper" else "hidden_size"
    config.update({width: 48})
    transformers.AutoModel.from_config(config).save_pretrained("wide")
    train(tmp_path / "model", "wide", PromptConfig(3))
    model = ser_peft.load_model(tmp_path / "model")
    assert model.encoder.hidden_size == 48
    assert model(noise((1, 8000))).shape == (1, 4)


@torch.no_grad()
@pytest.mark.parametrize("family", ["wavlm_large", "mms", "whisper"])
def test_without_the_conv_output(backbones, tmp_path, family):
    """WavLM-large crashed."""
    expected = train(tmp_path / "model", backbones[family], conv=False)
    model = ser_peft.load_model(tmp_path / "model")
    assert len(model.head.layer_logits) == 2
    wavs = noise((2, 8000))
    assert torch.equal(model(wavs), expected(wavs))


@torch.no_grad()
@pytest.mark.parametrize("family", ["whisper", "wavlm_large", "mms"])
def test_combined_loads(backbones, tmp_path, family):
    """It crashed on Whisper, trained nothing on WavLM-large, and its
    checkpoints lacked all but LoRA."""
    methods = [
        PromptConfig(1),
        BottleneckConfig(8),
        peft.LoraConfig(r=4, lora_alpha=1),
    ]
    expected = train(tmp_path / "model", backbones[family], methods)
    model = ser_peft.load_model(tmp_path / "model")
    wavs = noise((2, 8000))
    assert torch.equal(model(wavs), expected(wavs))
    assert model.encoder.method_name == "combined"


# ------------------------------------------------------- where they are


def test_a_name_whose_weights_are_nowhere_says_what_to_do():
    with pytest.raises(InputError) as error:
        ser_peft.load_model("mms-lora-16-conv")
    for part in ("recipes/MultiCorpus", "--backbone=facebook/mms-300m",
                 "ser-peft export", "$SER_PEFT_MODELS",
                 ".config/ser_peft/models.json"):  # fmt: skip
        assert part in str(error.value)


def test_a_folder_is_no_name(shelf, monkeypatch):
    """In the working directory, too."""
    monkeypatch.chdir(shelf)
    load_model("mms-lora-16-conv")
    load_model(shelf / "mms-lora-16-conv")
    with pytest.raises(InputError, match="model.json: cannot be read"):
        load_model("./nothing")


@pytest.mark.parametrize("relative", [False, True])
def test_registered_folder(shelf, register, tmp_path, relative):
    name = "wavlm-plus-lora-16-conv"
    source = shelf / name
    sums = hashes(source)
    assert set(sums) == {
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "head.safetensors",
        "manifest.json",
        "model.json",
    }
    if relative:
        (tmp_path / "there").symlink_to(source)
        source = "there"
    entry = {"source": str(source), "sha256": sums}
    register({name: entry, "mine": entry})
    wavs = noise((1, 8000))
    expected = load_model(shelf / name)(wavs)
    assert torch.equal(load_model(name)(wavs), expected)
    assert torch.equal(load_model("mine")(wavs), expected)


def test_default_registry(shelf, tmp_path):
    name = "mms-lora-16-conv"
    path = tmp_path / "home" / ".config" / "ser_peft" / "models.json"
    path.parent.mkdir(parents=True)
    entry = {"source": str(shelf / name), "sha256": hashes(shelf / name)}
    path.write_text(json.dumps({name: entry}))
    assert find(name) == shelf / name


def test_files_must_be_those_registered(shelf, register, here):
    """Others, missing ones and further ones, on the shelf too."""
    name = "whisper-tiny-lora-16-conv"
    sums = hashes(shelf / name)
    register({name: {"source": "anywhere", "sha256": sums}})
    load_model(name)
    head = dict(sums)
    del head["adapter/adapter_model.safetensors"]
    for wrong, file in (
        (sums | {"head.safetensors": "0" * 64}, "head.safetensors"),
        (sums | {"more.safetensors": "0" * 64}, "more.safetensors"),
        (head, "adapter/adapter_model.safetensors"),
    ):
        register({name: {"source": "anywhere", "sha256": wrong}})
        with pytest.raises(InputError, match=f"{file} has SHA-256 "):
            load_model(name)


def test_hub(shelf, register, monkeypatch, tmp_path):
    """An id is downloaded: safetensors and json, never a pickle."""
    name, asked = "whisper-small-lora-16-conv", {}

    def download(repo, **how):
        asked.update(repo=repo, **how)
        return str(shelf / name)

    monkeypatch.setattr(released, "snapshot_download", download)
    sums = hashes(shelf / name)
    register({name: {"source": "someone/some-model", "sha256": sums}})
    load_model(name, save_path=tmp_path / "cache")
    assert asked == {
        "repo": "someone/some-model",
        "cache_dir": str(tmp_path / "cache"),
        "allow_patterns": released.KINDS,
    }
    register({name: {"source": "someone/some-model", "sha256": {"a": "b"}}})
    with pytest.raises(InputError, match="SHA-256"):
        load_model(name)


@pytest.mark.parametrize("source", ["no/such", "/not/there", "a b"])
def test_download_that_fails(register, monkeypatch, source):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    path = register({"mine": {"source": source, "sha256": {"a": "b"}}})
    with pytest.raises(InputError, match="cannot be downloaded") as error:
        load_model("mine")
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"a": 1}', '{"a": {"source": "x"}}',
             '{"a": {"source": "x", "sha256": {}}}']
)  # fmt: skip
def test_broken_registry(register, text):
    register({}).write_text(text)
    with pytest.raises(InputError, match="models.json: is no registry"):
        load_model("a")


def test_registry_that_is_not_there(monkeypatch):
    monkeypatch.setenv("SER_PEFT_REGISTRY", "/not/there.json")
    with pytest.raises(InputError, match="there.json: cannot be read"):
        load_model("a")


# ------------------------------------------------------------------ export


def test_export_prints_what_the_registry_takes(
    shelf, backbones, register, tmp_path, capsys
):
    run = tmp_path / "run"
    shutil.copytree(shelf / "mms-lora-16-conv", run / "model")
    out = tmp_path / "out" / "mms-lora-16-conv"
    main(["export", str(run), str(out)])
    entry = json.loads(capsys.readouterr().out)
    register(entry)
    wavs = noise((1, 8000))
    # That the encoder is a folder here says nothing to others.
    with pytest.raises(InputError, match="null: .*give it as --backbone"):
        load_model("mms-lora-16-conv")
    assert torch.equal(
        load_model("mms-lora-16-conv", backbone=backbones["mms"])(wavs),
        load_model(shelf / "mms-lora-16-conv")(wavs),
    )
    assert entry["mms-lora-16-conv"]["source"] == str(out)
    with pytest.raises(SystemExit):
        main(["export", str(run), str(out)])
    assert "is there already" in capsys.readouterr().err


def test_export_names_the_backbone_for_others(shelf, tmp_path, caplog):
    export(
        shelf / "mms-lora-16-conv", tmp_path / "out",
        backbone="facebook/mms-300m",
    )  # fmt: skip
    texts = [path.read_text() for path in (tmp_path / "out").rglob("*.json")]
    assert len(texts) == 3
    for text in texts:
        assert '"facebook/mms-300m"' in text and "/tmp" not in text
    assert not caplog.records
    export(shelf / "mms-lora-16-conv", tmp_path / "mine")
    assert "a folder of this machine" in caplog.text
    for path in (tmp_path / "mine").rglob("*.json"):
        assert "/tmp" not in path.read_text()


@torch.no_grad()
@pytest.mark.parametrize("name", ONE_EACH)
def test_merged_export(shelf, tmp_path, name):
    """Its encoder needs neither this package's adapters nor its lobes."""
    clip = noise((1, 16000 * 3))
    model = load_model(shelf / name)
    out = tmp_path / "out"
    run = shutil.copytree(shelf / name, tmp_path / "run")
    (run / RECORD).write_text("{}")
    reseal(run)
    entry = export(run, out, merge=True)
    files = {p.relative_to(out).as_posix() for p in out.rglob("*.*")}
    assert set(entry["out"]["sha256"]) == files
    assert {"encoder/model.safetensors", "manifest.json"} < files
    records = {path.parent for path in out.rglob(RECORD)}
    assert records == {out, out / "encoder"}
    out = out.rename(tmp_path / "moved")
    merged = load_model(out)
    torch.testing.assert_close(merged(clip), model(clip), atol=1e-4, rtol=0)
    assert not list(out.rglob("adapter_model.safetensors"))

    plain, report = transformers.AutoModel.from_pretrained(
        out / "encoder", output_loading_info=True
    )
    assert not report["unexpected_keys"]
    missing = [k for k in report["missing_keys"] if "decoder" not in k]
    assert not missing
    extractor = transformers.AutoFeatureExtractor.from_pretrained(
        out / "encoder"
    )
    inputs = extractor(
        clip[0].numpy(), sampling_rate=16000, return_tensors="pt"
    )
    if "whisper" in name:
        # Of 30 s each: there transformers and the lobe are the same.
        clip = torch.nn.functional.pad(clip, (0, 27 * 16000))
        last = plain.encoder.eval()(**inputs).last_hidden_state
    else:
        last = plain.eval()(**inputs).last_hidden_state
    states, _ = model.encoder(clip)
    torch.testing.assert_close(last, states[-1], atol=1e-3, rtol=0)


def test_merge_refuses_adapters(backbones, tmp_path):
    train(tmp_path / "model", backbones["whisper"], BottleneckConfig(4))
    with pytest.raises(InputError, match="merge: adapter is a module"):
        export(tmp_path / "model", tmp_path / "out", merge=True)
    assert not (tmp_path / "out").exists()
