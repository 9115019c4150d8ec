"""SpeechBrain's own classes on an exported model."""

import json
import subprocess
import sys

import numpy as np
import peft
import pytest
import soundfile
import torch
from speechbrain.inference.classifiers import EncoderClassifier

from ser_peft.adapters import PeftLobe
from ser_peft.cli import main
from ser_peft.errors import InputError
from ser_peft.heads import ProbeMixHead
from ser_peft.inference import EmotionClassifier, EmotionModel, load_model
from ser_peft.inference.export import export
from ser_peft.lobes import load_lobe

CLASSES = ["neutral", "angry", "sad", "happy"]
LENS = torch.tensor([1.0, 0.4, 0.71])

FRESH = """
import json, sys
import torch
from speechbrain.inference.classifiers import EncoderClassifier
from ser_peft.inference import EmotionClassifier
source, savedir, wavs = sys.argv[1:]
for kind in EncoderClassifier, EmotionClassifier:
    classifier = kind.from_hparams(source, savedir=savedir)
    found = classifier.classify_batch(torch.load(wavs), torch.tensor({lens}))
    print(json.dumps([*(x.tolist() for x in found[:3]), found[3]]))
"""


def voices():
    """Three clips, [3, 20000], of which the later ones are padded."""
    generator = torch.Generator().manual_seed(0)
    wavs = 0.1 * torch.randn(3, 20000, generator=generator)
    for wav, share in zip(wavs, LENS, strict=True):
        wav[round(20000 * float(share)) :] = 0
    return wavs


@pytest.fixture(scope="module")
def folders(tiny_backbones, tmp_path_factory):
    """A model, its export for SpeechBrain, and that with its encoder."""
    root = tmp_path_factory.mktemp("ä b")
    torch.manual_seed(0)
    encoder = PeftLobe(
        load_lobe(tiny_backbones["whisper"]),
        peft.LoraConfig(init_lora_weights=False),
    )
    head = ProbeMixHead(encoder, CLASSES, ["arousal"])
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model = EmotionModel(
        encoder, head, CLASSES, 1.7, {"arousal": (3.0, 1.0)}
    ).eval()
    model.save(root / "model")
    for name, flags in (("unmerged", []), ("out", ["--merge"])):
        main(
            ["export", str(root / "model"), str(root / name), "--speechbrain"]
            + flags
        )
    return root


@pytest.fixture
def expected(folders):
    """Log-probabilities of `voices` by the model itself, [3, 4]."""
    with torch.no_grad():
        lengths = (LENS * 20000).round().long()
        scores = load_model(folders / "model")(voices(), lengths)
    return (scores[:, :4] / 1.7).log_softmax(-1)


@pytest.fixture(params=[EncoderClassifier, EmotionClassifier])
def classifier(request, folders, tmp_path):
    """SpeechBrain's own class and ours, on the same folder."""
    return request.param.from_hparams(
        str(folders / "out"), savedir=str(tmp_path / "here")
    )


def test_a_padded_batch_is_scored_as_by_the_model(classifier, expected):
    out_prob, score, index, text_lab = classifier.classify_batch(voices(), LENS)
    assert out_prob.shape == (3, 4) and score.shape == index.shape == (3,)
    torch.testing.assert_close(out_prob, expected, atol=1e-5, rtol=0)
    assert torch.equal(score, out_prob.max(-1).values)
    assert text_lab == [CLASSES[i] for i in expected.argmax(-1)]
    for found, again in zip(
        classifier(voices(), LENS), (out_prob, score, index), strict=False
    ):
        assert torch.equal(found, again)
    assert not out_prob.requires_grad


def test_a_file_is_scored_as_by_predict(classifier, folders, tmp_path):
    """Of any rate, with two channels."""
    path = tmp_path / "clip.wav"
    wav = np.random.default_rng(0).uniform(-0.1, 0.1, (22050, 2))
    soundfile.write(path, wav, 22050)
    out_prob, score, _, text_lab = classifier.classify_file(str(path))
    (answer,) = load_model(folders / "model").predict([path])
    assert out_prob.shape == (1, 4) and score.shape == (1,)
    found = out_prob.exp()[0].tolist()
    assert found == pytest.approx([*answer["scores"].values()], abs=1e-5)
    assert text_lab == [answer["label"]]


def test_embeddings_are_what_the_head_scores(classifier, folders):
    model = load_model(folders / "model")
    vectors = classifier.encode_batch(voices(), LENS)
    assert vectors.shape == (3, 1, model.head.vector_size)
    with torch.no_grad():
        found = model.embed(voices(), (LENS * 20000).round().long())
    torch.testing.assert_close(vectors[:, 0], found, atol=1e-5, rtol=0)
    # One clip alone, as SpeechBrain's classes take it.
    alone = classifier.encode_batch(voices()[0])
    torch.testing.assert_close(alone[0], vectors[0], atol=1e-4, rtol=0)
    if isinstance(classifier, EmotionClassifier):
        with pytest.raises(InputError, match="normalize: the model has no"):
            classifier.encode_batch(voices(), normalize=True)
        whole = classifier.classify_batch(voices()[0])[0]
        together = classifier.classify_batch(voices(), LENS)[0][:1]
        torch.testing.assert_close(whole, together, atol=1e-4, rtol=0)


def test_long_clips_are_scored_as_by_the_model(folders, expected, monkeypatch):
    classifier = EmotionClassifier.from_hparams(folders / "out")
    model = load_model(folders / "model")
    for one in (model, classifier.mods["embedding_model"].model):
        monkeypatch.setattr(one.encoder.lobe, "max_samples", 8000)
    with torch.no_grad():
        scores = model(voices())[:, :4]
    out_prob = classifier.classify_batch(voices())[0]
    expected = (scores / 1.7).log_softmax(-1)
    torch.testing.assert_close(out_prob, expected, atol=1e-5, rtol=0)


def test_in_a_fresh_process(folders, expected, tmp_path):
    torch.save(voices(), tmp_path / "wavs.pt")
    places = (folders / "out", tmp_path / "here", tmp_path / "wavs.pt")
    run = [sys.executable, "-c", FRESH.format(lens=LENS.tolist()), *places]
    told = subprocess.run(run, check=True, capture_output=True, text=True)
    for line in told.stdout.splitlines()[-2:]:
        out_prob, _, index, text_lab = json.loads(line)
        torch.testing.assert_close(
            torch.tensor(out_prob), expected, atol=1e-5, rtol=0
        )
        assert text_lab == [CLASSES[i] for i in index]


def test_the_encoder_may_be_given(folders, tiny_backbones, expected, tmp_path):
    backbone = str(tiny_backbones["whisper"])
    by_hparams = EncoderClassifier.from_hparams(
        str(folders / "unmerged"),
        savedir=str(tmp_path / "here"),
        overrides={"backbone": backbone},
    )
    # Any model folder will do for ours.
    ours = EmotionClassifier.from_hparams(folders / "model", backbone=backbone)
    for one in (by_hparams, ours):
        out_prob = one.classify_batch(voices(), LENS)[0]
        torch.testing.assert_close(out_prob, expected, atol=1e-5, rtol=0)
    with pytest.raises(InputError, match="backbone: null"):
        EmotionClassifier.from_hparams(folders / "unmerged")


def test_the_yaml_is_sealed_and_not_run(folders, tmp_path):
    export(folders / "model", tmp_path / "out", merge=True, speechbrain=True)
    path = tmp_path / "out" / "hyperparams.yaml"
    path.write_text("a: !apply:sys.exit [9]\n")
    with pytest.raises(InputError, match="hyperparams.yaml: was changed"):
        EmotionClassifier.from_hparams(tmp_path / "out")


def test_dimensions_alone_are_no_classes(tiny_backbones, tmp_path):
    encoder = PeftLobe(load_lobe(tiny_backbones["whisper"]), "frozen")
    head = ProbeMixHead(encoder, [], ["arousal"])
    model = EmotionModel(encoder, head, [], dimensions={"arousal": (0.0, 1.0)})
    model.save(tmp_path / "model")
    with pytest.raises(InputError, match="tells dimensions, and no classes"):
        EmotionClassifier.from_hparams(tmp_path / "model")
    with pytest.raises(InputError, match="without --speechbrain"):
        export(tmp_path / "model", tmp_path / "out", speechbrain=True)
    assert not (tmp_path / "out").exists()
