"""Heads that fuse speech and text, and models that have one."""

from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig
from torch.nn.functional import layer_norm

from ser_peft.adapters import PeftLobe
from ser_peft.errors import InputError
from ser_peft.heads import LayerMixHead
from ser_peft.heads.fusion import FUSIONS, FusionHead, ThreeMHead
from ser_peft.inference import EmotionModel, load_model
from ser_peft.inference.export import export
from ser_peft.lobes import load_lobe, load_text

WIDTH, TEXT_WIDTH = 24, 40
FRAMES, TOKENS = torch.tensor([9, 4, 1]), torch.tensor([2, 7, 3])
HEADS = [
    ("ThreeMHead", {"pool": "first"}),
    ("ThreeMHead", {"pool": "mean"}),
    ("FusionHead", {"fuse": "concat"}),
    ("FusionHead", {"fuse": "gated"}),
    ("FusionHead", {"fuse": "cross"}),
]
each_head = pytest.mark.parametrize(
    ("name", "settings"), HEADS, ids=[[*s.values()][0] for _, s in HEADS]
)
TEXTS = ["I told you so", "", "no means no, the lazy dog"]


def encoder(width, layers=2):
    """What a head needs to know of an encoder."""
    return SimpleNamespace(num_layers=layers, hidden_size=width)


def build(name, settings, width=WIDTH, outputs=4):
    """A head with nothing left at zero or one, in eval mode."""
    torch.manual_seed(0)
    head = FUSIONS[name](
        encoder(width), outputs, text_encoder=encoder(TEXT_WIDTH), **settings
    )
    for parameter in head.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return head.eval()


@pytest.fixture
def states():
    """Hidden states and lengths of audio and of text, padded with noise."""
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(3, 3, 9, WIDTH, generator=generator),
        FRAMES,
        torch.randn(3, 3, 7, TEXT_WIDTH, generator=generator),
        TOKENS,
    )


def test_size_of_3m_sers_head():
    """With BERT's and VGGish's widths, as in the authors' model."""
    head = ThreeMHead(encoder(128), 4, text_encoder=encoder(768))
    assert sum(p.numel() for p in head.parameters()) == 2_552_644


@torch.no_grad()
@each_head
def test_padding_never_counts(states, name, settings):
    head = build(name, settings)
    together = head(*states)
    audio, frames, text, tokens = states
    for i, (frame, token) in enumerate(zip(frames, tokens, strict=True)):
        alone = head(
            audio[:, i : i + 1, :frame],
            frames[i : i + 1],
            text[:, i : i + 1, :token],
            tokens[i : i + 1],
        )
        torch.testing.assert_close(together[i : i + 1], alone)


@torch.no_grad()
@each_head
def test_both_are_heard(states, name, settings):
    head = build(name, settings)
    before = head(*states)
    for place in (0, 2):
        others = list(states)
        others[place] = others[place].roll(1, dims=-1)
        assert not torch.allclose(head(*others), before, atol=1e-3)


@torch.no_grad()
@each_head
def test_scores_are_those_of_the_vectors(states, name, settings):
    head = build(name, settings)
    vectors = head.embed(*states)
    assert vectors.shape == (3, head.vector_size)
    scores, same = head(*states, with_vectors=True)
    assert torch.equal(same, vectors)
    assert torch.equal(head.score(vectors), scores)
    assert torch.equal(head(*states), scores)
    again = FUSIONS[name](
        encoder(WIDTH), 4, text_encoder=encoder(TEXT_WIDTH), **head.settings
    ).eval()
    again.load_state_dict(head.state_dict())
    assert torch.equal(again(*states), scores)
    weights = head.layer_weights
    assert weights.shape == (3,)
    assert float(weights.sum()) == pytest.approx(1)


@each_head
def test_every_parameter_learns(states, name, settings):
    head = build(name, settings)
    head(*states).square().sum().backward()
    for key, parameter in head.named_parameters():
        assert parameter.grad.any(), key


def self_attention(attention, states):
    """Of one sequence without padding, [T, C]: Vaswani et al. 2017."""
    packed = states @ attention.in_proj_weight.T + attention.in_proj_bias
    size = states.shape[1] // 8
    heads = []
    for head in range(8):
        part = slice(head * size, (head + 1) * size)
        query, key, value = (x[:, part] for x in packed.chunk(3, dim=1))
        heads.append((query @ key.T / size**0.5).softmax(1) @ value)
    return attention.out_proj(torch.cat(heads, 1))


@torch.no_grad()
@pytest.mark.parametrize("width", [128, WIDTH])
@pytest.mark.parametrize("pool", ["first", "mean"])
def test_as_3m_ser_computes(pool, width):
    head = build("ThreeMHead", {"pool": pool}, width)
    audio, text = torch.randn(3, 1, 5, width), torch.randn(3, 1, 6, TEXT_WIDTH)
    found = head(audio, torch.tensor([5]), text, torch.tensor([6]))

    def norm(part, states):
        return layer_norm(states, (128,), part.weight, part.bias)

    linear, after = head.text
    said = norm(after, linear(self_attention(head.text_attention, text[-1, 0])))
    heard = audio[-1, 0]
    if width != 128:
        heard = head.audio[0](heard)
    heard = norm(head.audio[-1], heard)
    both = torch.cat([said, heard])
    fused = norm(
        head.fused[1], head.fused[0](self_attention(head.attention, both))
    )
    vector = fused[0] if pool == "first" else fused.mean(0)
    hidden = head.out[1](vector)
    scores = head.out[3](torch.where(hidden > 0, hidden, 0.01 * hidden))
    torch.testing.assert_close(found[0], scores, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("head", "key", "value", "choices"),
    [
        (ThreeMHead, "pool", "last", "first, mean"),
        (FusionHead, "fuse", "sum", "concat, gated, cross"),
    ],
)
def test_wrong_names_are_refused(head, key, value, choices):
    message = f"{key}: {value} is not one of {choices}"
    with pytest.raises(InputError, match=message):
        head(encoder(8), 4, text_encoder=encoder(8), **{key: value})


# ------------------------------------------------------------------- models


@pytest.fixture(scope="session")
def new_model(tiny_backbones, tiny_texts):
    """Function: head, settings -> a model of speech and text, moved."""

    def make(name, settings):
        torch.manual_seed(0)
        encoder, text_encoder = (
            PeftLobe(lobe, LoraConfig(r=2))
            for lobe in (
                load_lobe(tiny_backbones["whisper"], depth=1),
                load_text(tiny_texts["bert"], depth=2),
            )
        )
        head = FUSIONS[name](encoder, 2, text_encoder=text_encoder, **settings)
        for module in (encoder, text_encoder, head):
            for parameter in module.parameters():
                if parameter.requires_grad:
                    parameter.data.add_(0.1 * torch.randn_like(parameter))
        classes = ["angry", "sad"]
        return EmotionModel(
            encoder, head, classes, text_encoder=text_encoder
        ).eval()

    return make


def clips(*seconds):
    """Noise, [B, T], and its lengths in samples."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([round(16000 * s) for s in seconds])
    wavs = torch.randn(len(lengths), int(lengths.max()), generator=generator)
    return 0.1 * wavs, lengths


@each_head
def test_gradients_reach_both_encoders(new_model, name, settings):
    model = new_model(name, settings).train()
    model(*clips(0.5, 0.3, 0.2), TEXTS).square().sum().backward()
    for key, parameter in model.named_parameters():
        if parameter.requires_grad and "layer_logits" not in key:
            assert parameter.grad.any(), key
    trained = [key for key, p in model.named_parameters() if p.requires_grad]
    # Whisper's one layer and BERT's two, six linear layers each.
    assert len([key for key in trained if "lora" in key]) == 2 * 6 * 3


@torch.no_grad()
@each_head
def test_scores_do_not_depend_on_batch_mates(new_model, name, settings):
    model = new_model(name, settings)
    wavs, lengths = clips(0.5, 0.3, 0.2)
    together = model(wavs, lengths, TEXTS)
    for i, length in enumerate(lengths):
        alone = model(wavs[i : i + 1, :length], None, TEXTS[i : i + 1])
        torch.testing.assert_close(
            together[i : i + 1], alone, atol=1e-5, rtol=1e-4
        )


@torch.no_grad()
@pytest.mark.parametrize(("name", "settings"), [HEADS[1], HEADS[4]])
def test_saved_models_load(new_model, name, settings, tmp_path):
    model = new_model(name, settings)
    wavs, lengths = clips(0.5, 0.3, 0.2)
    expected = model(wavs, lengths, TEXTS)
    run = tmp_path / "run"
    model.save(run / "model")
    assert (run / "model" / "text_adapter" / "adapter_config.json").exists()
    again = load_model(run)
    assert again.text_encoder.lobe.depth == 2
    torch.testing.assert_close(again(wavs, lengths, TEXTS), expected)
    export(run, tmp_path / "out", merge=True)
    # Needs neither the run nor the checkpoints it came from.
    (tmp_path / "out").rename(tmp_path / "moved")
    merged = load_model(tmp_path / "moved")
    for one in (merged.encoder, merged.text_encoder):
        assert one.lobe.source.startswith(str(tmp_path / "moved"))
        assert not any("lora" in key for key in one.state_dict())
    torch.testing.assert_close(
        merged(wavs, lengths, TEXTS), expected, atol=1e-4, rtol=1e-4
    )


@torch.no_grad()
def test_text_may_be_missing(new_model):
    model = new_model(*HEADS[3])
    wavs, lengths = clips(0.5, 0.3)
    silent = model(wavs, lengths)
    assert silent.isfinite().all()
    assert torch.equal(silent, model(wavs, lengths, ["", ""]))
    assert not torch.allclose(silent, model(wavs, lengths, TEXTS[::2]))
    answers = model.predict([*wavs])
    assert [sum(a["scores"].values()) for a in answers] == pytest.approx([1, 1])
    # Cues are nothing that is said.
    assert model.predict([*wavs], ["(sighs)", "[LAUGHTER]"]) == answers
    assert model.predict([*wavs], ["no", ""])[0] != answers[0]
    assert model.predict([*wavs], ["no", ""])[1] == answers[1]


def test_one_text_a_clip(new_model):
    model = new_model(*HEADS[3])
    wavs, lengths = clips(0.5, 0.3)
    with pytest.raises(InputError, match="texts: 1 for 2 recordings"):
        model(wavs, lengths, ["no"])
    with pytest.raises(InputError, match="texts: 3 for 2 recordings"):
        model.predict([*wavs], TEXTS)


@torch.no_grad()
def test_long_clips_are_windowed_with_their_own_text(new_model):
    """Whisper takes 30 s."""
    model = new_model(*HEADS[4])
    wavs, lengths = clips(31, 0.5)
    texts = TEXTS[::2]
    found = model(wavs, lengths, texts)
    halves = wavs[:1].chunk(2, dim=1)
    expected = [model(half, None, texts[:1]) for half in halves]
    torch.testing.assert_close(
        found[:1], sum(expected) / 2, atol=1e-5, rtol=1e-4
    )
    alone = model(wavs[1:, :8000], None, texts[1:])
    torch.testing.assert_close(found[1:], alone, atol=1e-5, rtol=1e-4)
    other = model(wavs, lengths, ["no", texts[1]])
    assert not torch.allclose(other[0], found[0], atol=1e-3)
    assert torch.equal(other[1], found[1])


def test_a_model_of_speech_reads_nothing(tiny_backbones):
    encoder = PeftLobe(load_lobe(tiny_backbones["whisper"]), "frozen")
    head = LayerMixHead(encoder, 2)
    model = EmotionModel(encoder, head, ["angry", "sad"]).eval()
    with torch.no_grad():
        wavs = 0.1 * torch.randn(2, 4800)
        assert torch.equal(model(wavs), model(wavs, None, ["no", "yes"]))
