"""Ensembles: models that answer as one, in memory and in a folder."""

import json
import shutil

import numpy as np
import peft
import pytest
import torch
from huggingface_hub import ModelCard
from scipy.special import softmax
from sealed import reseal

from ser_peft.adapters import BottleneckConfig, PeftLobe
from ser_peft.cli import main
from ser_peft.data import read_manifests
from ser_peft.data.provenance import RECORD, Heard
from ser_peft.errors import InputError
from ser_peft.heads import LayerMixHead, ProbeMixHead
from ser_peft.heads.fusion import FusionHead
from ser_peft.inference import EmotionModel, EnsembleModel, hub, load_model
from ser_peft.inference.export import assemble, export
from ser_peft.inference.onnx_export import export_onnx
from ser_peft.io import write_json
from ser_peft.lobes import load_lobe, load_text

CLASSES = ["neutral", "angry", "sad", "happy"]
KINDS = {
    # LoRA twice in one Whisper, and another method in another encoder.
    "one": ("whisper", peft.LoraConfig(r=2, init_lora_weights=False), 1.7),
    "two": ("whisper", peft.LoraConfig(r=4, init_lora_weights=False), 0.8),
    "other": ("wavlm", BottleneckConfig(bottleneck=4), 1.0),
}


def make(backbone, method, temperature, dimensions=(), classes=CLASSES):
    """A model with random weights."""
    encoder = PeftLobe(load_lobe(backbone), method)
    head = (ProbeMixHead if dimensions else LayerMixHead)(
        encoder, len(classes), len(dimensions)
    )
    model = EmotionModel(encoder, head, classes, temperature, dimensions)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(scope="module")
def saved(tiny_backbones, manifests, tmp_path_factory):
    """Folders of `KINDS`, who have heard the speakers of `manifests`."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("members")
    heard = Heard(*read_manifests(manifests))
    for name, (backbone, *how) in KINDS.items():
        model = make(tiny_backbones[backbone], *how)
        model.save(root / name, heard)
    return root


@pytest.fixture(scope="module")
def folder(saved, tmp_path_factory):
    """An ensemble of all of `KINDS`. Not to be changed."""
    out = tmp_path_factory.mktemp("ensemble") / "all"
    assemble([saved / name for name in KINDS], out)
    return out


@pytest.fixture
def clips():
    """Waveforms and samples."""
    return torch.randn(3, 12000), torch.tensor([12000, 9000, 5000])


def calibrated(model, clips):
    """Probabilities of a model by NumPy, [B, C]."""
    with torch.no_grad():
        logits = model(*clips)[:, : len(model.classes)]
    return softmax(logits.double().numpy() / model.temperature, axis=1)


def test_is_the_mean_of_calibrated_probabilities(saved, folder, clips):
    members = [load_model(saved / name) for name in KINDS]
    wanted = np.mean([calibrated(member, clips) for member in members], 0)
    model = load_model(folder)
    with torch.no_grad():
        scores = model(*clips)
    np.testing.assert_allclose(scores.softmax(1).numpy(), wanted, atol=1e-6)
    wav = clips[0][0].numpy()
    (answer,) = model.predict([wav])
    alone = [member.predict([wav])[0]["scores"] for member in members]
    for name, chance in answer["scores"].items():
        mean = np.mean([one[name] for one in alone])
        assert chance == pytest.approx(mean, abs=1e-5)
    assert answer["label"] == max(answer["scores"], key=answer["scores"].get)
    assert "unsure" not in answer


def test_saved_and_loaded_is_the_same(saved, folder, clips):
    made = EnsembleModel([load_model(saved / name) for name in KINDS])
    with torch.no_grad():
        torch.testing.assert_close(
            load_model(folder)(*clips), made(*clips), atol=1e-6, rtol=0
        )


@pytest.mark.parametrize("name", KINDS)
def test_of_one_member_is_the_member(saved, tmp_path, clips, name):
    assemble([saved / name], tmp_path / "alone")
    found = calibrated(load_model(tmp_path / "alone"), clips)
    wanted = calibrated(load_model(saved / name), clips)
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_dimensions_are_averaged(tiny_backbones, tmp_path, clips):
    scale = {"arousal": (3.0, 0.5), "valence": (2.0, 1.5)}
    other = {"arousal": (2.5, 1.0), "valence": (4.0, 0.1)}
    models = [
        make(tiny_backbones["whisper"], "frozen", 1.0, dimensions, [])
        for dimensions in (scale, other)
    ]
    model = EnsembleModel(models)
    with torch.no_grad():
        wanted = torch.stack([one(*clips) for one in models]).mean(0)
        torch.testing.assert_close(model(*clips), wanted)
    assert [*model.dimensions] == [*scale] and not model.classes
    wanted = wanted[0].tolist()
    found = model.answer(wanted)["dimensions"]
    assert [*found.values()] == pytest.approx(wanted)


def test_readers_and_listeners(saved, tiny_backbones, tiny_texts, tmp_path):
    """A transcript is for the members that read."""
    encoder = PeftLobe(load_lobe(tiny_backbones["whisper"]), "frozen")
    text = PeftLobe(load_text(tiny_texts["bert"], depth=1), "frozen")
    head = FusionHead(encoder, CLASSES, text_encoder=text)
    EmotionModel(encoder, head, CLASSES, text_encoder=text).save(
        tmp_path / "reads"
    )
    both = [saved / "one", tmp_path / "reads"]
    assemble(both, tmp_path / "made", trust=True)
    model, wav = load_model(tmp_path / "made"), torch.randn(9000).numpy()
    assert model.reads_text and "2.text_encoder" in model.encoders
    found = []
    for said in (None, ["I told you so"]):
        (answer,) = model.predict([wav], texts=said)
        alone = [load_model(one).predict([wav], texts=said) for one in both]
        for name, chance in answer["scores"].items():
            mean = np.mean([one["scores"][name] for (one,) in alone])
            assert chance == pytest.approx(mean, abs=1e-5)
        found.append(answer["scores"])
    assert found[0] != found[1]


def test_long_clips_are_windowed_by_every_member(saved, folder):
    members = [load_model(saved / name) for name in KINDS]
    model = load_model(folder)
    for one in (*members, *model.members):
        one.encoder.lobe.max_samples = 8000
    clips = torch.randn(1, 20000), torch.tensor([20000])
    wanted = np.mean([calibrated(member, clips) for member in members], 0)
    np.testing.assert_allclose(calibrated(model, clips), wanted, atol=1e-6)
    assert model.max_samples == 8000


def tensors(model):
    """Parameters of an encoder's base by their place in memory."""
    found = {p.data_ptr(): p.numel() for p in model.encoder.parameters()}
    return found


def test_the_frozen_encoder_is_held_once(saved, folder, clips):
    model = load_model(folder)
    first, second, other = map(tensors, model.members)
    common = {*first} & {*second}
    total = sum(second.values())
    shared = sum(second[place] for place in common)
    assert shared > 0.8 * total
    # All but LoRA, which is its own.
    assert total - shared == model.members[1].encoder.num_adapter_parameters
    assert not {*other} & {*first}
    alone = [load_model(saved / name) for name in KINDS]
    sizes = [sum(p.numel() for p in one.parameters()) for one in alone]
    about = model.describe()
    assert about["total_parameters"] == sum(sizes) - shared
    assert about["trainable_parameters"] == {
        key: sum(one.describe()["trainable_parameters"][key] for one in alone)
        for key in ("adapter", "head")
    }
    assert about["method"] == "ensemble of 3 (lora + adapter)"
    # And stays so in another precision, where one is cast for all.
    before = model(*clips)
    model.double()
    assert {*tensors(model.members[0])} & {*tensors(model.members[1])}
    model.float()
    torch.testing.assert_close(model(*clips), before)


def test_inference_merges_nothing(folder, clips):
    """An adapter merged into shared weights would be in both members."""
    model = load_model(folder)
    with torch.no_grad():
        before = model(*clips)
        assert not model.merge()
        after = model.optimize_for_inference("fp32")(*clips)
    assert torch.equal(before, after)
    lengths = clips[1].numpy()
    low = load_model(folder).optimize_for_inference("bf16")
    gap = low.score(clips[0].numpy(), lengths) - before.numpy()
    assert 0 < np.abs(gap).max() < 0.1


def test_folder_is_whole_and_closed(saved, folder, tmp_path):
    names = {p.relative_to(folder).as_posix() for p in folder.rglob("*")}
    assert {"model.json", "manifest.json", RECORD} <= names
    assert not any("encoder" in name for name in names)  # no copy of it
    assert json.loads((folder / "model.json").read_text()) == {
        "format": 1, "members": ["members/1", "members/2", "members/3"],
    }  # fmt: skip
    assert load_model(folder / "members" / "2").classes == CLASSES
    copy = shutil.copytree(folder, tmp_path / "copy")
    head = copy / "members" / "2" / "head.safetensors"
    head.write_bytes(head.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match=r"head.safetensors: was changed"):
        load_model(copy)


@pytest.mark.parametrize(
    "members, message",
    [
        ([], "at least 1 item"),
        (["members/1", "members/9"], "members/9.*model.json: cannot be read"),
        (["../one"], "should match pattern"),
        (["/etc"], "should match pattern"),
        (["."], "should match pattern"),
        ("members/1", "should be a valid list"),
    ],
)
def test_descriptions_that_are_refused(folder, tmp_path, members, message):
    copy = shutil.copytree(folder, tmp_path / "copy")
    write_json(copy / "model.json", {"format": 1, "members": members})
    reseal(copy)
    with pytest.raises(InputError, match=message) as caught:
        load_model(copy)
    assert "\n" not in str(caught.value)


def test_members_that_are_refused(saved, folder, tiny_backbones, tmp_path):
    make(tiny_backbones["whisper"], "frozen", 1.0, classes=CLASSES[::-1]).save(
        tmp_path / "turned"
    )
    for models, message in (
        ([folder, saved / "one"], "is an ensemble already"),
        ([saved / "one", tmp_path / "turned"], "tells happy, sad.*same order"),
        ([saved / "one", tmp_path / "none"], "model.json"),
    ):
        with pytest.raises(InputError, match=message):
            assemble(models, tmp_path / "out")
        assert not (tmp_path / "out").exists()
    nested = shutil.copytree(folder, tmp_path / "nested")
    shutil.rmtree(nested / "members" / "1")
    shutil.copytree(folder, nested / "members" / "1")
    reseal(nested)
    with pytest.raises(InputError, match="is an ensemble itself"):
        load_model(nested)


def test_has_heard_whom_any_member_has(saved, tmp_path):
    copy = shutil.copytree(saved, tmp_path / "copy")
    record = json.loads((copy / "one" / RECORD).read_text())
    mine = record | {"speakers": {"x": ["anna"], "ravdess": ["01"]}}
    write_json(copy / "two" / RECORD, mine)
    reseal(copy / "two")
    heard = assemble([copy / "one", copy / "two"], tmp_path / "out")
    wanted = {"x": ["anna"], **record["speakers"]}
    assert {k: {*v} for k, v in heard["speakers"].items()} == {
        k: {*v, *mine["speakers"][k]} for k, v in wanted.items()
    }
    assert heard["deals"] == record["deals"]
    assert json.loads((tmp_path / "out" / RECORD).read_text()) == heard
    (copy / "two" / RECORD).unlink()
    reseal(copy / "two")
    both = [copy / "one", copy / "two"]
    with pytest.raises(InputError, match="has no heard.json"):
        assemble(both, tmp_path / "out")
    heard = assemble(both, tmp_path / "out", trust=True)
    assert heard["trust_start"] == [f"member: {copy / 'two'}"]


def test_exported_for_other_machines(saved, tmp_path, clips, tiny_backbones):
    assemble([saved / "one", saved / "two"], tmp_path / "made")
    wanted = load_model(tmp_path / "made")(*clips)
    export(tmp_path / "made", tmp_path / "out")
    texts = [p.read_text() for p in (tmp_path / "out").rglob("*.json")]
    assert not any(str(tiny_backbones["whisper"]) in text for text in texts)
    with pytest.raises(InputError, match="give it as --backbone"):
        load_model(tmp_path / "out")
    model = load_model(tmp_path / "out", tiny_backbones["whisper"])
    torch.testing.assert_close(model(*clips), wanted)
    export(tmp_path / "made", tmp_path / "merged", merge=True)
    merged = load_model(tmp_path / "merged")
    torch.testing.assert_close(merged(*clips), wanted, atol=1e-4, rtol=1e-4)
    for made in (tmp_path / "out", tmp_path / "merged"):
        assert (made / RECORD).read_bytes() == (
            tmp_path / "made" / RECORD
        ).read_bytes()
    with pytest.raises(InputError, match="without --speechbrain"):
        export(tmp_path / "made", tmp_path / "sb", speechbrain=True)


def test_one_place_for_several_encoders_is_refused(folder, tiny_backbones):
    with pytest.raises(InputError, match="trained in 2 different encoders"):
        load_model(folder, tiny_backbones["whisper"])


def test_one_place_for_copies_of_an_encoder(
    saved, tiny_backbones, tmp_path, clips
):
    """The same weights elsewhere are no other encoder."""
    moved = shutil.copytree(tiny_backbones["whisper"], tmp_path / "moved")
    two = load_model(saved / "two", moved)
    two.save(tmp_path / "two")
    (tmp_path / "two" / RECORD).write_bytes(
        (saved / "two" / RECORD).read_bytes()
    )
    reseal(tmp_path / "two")
    assemble([saved / "one", tmp_path / "two"], tmp_path / "made")
    shutil.rmtree(moved)
    with pytest.raises(InputError, match="moved"):
        load_model(tmp_path / "made")
    model = load_model(tmp_path / "made", tiny_backbones["whisper"])
    members = [load_model(saved / name) for name in ("one", "two")]
    wanted = np.mean([calibrated(member, clips) for member in members], 0)
    np.testing.assert_allclose(calibrated(model, clips), wanted, atol=1e-6)


def test_what_is_pushed_names_no_folder_of_this_machine(
    saved, folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(hub, "read_card", lambda *_: ModelCard("---\n{}\n---"))
    refused = hub.pack(folder, "me/x").refused
    assert len(refused) == 3 and "members/2/model.json: backbone" in refused[1]
    both = [saved / "one", saved / "two"]
    assemble(both, tmp_path / "made")
    export(tmp_path / "made", tmp_path / "out", backbone="user/encoder")
    parcel = hub.pack(tmp_path / "out", "me/x")
    assert not parcel.refused and "members/2/head.safetensors" in parcel.files


def test_what_an_ensemble_cannot(folder, tmp_path):
    with pytest.raises(InputError, match="is an ensemble, of 3 models"):
        export_onnx(folder, tmp_path / "a.onnx")


def test_commands_take_it(folder, saved, tmp_path, capsys):
    from soundfile import write

    wav = tmp_path / "a.wav"
    write(wav, np.random.default_rng(0).normal(0, 0.1, 24000), 16000)
    how = ["--precision", "fp32"]
    main(["predict", str(folder), str(wav), "--json", *how])
    answer = json.loads(capsys.readouterr().out)
    assert sum(answer["scores"].values()) == pytest.approx(1)
    out = tmp_path / "t.csv"
    main(["timeline", str(folder), str(wav), "--out", str(out), *how])
    assert out.exists()
    main(["embed", str(folder), str(wav), "--out", str(tmp_path / "e.npy")])
    vectors = [load_model(saved / name).head.vector_size for name in KINDS]
    assert np.load(tmp_path / "e.npy").shape == (1, sum(vectors))
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["embed", str(folder), str(wav), "--layer=1", "--out",
              str(tmp_path / "l.npy")])  # fmt: skip
    assert "MODEL is an ensemble" in capsys.readouterr().err
    stream = load_model(folder).stream(window=1.0, hop=0.5)
    windows = stream.push(np.zeros(32000, np.float32)) + stream.close()
    assert windows
