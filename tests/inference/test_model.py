"""The emotions of a recording."""

import json
import os
import warnings
from io import BytesIO, StringIO

import numpy as np
import peft
import pytest
import soundfile
import torch
from sealed import reseal
from transformers import (
    Wav2Vec2Config,
    Wav2Vec2Model,
    WhisperConfig,
    WhisperModel,
)

import ser_peft
from ser_peft.adapters import BottleneckConfig, PeftLobe
from ser_peft.data import read_audio
from ser_peft.errors import InputError
from ser_peft.heads import LayerMixHead, LinearHead, ProbeMixHead
from ser_peft.inference import EmotionModel, load_model
from ser_peft.lobes import load_lobe

CLASSES = ["neutral", "angry", "sad", "happy"]


def same(answers, expected, abs=1e-6):
    """Whether answers are equal but for the order of floating-point sums."""
    assert [a["label"] for a in answers] == [e["label"] for e in expected]
    for answer, other in zip(answers, expected, strict=True):
        for key in ("scores", "uncalibrated"):
            assert answer[key] == pytest.approx(other[key], abs=abs)
    return True


def voice(seconds, seed=0, rate=16000):
    """Something like speech, [T]."""
    generator = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    pitch = 120 + 20 * generator.random() + 30 * np.sin(5 * time)
    wave = np.sin(2 * np.pi * np.cumsum(pitch) / rate)
    wave *= 0.1 + 0.1 * np.sin(2 * np.pi * 4 * time)
    return torch.tensor(wave + generator.normal(0, 0.01, len(time))).float()


@pytest.fixture(scope="module")
def models(tiny_backbones):
    """Three kinds of encoder, adapter and head, with random weights."""
    kinds = {
        "wav2vec2": ("frozen", LinearHead),
        "wavlm": (BottleneckConfig(bottleneck=4), ProbeMixHead),
        "whisper": (peft.LoraConfig(init_lora_weights=False), LayerMixHead),
    }
    torch.manual_seed(0)
    models = {}
    for name, (method, head) in kinds.items():
        encoder = PeftLobe(load_lobe(tiny_backbones[name]), method)
        model = EmotionModel(encoder, head(encoder, CLASSES), CLASSES)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn_like(parameter))
        models[name] = model.eval()
    return models


@pytest.fixture(params=["wav2vec2", "wavlm", "whisper"])
def model(models, request):
    """Each of `models` in turn."""
    return models[request.param]


@pytest.fixture(scope="module")
def saved(models, tmp_path_factory):
    """The Whisper model on disk, in a run's folder."""
    run = tmp_path_factory.mktemp("run")
    models["whisper"].save(run / "model")
    return run


@pytest.fixture
def copy(saved, tmp_path):
    """A copy of the saved model/ folder, to be broken."""
    target = tmp_path / "model"
    for path in saved.rglob("*"):
        if path.is_file():
            to = target / path.relative_to(saved / "model")
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_bytes(path.read_bytes())
    return target


@torch.no_grad()
def test_scores_do_not_depend_on_batch_mates(model):
    clips = [voice(0.4, 1), voice(1.1, 2), voice(0.7, 3)]
    lengths = [len(clip) for clip in clips]
    batch = torch.full((3, 20000), 9.0)  # what lies beyond is ignored
    for row, clip in zip(batch, clips, strict=True):
        row[: len(clip)] = clip
    together = model(batch, torch.tensor(lengths))
    assert together.shape == (3, 4)
    for clip, scores in zip(clips, together, strict=True):
        torch.testing.assert_close(
            model(clip[None])[0], scores, atol=1e-4, rtol=0
        )
    assert (together[0] - together[1]).abs().max() > 1e-3
    # Without lengths all of T counts.
    assert torch.equal(model(batch), model(batch, [20000] * 3))
    assert not torch.allclose(model(batch), together, atol=1e-3)


@torch.no_grad()
def test_long_clips_are_windowed(model, monkeypatch):
    assert model.encoder.max_samples == 30 * 16000
    monkeypatch.setattr(model.encoder.lobe, "max_samples", 10000)
    clip, short = voice(1.8), voice(0.5, 1)
    batch = torch.zeros(2, len(clip))
    batch[0], batch[1, :8000] = clip, short
    scores = model(batch, [len(clip), 8000])
    thirds = [
        model(clip[None, start : start + 9600])[0]
        for start in range(0, 28800, 9600)
    ]
    torch.testing.assert_close(
        scores[0], torch.stack(thirds).mean(0), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(
        scores[1], model(short[None])[0], atol=1e-5, rtol=0
    )
    # The longest window is taken whole.
    whole = clip[None, :10000]
    hidden, frames = model.encoder(whole)
    assert torch.equal(model(whole), model.head(hidden, frames))


@torch.no_grad()
def test_the_windows_of_a_long_clip_are_no_single_batch(models, monkeypatch):
    model, sizes = models["wavlm"], []
    monkeypatch.setattr(model.encoder.lobe, "max_samples", 2000)
    clip = voice(1)[None]
    at_once = model(clip)
    monkeypatch.setattr("ser_peft.inference.windows.TOGETHER", 6000)
    hook = model.encoder.register_forward_pre_hook(
        lambda module, inputs: sizes.append(inputs[0].shape)
    )
    with hook:
        some_at_once = model(clip)
    assert sizes == [(3, 2000), (3, 2000), (2, 2000)]
    torch.testing.assert_close(some_at_once, at_once, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "lengths", [torch.tensor([1.0, 0.5]), [16001, 8000], [16000.0, 8000.0]]
)
def test_lengths_are_samples(models, lengths):
    """SpeechBrain's are shares: taken for samples, nothing would be left."""
    with pytest.raises(InputError, match="whole numbers of samples"):
        models["wav2vec2"](torch.randn(2, 16000), lengths)


def test_predict_files_and_arrays(model, tmp_path):
    wave = np.stack([voice(0.6, 4, 48000), voice(0.6, 5, 48000)], 1)
    path = tmp_path / "clip.flac"
    soundfile.write(path, wave, 48000)
    wav = read_audio(path)
    with torch.no_grad():
        expected = model(wav[None])[0].softmax(-1)
    answers = model.predict(
        [path, str(path), wav, wav.numpy(), wav.double().numpy(), wav.tolist()]
    )
    assert same(model.predict(path), answers[:1])
    for answer in answers:
        assert list(answer["scores"]) == CLASSES
        assert list(answer["scores"].values()) == pytest.approx(
            expected.tolist(), abs=1e-6
        )
        assert sum(answer["scores"].values()) == pytest.approx(1)
        assert answer["label"] == CLASSES[int(expected.argmax())]


@pytest.mark.parametrize("first_seconds", [None, 1.3])
def test_a_long_file_is_predicted_like_a_short_one(
    models, tmp_path, monkeypatch, first_seconds
):
    path = tmp_path / "clip.wav"
    soundfile.write(path, voice(4, rate=22050), 22050)
    model = models["wavlm"]
    monkeypatch.setattr(model, "first_seconds", first_seconds)
    monkeypatch.setattr(model.encoder.lobe, "max_samples", 16000)
    short = model.predict([path])
    monkeypatch.setattr("ser_peft.data.audio.HELD", 0)
    assert same(model.predict([path]), short)


def test_predict_takes_any_floats(models):
    """However they lie in memory; torch alone would not."""
    wav = voice(0.5).numpy()
    frozen = wav.copy()
    frozen.flags.writeable = False
    kinds = [wav[::-1].copy()[::-1], wav.astype(">f4"), wav.astype("<f8"),
             wav.astype(">f8"), frozen, np.stack([wav, wav], 1)[:, 0],
             wav.astype(np.longdouble)]  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, *others = models["whisper"].predict([wav, *kinds])
    for other in others:
        assert other["scores"] == pytest.approx(first["scores"], abs=1e-6)


def test_predict_takes_every_form_of_a_recording(models, tmp_path):
    model, wav = models["wav2vec2"], voice(0.5).numpy()
    (expected,) = model.predict([wav])
    steps = np.round(wav * 2**15)
    wide = np.repeat(wav, 2)  # at 32 kHz
    path = tmp_path / "clip.wav"
    soundfile.write(path, wav, 16000, "FLOAT")
    kinds = [
        steps.astype(np.int16),
        steps.astype(np.int64),
        (steps * 2**16).astype(np.int32),
        (steps + 2**15).astype(np.uint16),
        torch.tensor(wav).bfloat16().float(),
        torch.tensor(steps).short(),
        wav[None],
        (wav, 16000),
        {"array": wav.tolist(), "sampling_rate": np.int64(16000)},
        {"raw": wav, "sampling_rate": 16000},
        {"bytes": path.read_bytes(), "path": "elsewhere.wav"},
        {"path": str(path), "bytes": None},
        path.read_bytes(),
        memoryview(path.read_bytes()),
        BytesIO(path.read_bytes()),
    ]
    answers = model.predict(kinds)
    assert same(answers, [expected] * len(kinds), abs=2e-3)
    with open(path, "rb") as file:
        assert same(model.predict(file), [expected])
    for one in kinds:  # alone it is a list of one, but for the 2-D array
        if not isinstance(one, BytesIO):
            assert same(model.predict(one), [expected], abs=2e-3)
    assert same(model.predict((wide, 32000)), model.predict([(wide, 32000)]))
    # A batch of equal lengths, and a generator.
    assert same(model.predict(np.stack([wav, wav])), [expected] * 2)
    assert same(model.predict(one for one in [wav]), [expected])
    # 8 bits are unsigned, as in wav files.
    coarse = model.predict([(np.round(wav * 127) + 128).astype(np.uint8)])
    assert same(coarse, [expected], abs=0.2)
    with pytest.raises(InputError, match="recordings: float; give"):
        model.predict(0.5)


def test_many_recordings_are_scored_in_batches(models, monkeypatch):
    model, sizes = models["whisper"], []
    wavs = [voice(0.3 + 0.1 * (i % 5), i).numpy() for i in range(23)]
    expected = [model.predict([wav])[0] for wav in wavs]
    score = model.score

    def spy(wavs, lengths, texts):
        sizes.append(wavs.size)
        return score(wavs, lengths, texts)

    monkeypatch.setattr(model, "score", spy)
    for clips, seconds in ((256, 2), (7, 1), (256, 0.01)):
        monkeypatch.setattr("ser_peft.inference.batches.CLIPS", clips)
        sizes.clear()
        answers = model.predict(wavs, batch_seconds=seconds)
        assert same(answers, expected, abs=1e-5)
        assert len(sizes) == 23 or max(sizes) <= 16000 * seconds
    assert len(sizes) == 23


def test_a_batch_that_is_too_much_is_halved(models, monkeypatch):
    model, score = models["whisper"], models["whisper"].score

    def small(wavs, lengths, texts):
        if len(wavs) > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return score(wavs, lengths, texts)

    wavs = [voice(0.4, seed).numpy() for seed in range(5)]
    expected = model.predict(wavs)
    monkeypatch.setattr(model, "score", small)
    assert same(model.predict(wavs), expected, abs=1e-5)


def test_fewer_classes_and_unsure_answers(models, monkeypatch):
    model, wav = models["whisper"], voice(0.5)
    (whole,) = model.predict([wav])
    (best,) = model.predict([wav], top_k=2)
    ranked = sorted(whole["scores"], key=whole["scores"].get, reverse=True)
    assert [*best["scores"]] == ranked[:2] and best["label"] == ranked[0]
    assert "unsure" not in whole
    assert model.predict([wav], unsure=1.0)[0]["unsure"] is True
    monkeypatch.setattr(model, "unsure", 0.26)
    assert model.predict([wav])[0]["unsure"] == (
        max(whole["scores"].values()) < 0.26
    )
    assert model.predict([wav], unsure=0.0)[0]["unsure"] is False


def test_optimized_models_answer_the_same(saved):
    wavs = [voice(0.4 + 0.3 * seed, seed).numpy() for seed in range(4)]
    expected = load_model(saved).predict(wavs)
    merged = load_model(saved).optimize_for_inference()
    assert not [n for n, _ in merged.named_parameters() if "lora" in n]
    assert same(merged.predict(wavs), expected, abs=1e-5)
    coarse = load_model(saved).optimize_for_inference("bf16")
    assert coarse.encoder.lobe.model.conv1.weight.dtype == torch.bfloat16
    for answer, other in zip(coarse.predict(wavs), expected, strict=True):
        assert answer["scores"] == pytest.approx(other["scores"], abs=0.05)
    with pytest.raises(InputError, match="fp16 needs a GPU"):
        load_model(saved).optimize_for_inference("fp16")


def test_predict_names_what_was_too_much(models, monkeypatch):
    def full(*args, **kwargs):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you ..")

    monkeypatch.setattr(models["whisper"].encoder, "forward", full)
    with pytest.raises(InputError, match=r"recordings\[0\]: memory .* 0.5 s"):
        models["whisper"].predict([voice(0.5)])


def test_predict_is_not_random(models):
    model = models["wavlm"].train()
    clip = voice(0.5)
    first, second = model.predict([clip, clip])
    assert same([first], [second])
    assert not model.training


@pytest.mark.parametrize(
    ("recording", "message"),
    [
        ("nowhere.wav", "nowhere.wav: cannot be read"),
        (np.zeros(16000, np.float32), r"recordings\[1\]: silent"),
        (np.ones(100, np.float32), r"recordings\[1\]: 0.006 s .*too short"),
        (np.full(8000, np.nan), r"recordings\[1\]: NaN"),
        (np.full(8000, 32767.0), r"recordings\[1\]: .*3.277e\+04.*\[-1, 1\]"),
        (np.ones((2, 8000)), r"recordings\[1\]: .*\[2, 8000\]; give a path"),
        (np.ones(8000, bool), r"recordings\[1\]: bool .*floats"),
        (np.ones(8000, complex), r"recordings\[1\]: complex128 .*floats"),
        (np.array([{}] * 8000), r"recordings\[1\]: object .*floats"),
        (np.empty(0), r"recordings\[1\]: 0.000 s .*too short"),
        ([[0.1], [0.1, 0.2]], r"recordings\[1\]: is no array"),
        (None, r"recordings\[1\]: object \[\]; give a path"),
        (0.5, r"recordings\[1\]: .*give a path"),
        ({}, r"recordings\[1\]: a dict of nothing; give 'array'"),
        ({"array": np.ones(9)}, r"recordings\[1\]: .*'sampling_rate'"),
        ((np.ones(8000), 0), r"recordings\[1\]: sample rate 0; give"),
        (b"no sound", r"recordings\[1\]: cannot be read as audio"),
        (StringIO("a"), r"recordings\[1\]: .*open it with 'rb'"),
    ],
)
def test_predict_refuses(models, recording, message):
    with pytest.raises(InputError, match=message):
        models["wav2vec2"].predict([voice(0.5), recording])


def test_all_that_cannot_be_used_are_named(models, tmp_path):
    (tmp_path / "a.wav").touch()
    recordings = [voice(0.5), tmp_path / "a.wav", np.zeros(8000), "b.wav"]
    with pytest.raises(InputError) as raised:
        models["wav2vec2"].predict(recordings)
    assert str(raised.value) == (
        f"3 of 4 recordings cannot be used: {tmp_path}/a.wav, recordings[2], "
        f"b.wav; {tmp_path}/a.wav: cannot be read as audio (an empty file); "
        "copy or download it again"
    )


def test_what_is_odd_about_a_file_is_told(models, tmp_path, caplog):
    path, wav = tmp_path / "a.wav", voice(0.5).numpy()
    soundfile.write(path, np.stack([wav, -wav], 1), 16000, "FLOAT")
    assert models["wav2vec2"].predict(path) == models["wav2vec2"].predict([wav])
    assert caplog.messages[0].startswith(f"{path}: channels in opposite phase")


def test_saved_models_give_the_same_scores(model, tmp_path):
    clip = voice(0.8)
    with torch.no_grad():
        expected = model(clip[None])
    for _ in range(2):  # the second replaces the first
        model.save(tmp_path / "model")
    again = load_model(tmp_path / "model")
    assert not again.training
    assert not any(p.requires_grad for p in again.encoder.parameters())
    assert again.classes == CLASSES
    assert again.sample_rate == 16000
    with torch.no_grad():
        assert torch.equal(again(clip[None]), expected)
    files = {
        str(path.relative_to(tmp_path))
        for path in tmp_path.rglob("*")
        if path.is_file()
    }
    frozen = type(model.head) is LinearHead
    assert files == {
        "model/manifest.json",
        "model/model.json",
        "model/head.safetensors",
        "model/adapter/adapter_config.json",
        *([] if frozen else ["model/adapter/adapter_model.safetensors"]),
    }


def test_hears_no_more_than_it_did_in_training(models, copy):
    """Of a clip the beginning, alone and beside others."""
    clips = voice(1.2, 1), voice(0.4, 2)
    edit(first_seconds=0.6)(copy)
    model = load_model(copy)
    batch = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
    with torch.no_grad():
        found = model(batch, [len(clip) for clip in clips])
        for row, clip in zip(found, (clips[0][:9600], clips[1]), strict=True):
            expected = models["whisper"](clip[None])[0]
            torch.testing.assert_close(row, expected, atol=1e-4, rtol=0)
    model.save(copy)
    assert load_model(copy).first_seconds == 0.6


def test_a_runs_folder_is_a_model(models, saved):
    clip = voice(0.5)
    expected = models["whisper"].predict([clip])
    assert ser_peft.load_model(saved).predict([clip]) == expected
    assert load_model(str(saved / "model")).predict([clip]) == expected


def test_the_backbone_may_have_moved(models, copy, tiny_backbones, tmp_path):
    about = json.loads((copy / "model.json").read_text())
    about["backbone"] = str(tmp_path / "gone")
    (copy / "model.json").write_text(json.dumps(about))
    reseal(copy)
    with pytest.raises(InputError, match="backbone .*gone"):
        load_model(copy)
    moved = tmp_path / "elsewhere"
    os.symlink(tiny_backbones["whisper"], moved)
    clip = voice(0.5)
    assert load_model(copy, backbone=moved).predict([clip]) == models[
        "whisper"
    ].predict([clip])


def remove(name):
    def unlink(folder):
        (folder / name).unlink()
        reseal(folder)

    return unlink


def garble(name):
    def write(folder):
        (folder / name).write_bytes(b"\0garbled")
        reseal(folder)

    return write


def pointer(name):
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    return lambda folder: (folder / name).write_text(text)


def edit(**changes):
    def write(folder):
        about = json.loads((folder / "model.json").read_text())
        about |= changes
        about = {k: v for k, v in about.items() if v is not None}
        (folder / "model.json").write_text(json.dumps(about))
        reseal(folder)

    return write


def test_probabilities_are_of_the_scaled_logits(models, copy):
    clip = voice(0.5)
    with torch.no_grad():
        logits = models["whisper"](clip[None])[0]
    # The last is a folder from before there was a temperature.
    for temperature, divisor in ((2.5, 2.5), (None, 1.0)):
        edit(temperature=temperature)(copy)
        model = load_model(copy)
        (answer,) = model.predict([clip])
        assert list(answer["scores"].values()) == pytest.approx(
            (logits / divisor).softmax(-1).tolist(), abs=1e-6
        )
        assert list(answer["uncalibrated"].values()) == pytest.approx(
            logits.softmax(-1).tolist(), abs=1e-6
        )
        with torch.no_grad():
            assert torch.allclose(model(clip[None])[0], logits)
        assert model.unsure is None


def test_threshold_is_kept(copy, tmp_path):
    edit(unsure=0.4)(copy)
    model = load_model(copy)
    assert model.unsure == 0.4
    model.save(tmp_path / "again")
    assert load_model(tmp_path / "again").unsure == 0.4


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (remove("model.json"), "model.json: cannot be read .*finished run"),
        (garble("model.json"), "model.json: describes no model"),
        (edit(head=None), "model.json: describes no model"),
        (edit(head="NoHead"), "model.json: describes no model"),
        (edit(format=2), "model.json: format 2, this ser_peft reads 1"),
        (edit(temperature=0), "model.json: describes no model"),
        (edit(temperature="warm"), "model.json: describes no model"),
        (edit(first_seconds=0), "model.json: describes no model"),
        (edit(classes=["a", "b"]), "head.safetensors: does not fit"),
        (edit(head="LinearHead", head_settings={}),
         "head.safetensors: does not fit"),
        (remove("head.safetensors"), "head.safetensors: cannot be read"),
        (garble("head.safetensors"), "head.safetensors: cannot be read"),
        (remove("adapter/adapter_config.json"), "adapter_config.json"),
        (remove("adapter/adapter_model.safetensors"), "adapter_model.safet"),
        (garble("adapter/adapter_model.safetensors"), "adapter_model.safet"),
        (pointer("model.json"), "model.json: a Git LFS .*`git lfs pull`"),
        (pointer("head.safetensors"), "head.safetensors: a Git LFS pointer"),
        (pointer("adapter/adapter_config.json"), "config.json: a Git LFS"),
        (pointer("adapter/adapter_model.safetensors"), "tensors: a Git LFS"),
    ],
)  # fmt: skip
def test_broken_models_are_named(copy, harm, message):
    harm(copy)
    with pytest.raises(InputError, match=message):
        load_model(copy)


def test_no_model_at_all(tmp_path):
    with pytest.raises(InputError, match="nowhere/model.json: cannot be read"):
        load_model(tmp_path / "nowhere")
    (tmp_path / "clip.wav").touch()
    with pytest.raises(InputError, match="clip.wav/model.json: cannot be read"):
        load_model(tmp_path / "clip.wav")


def test_another_backbone_does_not_fit(saved, tiny_backbones, tmp_path):

    with pytest.raises(InputError, match="trained in a WhisperEncoder"):
        load_model(saved, backbone=tiny_backbones["wavlm"])
    config = WhisperConfig.from_pretrained(tiny_backbones["whisper"])
    config.update({"d_model": 16})
    WhisperModel(config).save_pretrained(tmp_path / "narrow")
    with pytest.raises(InputError, match="adapter_model.safetensors: does not"):
        load_model(saved, backbone=tmp_path / "narrow")


def test_frozen_model_on_another_width(models, tiny_backbones, tmp_path):
    """Only the head can tell."""

    models["wav2vec2"].save(tmp_path / "model")
    config = Wav2Vec2Config.from_pretrained(tiny_backbones["wav2vec2"])
    config.update({"hidden_size": 16})
    Wav2Vec2Model(config).save_pretrained(tmp_path / "narrow")
    with pytest.raises(InputError, match="head.safetensors: does not fit"):
        load_model(tmp_path / "model", backbone=tmp_path / "narrow")
