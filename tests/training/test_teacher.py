"""What a teacher says: losses, its cache, and teachers that do not fit."""

import json

import pytest
import torch
from peft import LoraConfig
from torch.nn.functional import kl_div, mse_loss

from ser_peft.adapters import PeftLobe
from ser_peft.errors import InputError
from ser_peft.heads import LinearHead
from ser_peft.heads.fusion import FusionHead
from ser_peft.inference import EmotionModel, load_model
from ser_peft.lobes import load_lobe, load_text
from ser_peft.training.objectives import distillation_losses, feature_losses
from ser_peft.training.teacher import (
    Projector,
    Teacher,
    TeacherCache,
    features_of,
)

ABOUT = {
    "corpus": "x",
    "protocol": "p",
    "fold": 1,
    "protocol_sha": "0123456789ab",
    "classes": ["angry", "happy", "sad"],
}
TEXTS = {"a": "I told you so", "b": "", "c": "no means no", "d": "dog"}
KINDS = ["text", "audio", "fused", None]


# ------------------------------------------------------------------- losses


def test_divergence_by_hand():
    # Chances of 3/4 and 1/4 against 1/4 and 3/4; softened by half.
    one = torch.tensor([[1.0, 3.0]]).log()
    (found,) = distillation_losses(one.flip(1), one, 1.0)
    assert float(found) == pytest.approx(0.5493061)  # ln(3) / 2
    (found,) = distillation_losses(one.flip(1), one, 2.0)
    # 4 (a - b) ln(a / b) of a, b = 0.6339746, 0.3660254
    assert float(found) == pytest.approx(0.5887449, abs=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 8.0])
def test_divergence_as_torch_and_hinton(temperature):
    torch.manual_seed(0)
    student, teacher = 3 * torch.randn(2, 5, 4)
    expected = temperature**2 * kl_div(
        (student / temperature).log_softmax(1),
        (teacher / temperature).softmax(1),
        reduction="batchmean",
    )
    losses = distillation_losses(student, teacher, temperature)
    assert losses.shape == (5,)
    torch.testing.assert_close(losses.mean(), expected)
    # It is the teacher that is to be reached.
    other = distillation_losses(teacher, student, temperature)
    assert not torch.allclose(losses, other)


def test_features_of_ragged_clips():
    features = torch.tensor(
        [[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]]
    )
    taught = torch.tensor(
        [[[0.0, 0.0], [3.0, 5.0]], [[5.0, 8.0], [99.0, 99.0]]]
    )
    found = feature_losses(features, taught, torch.tensor([2, 1]))
    # (1 + 4 + 0 + 1) / 4 and (0 + 4) / 2
    assert found.tolist() == [1.5, 2.0]
    whole = feature_losses(features, taught, torch.tensor([2, 2]))
    assert float(whole.mean()) == pytest.approx(
        float(mse_loss(features, taught))
    )


def test_nothing_to_learn_from_a_twin():
    torch.manual_seed(0)
    logits, features = torch.randn(3, 4), torch.randn(3, 7, 8)
    assert not distillation_losses(logits, logits, 2.0).any()
    assert not feature_losses(features, features, torch.tensor([7, 1, 3])).any()


def test_which_features():
    torch.manual_seed(0)
    audio, text = torch.randn(3, 2, 5, 8), torch.randn(4, 2, 6, 7)
    frames, tokens = torch.tensor([5, 2]), torch.tensor([3, 6])
    states, vectors = (audio, frames, text, tokens), torch.randn(2, 9)
    found, lengths = features_of("text", states, vectors)
    assert torch.equal(found, text[-1]) and torch.equal(lengths, tokens)
    found, lengths = features_of("audio", states, vectors)
    assert lengths.tolist() == [1, 1]
    torch.testing.assert_close(found[1, 0], audio[-1, 1, :2].mean(0))
    torch.testing.assert_close(found[0, 0], audio[-1, 0].mean(0))
    found, lengths = features_of("fused", states, vectors)
    assert torch.equal(found[:, 0], vectors) and lengths.tolist() == [1, 1]
    found, lengths = features_of(None, states, vectors)
    assert found.shape == (2, 1, 0) and lengths.tolist() == [1, 1]


def test_projector_maps_the_last_axis():
    projector = Projector(4, 6)
    features = torch.randn(2, 3, 4)
    assert projector(features).shape == (2, 3, 6)
    torch.testing.assert_close(
        projector(features)[1, 2], projector(features[1, 2])
    )


# ----------------------------------------------------------------- teachers


@pytest.fixture(scope="module")
def run(tiny_backbones, tiny_texts, tmp_path_factory):
    """A run whose model hears and reads."""
    torch.manual_seed(0)
    encoder = PeftLobe(load_lobe(tiny_backbones["whisper"]), LoraConfig(r=2))
    text = PeftLobe(load_text(tiny_texts["bert"], depth=1), LoraConfig(r=2))
    for parameter in (*encoder.parameters(), *text.parameters()):
        if parameter.requires_grad:  # as training leaves it: not at zero
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    head = FusionHead(encoder, 3, text_encoder=text)
    folder = tmp_path_factory.mktemp("teacher") / "run"
    EmotionModel(encoder, head, ABOUT["classes"], text_encoder=text).save(
        folder / "model"
    )
    (folder / "results.json").write_text(json.dumps(ABOUT))
    return folder


@pytest.fixture(scope="module")
def batches():
    """Ids, waveforms and relative lengths; of two and of one clip, and both."""
    torch.manual_seed(0)
    return [
        (["a", "b"], 0.1 * torch.randn(2, 6000), torch.tensor([1.0, 0.5])),
        (["c"], 0.1 * torch.randn(1, 4800), torch.tensor([1.0])),
        (["d"], 0.1 * torch.randn(1, 3200), torch.tensor([1.0])),
    ]


def test_a_teacher_says_what_its_model_says(run, batches):
    for given in (run, run / "model", str(run)):
        teacher = Teacher(given, ABOUT, "cpu")
    ids, wavs, lens = batches[0]
    texts = [TEXTS[id_] for id_ in ids]
    logits, features, lengths = teacher(wavs, lens, texts, "fused")
    samples = (lens * wavs.shape[1]).long()
    model = load_model(run)
    with torch.no_grad():
        torch.testing.assert_close(logits, model(wavs, samples, texts))
        vectors = model.embed(wavs, samples, texts)
    torch.testing.assert_close(features[:, 0], vectors)
    # Folded in, an adapter takes no time.
    names = [name for name, _ in teacher.model.named_parameters()]
    assert not any("lora" in name for name in names)
    assert lengths.tolist() == [1, 1]
    assert not logits.requires_grad and not teacher.model.training
    assert not any(p.requires_grad for p in teacher.model.encoder.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_cache_holds_what_was_given(run, batches, tmp_path, kind):
    teacher = Teacher(run, ABOUT, "cpu")
    said, live = [], {}
    for ids, wavs, lens in batches:
        given = teacher(wavs, lens, [TEXTS[id_] for id_ in ids], kind)
        said.append((ids, *given))
        for id_, logits, features, length in zip(ids, *given, strict=True):
            live[id_] = logits, features[:length]
    path = TeacherCache.path(tmp_path, teacher, "deal", kind)
    TeacherCache.save(path, said)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    cache = TeacherCache(path, "cpu")
    # Other batches than those it was asked in.
    for ids in (["d", "b", "a"], ["c"], ["a", "c"]):
        logits, features, lengths = cache(ids)
        assert features.shape[:2] == (len(ids), int(lengths.max()))
        for i, id_ in enumerate(ids):
            assert torch.equal(logits[i], live[id_][0])
            assert torch.equal(features[i, : lengths[i]], live[id_][1])
    if kind == "text":
        assert len({*lengths.tolist()}) == 2


def test_another_teacher_has_another_cache(run, tmp_path):
    teacher = Teacher(run, ABOUT, "cpu")
    paths = {
        TeacherCache.path(tmp_path, teacher, *clips)
        for clips in [("deal", None), ("deal", "text"), ("other", None)]
    }
    assert len(paths) == 3
    again = TeacherCache.path(
        tmp_path, Teacher(run, ABOUT, "cpu"), "deal", None
    )
    assert again in paths
    other = load_model(run)
    other.head.out[0].bias.data.add_(1)
    other.save(tmp_path / "other")
    teacher.folder = tmp_path / "other"
    assert TeacherCache.path(tmp_path, teacher, "deal", None) not in paths


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ["angry", "sad"]}, "tells angry, happy, sad apart, the"),
        ({"classes": ["sad", "happy", "angry"]}, "in the same order"),
    ],
)
def test_a_teacher_of_something_else(run, changes, message):
    with pytest.raises(InputError, match=message) as error:
        Teacher(run, ABOUT | changes, "cpu")
    assert str(run) in str(error.value) and "\n" not in str(error.value)


def test_no_teacher(tmp_path):
    with pytest.raises(InputError, match="--teacher=... is needed"):
        Teacher(None, ABOUT, "cpu")
    with pytest.raises(InputError, match="nothing.* cannot be read"):
        Teacher(tmp_path / "nothing", ABOUT, "cpu")


def test_a_text_encoder_starts_from_a_run_that_reads(run, tiny_texts):
    """From its own adapter there; one that only listens has none."""
    lobes = (load_text(tiny_texts["bert"], depth=1) for _ in range(2))
    started, fresh = (
        PeftLobe(lobe, LoraConfig(r=2), init_from=start)
        for lobe, start in zip(lobes, (run, None), strict=True)
    )
    saved = load_model(run).text_encoder
    with torch.no_grad():
        states, expected, new = (
            encoder.eval()(["dog"])[0] for encoder in (started, saved, fresh)
        )
    torch.testing.assert_close(states, expected)
    assert not torch.allclose(new, expected)


def test_a_text_encoder_starts_anew_beside_a_run_that_listens(
    tiny_backbones, tiny_texts, tmp_path
):
    audio = PeftLobe(load_lobe(tiny_backbones["whisper"]), LoraConfig(r=2))
    EmotionModel(audio, LinearHead(audio, 3), ABOUT["classes"]).save(
        tmp_path / "model"
    )
    lobe = load_text(tiny_texts["bert"], depth=1)
    text = PeftLobe(lobe, LoraConfig(r=2), init_from=tmp_path)
    assert text.base is None and text.num_adapter_parameters
