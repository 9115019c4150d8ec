"""Models in one file of ONNX, against torch."""

import json
import re
import subprocess
import sys

import numpy as np
import onnx
import peft
import pytest
import soundfile
import torch

import ser_peft
from ser_peft.adapters import BottleneckConfig, PeftLobe, PromptConfig
from ser_peft.cli import main
from ser_peft.errors import InputError
from ser_peft.heads import (
    LayerMixHead,
    MeanHead,
    ProbeMixHead,
    StatisticsHead,
)
from ser_peft.inference import EmotionModel, onnx_export
from ser_peft.inference.onnx import KEY, OnnxModel
from ser_peft.inference.onnx_export import export_onnx
from ser_peft.inference.quantizing import quantize
from ser_peft.lobes import load_lobe

CLASSES = ["neutral", "angry", "sad", "happy"]
LORA = peft.LoraConfig(init_lora_weights=False)
# Encoder, what of it is used, method, head, and what it answers.
KINDS = {
    "wav2vec2": ({"frame_stride": 2}, LORA, ProbeMixHead,
                 {"dimensions": {"arousal": (3.0, 1.2)}}),
    "hubert": ({"depth": 1}, BottleneckConfig(bottleneck=4), MeanHead, {}),
    "wavlm": ({}, PromptConfig(length=3), StatisticsHead, {}),
    "whisper": ({}, LORA, LayerMixHead, {"temperature": 1.5}),
}  # fmt: skip


def untrained(backbone, how, method, head, answers):
    """A model whose adapter and head have random weights."""
    encoder = PeftLobe(load_lobe(backbone, **how), method)
    dimensions = answers.get("dimensions", {})
    head = head(encoder, CLASSES, dimensions)
    model = EmotionModel(encoder, head, CLASSES, **answers)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def voices(*lengths):
    """Something like voices, with noise beyond their ends: [B, T] and [B]."""
    generator = np.random.default_rng(len(lengths))
    time = np.arange(max(lengths)) / 16000
    pitch = generator.uniform(90, 250, (len(lengths), 1))
    wavs = 0.2 * np.sin(2 * np.pi * pitch * (time + np.sin(3 * time) / 9))
    wavs += generator.normal(0, 0.01, wavs.shape)
    return wavs.astype(np.float32), np.array(lengths)


@pytest.fixture(scope="module")
def exports(tiny_backbones, tmp_path_factory):
    """Function: family -> its run, model, and ONNX file. Traced only once."""
    graphs, trace, made = {}, onnx_export._trace, {}

    def kept(model, run):
        if run not in graphs:
            graphs[run] = trace(model, run)
        graph = onnx.ModelProto()
        graph.CopyFrom(graphs[run])
        return graph

    def make(family):
        if family not in made:
            folder = tmp_path_factory.mktemp("onnx ä")
            model = untrained(tiny_backbones[family], *KINDS[family])
            model.save(folder / "run" / "model")
            export_onnx(folder / "run", folder / "model.onnx")
            made[family] = folder / "run", model, folder / "model.onnx"
        return made[family]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_export, "_trace", kept)
        yield make


@pytest.fixture(scope="module", params=KINDS)
def pair(exports, request):
    """A model of each family in torch, and its ONNX file."""
    return exports(request.param)[1:]


@pytest.mark.parametrize(
    "lengths",
    [[16000], [100], [399, 400, 401], [5000, 48000, 160], [480000], [8000] * 5],
    ids=str,
)
def test_scores_equal_torch(pair, lengths):
    model, path = pair
    exported = OnnxModel(path, threads=1)
    wavs, lengths = voices(*lengths)
    with torch.no_grad():
        expected = model(torch.from_numpy(wavs), lengths).numpy()
    close = {"atol": 1e-4, "rtol": 0}
    # As one batch, whose samples beyond a clip are ignored, and one by one.
    np.testing.assert_allclose(exported.run(wavs, lengths), expected, **close)
    np.testing.assert_allclose(exported.score(wavs, lengths), expected, **close)
    assert np.ptp(expected[:, :4]) > 1e-2


def test_answers_equal_torch(pair):
    model, path = pair
    exported = ser_peft.load_model(path)
    assert isinstance(exported, OnnxModel)
    clips = [voices(length)[0][0] for length in (4000, 20000, 500000)]
    for one, other in zip(
        exported.predict(clips, top_k=3),
        model.predict(clips, top_k=3),
        strict=True,
    ):
        assert one.keys() == other.keys()
        assert one["label"] == other["label"]
        for key in one.keys() & {"scores", "uncalibrated", "dimensions"}:
            assert one[key] == pytest.approx(other[key], abs=1e-4)


ELSEWHERE = """
import json, sys
from importlib.machinery import PathFinder

missing = json.loads(sys.argv[1])
find = PathFinder.find_spec


def find_spec(name, *args):
    return None if name.partition(".")[0] in missing else find(name, *args)


PathFinder.find_spec = find_spec
"""
MISSING = [
    "torch", "torchaudio", "transformers", "speechbrain", "peft", "pydantic",
    "safetensors", "tqdm", "sklearn", "scipy", "huggingface_hub", "hyperpyyaml",
    "ruamel", "matplotlib", "onnx", "onnxscript",
]  # fmt: skip


def elsewhere(code, *args):
    """Run code where only onnxruntime and what reads files are installed."""
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE + code, json.dumps(MISSING), *args],
        capture_output=True,
        text=True,
    )
    assert not done.returncode, done.stderr
    return done.stdout


@pytest.fixture
def clip(tmp_path):
    """A file of another rate."""
    path = tmp_path / "clip ä.wav"
    soundfile.write(path, voices(30000)[0][0], 22050)
    return path


def test_runs_without_torch(exports, clip):
    _, model, path = exports("whisper")
    code = """
from ser_peft.inference.onnx import load_onnx
print(json.dumps(load_onnx(sys.argv[2]).predict([sys.argv[3]])))
"""
    (found,) = json.loads(elsewhere(code, str(path), str(clip)))
    (expected,) = model.predict([clip])
    assert found["scores"] == pytest.approx(expected["scores"], abs=1e-4)
    code = "from ser_peft.cli import main; main(sys.argv[2:])"
    out = elsewhere(code, "predict", str(path), str(clip), "--json")
    assert json.loads(out)["scores"] == pytest.approx(found["scores"])
    table = clip.with_suffix(".csv")
    elsewhere(code, "predict", str(path), str(clip), "--out", str(table))
    assert expected["label"] in table.read_text()


def test_int8(exports, manifests, tmp_path, capsys):
    run, _, path = exports("whisper")
    valid = run / "manifests"
    valid.symlink_to(manifests)
    try:
        args = ["export", str(run), str(tmp_path / "8.onnx"), "--onnx"]
        main([*args, "--int8"])
    finally:
        valid.unlink()
    about = json.loads(capsys.readouterr().out)
    assert about["precision"] == "int8"
    for key in ("checked", "int8"):
        assert about[key]["on"] == "ravdess, valid"
    assert about["checked"]["difference"] <= 1e-4
    exact, small = OnnxModel(path), OnnxModel(tmp_path / "8.onnx")
    assert small.about == {**about, "dimensions": {}}
    # Of the whole valid set, by these two models again.
    entries = json.loads((manifests / "valid.json").read_text())
    root = json.loads((manifests / "protocol.json").read_text())["data_folder"]
    clips = [e["wav"].replace("{data_root}", root) for e in entries.values()]
    labels = np.array([e["emotion"] for e in entries.values()])
    answers = {"fp32": exact.predict(clips), "int8": small.predict(clips)}
    found = {k: np.array([a["label"] for a in v]) for k, v in answers.items()}
    assert about["int8"]["clips"] == len(clips)
    assert about["int8"]["agreement"] == np.mean(found["fp32"] == found["int8"])
    for name, guesses in found.items():
        recalls = [np.mean(guesses[labels == c] == c) for c in CLASSES]
        assert about["int8"]["ua"][name] == pytest.approx(np.mean(recalls))
    # Whoever the batch mates are.
    wavs, lengths = voices(16000, 30000, 4000)
    alone = small.score(wavs[:1, :16000], lengths[:1])
    np.testing.assert_array_equal(small.score(wavs, lengths)[:1], alone)
    difference = np.abs(exact.score(wavs, lengths) - small.score(wavs, lengths))
    assert 0 < difference.max() < 0.5


def test_int8_multiplies_all_but_the_front_end(exports, tmp_path):
    _, _, path = exports("whisper")
    small = tmp_path / "small.onnx"
    small.write_bytes(path.read_bytes())
    quantize(small)
    graph = onnx.load(small).graph
    kinds = [node.op_type for node in graph.node]
    # 6 of each layer and 3 of the head; its last ones are Gemm.
    assert kinds.count("MatMulInteger") == 2 * 6 + 5
    weights = {one.name: one for one in graph.initializer}
    floats = [
        name
        for name, one in weights.items()
        if one.data_type == onnx.TensorProto.FLOAT and np.prod(one.dims) > 4096
    ]
    assert all("mel_filters" in name for name in floats), floats


def test_what_cannot_be_exported(exports, tmp_path, monkeypatch, capsys):
    run, _, path = exports("whisper")
    for out, flags, message in [
        (path, ["--onnx"], "is there already; give a new file"),
        (tmp_path / "a", ["--onnx"], "writes one file; call it .*a.onnx"),
        (tmp_path / "a.onnx", ["--int8"], "--int8: is for ONNX files"),
        (tmp_path / "a.onnx", ["--onnx", "--merge"], "--merge: is not for"),
    ]:
        with pytest.raises(SystemExit):
            main(["export", str(run), str(out), *flags])
        assert re.search(message, capsys.readouterr().err)
    with pytest.raises(InputError, match="is an ONNX file already"):
        export_onnx(path, tmp_path / "a.onnx")
    monkeypatch.setattr(onnx_export, "TOLERANCE", 0)
    with pytest.raises(InputError, match="differ by .* cannot be exported"):
        export_onnx(run, tmp_path / "a.onnx")
    monkeypatch.setattr(onnx_export, "LARGEST", 1000)
    with pytest.raises(InputError, match="GiB of weights"):
        export_onnx(run / "model", tmp_path / "a.onnx")
    assert not [*tmp_path.iterdir()]


def test_files_of_others_are_refused(exports, tmp_path):
    _, _, path = exports("whisper")
    with pytest.raises(InputError, match=r"no\.onnx: no such file"):
        OnnxModel(tmp_path / "no.onnx")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="onnxruntime cannot load it"):
        OnnxModel(broken)
    about = OnnxModel(path).about
    graph = onnx.load(path)
    for wrong, message in [
        (about | {"format": 2}, "format 2, this ser_peft reads 1"),
        (about | {"classes": 4}, "was not written by `ser-peft export"),
        (about | {"temperature": "hot"}, "was not written by"),
        ([], "was not written by"),
    ]:
        onnx.helper.set_model_props(graph, {KEY: json.dumps(wrong)})
        onnx.save(graph, broken)
        with pytest.raises(InputError, match=message):
            OnnxModel(broken)
    with pytest.raises(InputError, match="--backbone tiny: .* leave it out"):
        ser_peft.load_model(path, backbone="tiny")


def test_real_whisper(shared_whisper, ravdess_folder, tmp_path):
    """The real encoder, with a LoRA of its own, on real clips."""
    model = untrained(shared_whisper, *KINDS["whisper"])
    model.save(tmp_path / "run" / "model")
    about = export_onnx(tmp_path / "run", tmp_path / "model.onnx", int8=True)
    assert about["checked"]["difference"] <= 1e-4
    size = (tmp_path / "model.onnx").stat().st_size
    whole = sum(t.nbytes for t in model.state_dict().values())
    assert size < whole / 3
    clips = sorted((ravdess_folder / "Actor_01").iterdir())[::12]
    exported = OnnxModel(tmp_path / "model.onnx")
    for one, other in zip(
        exported.predict(clips), model.predict(clips), strict=True
    ):
        assert one["scores"] == pytest.approx(other["scores"], abs=0.1)
