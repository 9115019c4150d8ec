"""TAPT's objective, beside Hugging Face's own."""

import gc
import weakref

import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import Wav2Vec2ForPreTraining
from transformers.models.wav2vec2.modeling_wav2vec2 import (
    _sample_negative_indices,
)

from ser_peft.adapters import PeftLobe
from ser_peft.errors import InputError
from ser_peft.lobes import load_lobe
from ser_peft.pretraining import contrastive
from ser_peft.pretraining.contrastive import (
    ContrastiveObjective,
    sample_negatives,
)
from ser_peft.storage.checkpoints import SafeCheckpointer

TERMS = ("loss", "contrastive", "diversity")


def config(stable=False):
    """Of a 2-layer wav2vec 2.0 with 2 x 8 codevectors, without dropout."""
    return transformers.Wav2Vec2Config(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        conv_dim=(16,) * 7,
        conv_bias=stable,
        feat_extract_norm="layer" if stable else "group",
        do_stable_layer_norm=stable,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        num_codevectors_per_group=8,
        codevector_dim=16,
        proj_codevector_dim=12,
        vocab_size=8,
        initializer_range=0.2,
        layerdrop=0.0,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
    )


def save(model, folder):
    """A checkpoint that takes waves as they are."""
    model.save_pretrained(folder)
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=False)
    extractor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Pretrained checkpoints: random ones, built like base and like large."""
    root = tmp_path_factory.mktemp("pretrained")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return {
            name: save(
                Wav2Vec2ForPreTraining(config(name == "large")), root / name
            )
            for name in ("base", "large")
        }


def lora():
    """Of PEFT, none of whose factors are zero."""
    return peft.LoraConfig(r=2, init_lora_weights=False)


def build(folder, method="full", **settings):
    """Encoder and objective."""
    torch.manual_seed(0)
    encoder = PeftLobe(load_lobe(folder), method)
    return encoder, ContrastiveObjective(encoder, **settings)


def waves(clips=2, seconds=1.0, seed=0):
    """Each clip a round of four tones of 0.1 s, in its own order, [B, T]."""
    rng = np.random.default_rng(seed)
    time = np.arange(1600) / 16000
    rounds = rng.permuted(np.tile([200, 400, 800, 1600], (clips, 1)), axis=1)
    pitches = np.tile(rounds, 10)[:, : int(10 * seconds), None]
    tones = np.sin(2 * np.pi * pitches * time).reshape(clips, -1)
    return torch.tensor(
        tones + rng.normal(0, 0.05, tones.shape), dtype=torch.float32
    )


def spans(*clips, frames=49):
    """Mask of these (first, last + 1) of each clip, [B, frames]."""
    mask = torch.zeros(len(clips), frames, dtype=torch.bool)
    for row, clip in zip(mask, clips, strict=True):
        for first, end in clip:
            row[first:end] = True
    return mask


MASK = spans([(3, 13), (30, 40)], [(8, 18)])


def score(encoder, objective, wav=None, mask=MASK, lens=None, step=0, seed=0):
    """What the objective says of one batch."""
    wav = waves() if wav is None else wav
    states, _ = encoder(wav, lens, mask)
    torch.manual_seed(seed)
    return objective(states[-1], mask, step)


@pytest.mark.parametrize("name", ["base", "large"])
def test_equals_hugging_face(folders, name, monkeypatch):
    """The same mask and the same negatives; theirs are sums over frames."""
    encoder, objective = build(folders[name])
    encoder.eval(), objective.eval()
    wav, mask = waves(1), MASK[:1]
    np.random.seed(0)
    indices = _sample_negative_indices((1, 49), 30, mask.numpy())
    among_masked = mask[0].cumsum(0) - 1
    monkeypatch.setattr(
        contrastive,
        "sample_negatives",
        lambda *_: among_masked[indices[0][mask[0]]],
    )
    ours = score(encoder, objective, wav, mask)
    stock = Wav2Vec2ForPreTraining.from_pretrained(folders[name]).eval()
    theirs = stock(
        wav,
        mask_time_indices=mask,
        sampled_negative_indices=torch.tensor(indices),
    )
    assert ours["masked"] == 20
    for ours_, theirs_ in (
        (20 * ours["loss"], theirs.loss),
        (20 * ours["contrastive"], theirs.contrastive_loss),
        (20 * ours["diversity"], theirs.diversity_loss),
        (ours["perplexity"], theirs.codevector_perplexity),
    ):
        torch.testing.assert_close(ours_, theirs_)
    # No trivial equality: codes differ, and some of the negatives' are equal.
    assert 2 < ours["perplexity"] < 16
    assert 20 / 31 < ours["chance"] < 20


@pytest.mark.parametrize("mode", [True, False])
def test_quantiser_equals_hugging_faces(folders, mode):
    _, objective = build(folders["base"])
    objective.train(mode)
    quantizer, found = objective.quantizer, []
    quantizer.temperature = 1.3
    features = torch.randn(50, 16)
    with torch.no_grad():
        quantizer.weight_proj.weight.div_(4)  # else probabilities are 0 or 1
    for quantize in (objective.quantize, lambda x: quantizer(x[None])):
        torch.manual_seed(1)
        vectors, *rest = quantize(features)
        vectors, perplexity = vectors.reshape(50, -1), rest[-1]
        torch.manual_seed(2)
        loss = (vectors * torch.randn_like(vectors)).sum() + perplexity
        asked = [p for p in quantizer.parameters() if mode or p.ndim == 3]
        found.append([vectors, perplexity, *torch.autograd.grad(loss, asked)])
    assert len(found[0]) == (5 if mode else 3)
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_loads_every_tensor(folders):
    _, objective = build(folders["base"])
    stored = load_file(folders["base"] / "model.safetensors")
    expected = {k: v for k, v in stored.items() if not k.startswith("wav2vec2")}
    found = objective.state_dict()
    assert found.keys() == expected.keys() and len(found) == 7
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[name]), name


def test_pretrained_starts_better_than_random(folders, tmp_path):
    """Pretrained for 200 steps by Hugging Face's code alone."""
    model = Wav2Vec2ForPreTraining.from_pretrained(folders["base"])
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    mask = MASK[:1].repeat(4, 1)
    torch.manual_seed(0), np.random.seed(0)
    for step in range(200):
        negatives = _sample_negative_indices((4, 49), 20, mask.numpy())
        found = model(
            waves(4, seed=step),
            mask_time_indices=mask,
            sampled_negative_indices=torch.tensor(negatives),
        )
        optimizer.zero_grad()
        (found.loss / mask.sum()).backward()
        optimizer.step()
    unheard, results = waves(4, seed=1000), {}
    for name, folder in (
        ("random", folders["base"]),
        ("pretrained", save(model, tmp_path / "trained")),
    ):
        encoder, objective = build(folder)
        encoder.eval(), objective.eval()
        with torch.no_grad():
            results[name] = score(encoder, objective, unheard, mask)
    pretrained = results["pretrained"]
    assert pretrained["loss"] < results["random"]["loss"] - 1
    # Not by a codebook that has collapsed.
    assert pretrained["correct"] > 3 * results["random"]["correct"]
    assert pretrained["chance"] < 2 * results["random"]["chance"]
    assert pretrained["perplexity"] > 4


@pytest.mark.parametrize("kind", ["Model", "ForCTC"])
def test_refuses_a_checkpoint_without_quantiser(kind, tmp_path):
    model = getattr(transformers, f"Wav2Vec2{kind}")(config())
    with pytest.raises(InputError, match="holds no quantiser") as caught:
        build(save(model, tmp_path / "model"))
    assert str(tmp_path / "model") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["hubert", "wavlm", "whisper"])
def test_refuses_other_backbones(tiny_backbones, name):
    with pytest.raises(InputError, match=f"{name} was pretrained without"):
        build(tiny_backbones[name])


def test_negatives_are_other_masked_frames_of_the_clip():
    mask = spans([(0, 4)], [], [(2, 4), (7, 8)], frames=9)
    clip, frame = mask.nonzero().T
    torch.manual_seed(0)
    drawn = sample_negatives(mask, 1000)
    assert drawn.shape == (7, 1000)
    for row in range(7):
        others = set(torch.where(clip == clip[row])[0].tolist()) - {row}
        indices, counts = drawn[row].unique(return_counts=True)
        assert set(indices.tolist()) == others
        expected = 1000 / len(others)
        assert ((counts - expected).abs() < 5 * expected**0.5).all()
    assert mask[clip[drawn], frame[drawn]].all()


def test_a_clip_alone_and_beside_a_longer_one(folders, monkeypatch):
    encoder, objective = build(folders["base"])
    encoder.eval(), objective.eval()
    short, long = waves(1, seed=1), waves(1, 1.5, seed=2)
    alone = score(encoder, objective, short, MASK[:1])
    padded = torch.cat([short, 9 * torch.ones(1, 8000)], dim=1)
    batch, lens = torch.cat([padded, long]), torch.tensor([2 / 3, 1.0])
    blank = spans([(3, 13), (30, 40)], [], frames=74)
    # As many masked frames, so the same negatives.
    beside = score(encoder, objective, batch, blank, lens)
    assert beside["masked"] == alone["masked"] == 20
    for name in (*TERMS, "perplexity", "correct", "chance"):
        torch.testing.assert_close(beside[name], alone[name])

    both = blank | spans([], [(40, 50)], frames=74)
    parts = [sample_negatives(both[i : i + 1], 100) for i in (0, 1)]
    given = iter([parts[0], parts[1], torch.cat([parts[0], parts[1] + 20])])
    monkeypatch.setattr(contrastive, "sample_negatives", lambda *_: next(given))
    alone = score(encoder, objective, short, MASK[:1])
    other = score(encoder, objective, long, both[1:])
    together = score(encoder, objective, batch, both, lens)
    torch.testing.assert_close(
        30 * together["contrastive"],
        20 * alone["contrastive"] + 10 * other["contrastive"],
    )


@pytest.mark.parametrize("train", [True, False])
def test_gradients(folders, train):
    encoder, objective = build(folders["base"], lora(), train=train)
    objective.train()
    assert objective.quantizer.training == train
    score(encoder, objective)["loss"].backward()
    adapter = [p for p in encoder.parameters() if p.requires_grad]
    assert len(adapter) == 2 * 2 * 6
    own = list(objective.parameters())
    assert len(own) == 7
    for parameter in adapter + own * train:
        assert parameter.grad.any()
    if not train:
        assert not any(p.requires_grad for p in own)
        # Nothing is drawn but the negatives.
        first, second = (score(encoder, objective) for _ in range(2))
        assert first["perplexity"] == second["perplexity"]


def test_convolutions_learn_from_the_targets_too(folders):
    encoder, objective = build(folders["base"])
    states, _ = encoder(waves(), None, MASK)
    objective(states[-1].detach(), MASK, 0)["loss"].backward()
    convolutions = encoder.lobe.backbone.feature_extractor.parameters()
    assert all(parameter.grad.any() for parameter in convolutions)


def test_gumbel_temperature(folders):
    encoder, objective = build(folders["base"], gumbel=(2.0, 0.5, 0.999))
    for step, expected in ((0, 2.0), (1000, 2 * 0.999**1000), (9999, 0.5)):
        score(encoder, objective, step=step)
        assert objective.quantizer.temperature == pytest.approx(expected)


def test_same_seed_same_loss(folders):
    encoder, objective = build(folders["base"])
    losses = [
        score(encoder, objective, seed=seed)["loss"].item()
        for seed in (1, 1, 2)
    ]
    assert losses[0] == losses[1] != losses[2]


def test_save_and_load(folders, tmp_path):
    _, objective = build(folders["base"])
    checkpointer = SafeCheckpointer(tmp_path, {"objective": objective})
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter.add_(torch.randn_like(parameter))
    kept = {k: v.clone() for k, v in objective.state_dict().items()}
    checkpointer.save_checkpoint()
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter.zero_()
    checkpointer.recover_if_possible()
    for name, tensor in objective.state_dict().items():
        assert torch.equal(tensor, kept[name])


@pytest.mark.parametrize("train", [True, False])
def test_no_clip_with_two_masked_frames(folders, train):
    encoder, objective = build(folders["base"], train=train)
    mask = spans([(5, 6)], [])
    found = score(encoder, objective, mask=mask)
    assert found["masked"] == found["correct"] == found["chance"] == 0
    assert found["loss"] == found["contrastive"] == found["diversity"] == 0
    found["loss"].backward()
    for module in (encoder, objective):
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                assert not parameter.grad.any(), name


def test_a_single_masked_frame_does_not_count(folders):
    encoder, objective = build(folders["base"])
    encoder.eval(), objective.eval()
    found = score(encoder, objective, mask=spans([(3, 13)], [(5, 6)]))
    alone = score(encoder, objective, waves()[:1], spans([(3, 13)]))
    assert found["masked"] == 10
    for name in TERMS:
        torch.testing.assert_close(found[name], alone[name])


def test_a_perfect_and_a_perfectly_wrong_encoder(folders):
    encoder, objective = build(folders["base"])
    encoder(waves(), None, MASK)
    objective.eval()
    with torch.no_grad():
        features = objective.features
        vectors, *_ = objective.quantize(features.flatten(0, 1))
        targets = objective.project_q(vectors).unflatten(0, MASK.shape)
        objective.project_hid = torch.nn.Identity()
        found = []
        for states, temperature in (
            (targets, 0.001),
            (targets, 1e6),  # all alike
            (-targets, 0.001),
        ):
            objective.features, objective.temperature = features, temperature
            torch.manual_seed(0)
            found.append(objective(states, MASK, 0))
    right, alike, wrong = found
    assert right["masked"] == right["correct"] == 30
    assert wrong["correct"] == 0
    assert right["contrastive"] < 1 < wrong["contrastive"]
    assert right["contrastive"] < alike["contrastive"] < wrong["contrastive"]


def test_a_collapsed_codebook_is_told_by_chance(folders):
    encoder, objective = build(folders["base"])
    objective.eval()
    objective.quantizer.weight_proj.weight.data.zero_()
    found = score(encoder, objective)
    assert found["contrastive"] == 0
    assert found["correct"] == found["chance"] == found["masked"] == 30
    assert found["perplexity"] == 2
    assert found["counts"].tolist() == 2 * [[30] + 7 * [0]]


def test_counts_of_the_codes(folders):
    encoder, objective = build(folders["base"])
    counts = score(encoder, objective)["counts"]
    assert counts.shape == (2, 8) and (counts.sum(1) == 30).all()


def test_probabilities_that_underflow(folders):
    encoder, objective = build(folders["base"])
    with torch.no_grad():
        objective.quantizer.weight_proj.weight.mul_(1000)
    found = score(encoder, objective)
    found["loss"].backward()
    for parameter in objective.parameters():
        assert parameter.grad.isfinite().all()


def test_bfloat16(folders):
    encoder, objective = build(folders["base"], lora(), train=False)
    with torch.autocast("cpu", torch.bfloat16):
        found = score(encoder, objective)
        states, _ = encoder(waves(), None, MASK)
    # The encoder computes in bfloat16, the objective does not.
    torch.manual_seed(0)
    again = objective(states[-1].float(), MASK, 0)
    assert found["loss"].dtype == torch.float32
    assert torch.equal(found["loss"], again["loss"])
    assert found["loss"] != score(encoder, objective)["loss"]
    found["loss"].backward()
    for parameter in encoder.parameters():
        if parameter.requires_grad:
            assert parameter.grad.isfinite().all() and parameter.grad.any()


def test_lets_go_of_the_graph(folders):
    encoder, objective = build(folders["base"])
    kept = []
    encoder.lobe.backbone.feature_projection.register_forward_hook(
        lambda module, inputs, outputs: kept.append(weakref.ref(outputs[1]))
    )
    found = score(encoder, objective)
    assert kept[0]() is not None
    del found["loss"]
    gc.collect()
    assert kept[0]() is None
    assert not any(torch.is_tensor(v) and v.grad_fn for v in found.values())


@pytest.mark.parametrize("method", ["full", "lora"])
def test_under_ddp(folders, method):
    """Every parameter has its gradient in each step, masked frames or not."""
    distributed = torch.distributed
    distributed.init_process_group(
        "gloo", store=distributed.HashStore(), rank=0, world_size=1
    )
    try:
        encoder, objective = map(
            torch.nn.parallel.DistributedDataParallel,
            build(folders["base"], lora() if method == "lora" else "full"),
        )
        for mask in (MASK, spans([], []), MASK):
            score(encoder, objective, mask=mask)["loss"].backward()
        assert all(p.grad.any() for p in objective.parameters())
    finally:
        distributed.destroy_process_group()
