"""What every lobe promises, whichever encoder it holds."""

import copy
import json
import shutil

import huggingface_hub
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    BertConfig,
    BertModel,
    Wav2Vec2ForPreTraining,
)

from ser_peft.errors import InputError
from ser_peft.lobes import lengths_in_samples, load_lobe, wav2vec2
from ser_peft.lobes.lean import LeanDropout, LeanLinear

LAYERS, WIDTH = 2, 32


def stock_states(folder, wavs):
    """All hidden states of transformers' own encoder, the last one normed.

    wavs: list of [T]. Whisper's are those of the clip padded to 30 s.
    """
    model = AutoModel.from_pretrained(folder).eval()
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    inputs = extractor(
        [wav.numpy() for wav in wavs], sampling_rate=16000, return_tensors="pt"
    )
    encoder = model.get_encoder() if hasattr(model, "decoder") else model
    with torch.no_grad():
        out = encoder(**inputs, output_hidden_states=True)
    states = list(out.hidden_states)
    assert len(states) == LAYERS + 1
    # Pre-norm models of transformers 5 leave this one un-normed.
    states[-1] = out.last_hidden_state
    return torch.stack(states)


def encode(lobe, wavs, lengths=None):
    with torch.no_grad():
        return lobe(wavs, lengths)


def assert_close(ours, theirs, atol):
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=0)


# Equality with transformers.


@pytest.mark.parametrize("seconds", [0.5, 1.2345])
def test_equals_stock_encoder_in_every_layer(folder, lobe, name, clip, seconds):
    if name == "whisper":
        seconds = 30  # the only length at which the stock encoder runs
    wav = clip(seconds)
    states, frames = encode(lobe, wav[None])
    stock = stock_states(folder, [wav])
    assert frames.tolist() == [stock.shape[2]]
    assert_close(states, stock, 1e-5 * stock.abs().max().item())


@pytest.mark.parametrize(
    "large", ["wav2vec2_large", "hubert_large", "wavlm_large"]
)
def test_equals_stock_encoder_under_its_own_mask(folders, clip, batch, large):
    # Layer norm in the CNN: there transformers is padding-invariant itself.
    folder = folders[large]
    clips = clip(1.0), clip(0.4, seed=1)
    states, frames = encode(load_lobe(folder).eval(), *batch(*clips))
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    inputs = extractor(
        [wav.numpy() for wav in clips], sampling_rate=16000, padding=True,
        return_attention_mask=True, return_tensors="pt",
    )  # fmt: skip
    with torch.no_grad():
        stock = AutoModel.from_pretrained(folder).eval()(**inputs)
    for i, n in enumerate(frames):
        assert_close(states[-1, i, :n], stock.last_hidden_state[i, :n], 1e-4)


# Padding.


def test_clip_does_not_notice_its_batch_mates(lobe, clip, batch):
    short, loud = clip(1.1, loudness=0.05), clip(10, loudness=0.9, seed=1)
    alone, n = encode(lobe, short[None])
    wavs, lengths = batch(short, loud)
    beside, frames = encode(lobe, wavs, lengths)
    assert beside.shape[:2] == (LAYERS + 1, 2) and beside.shape[3] == WIDTH
    assert beside.shape[2] == frames.max() == frames[1]
    assert frames[0] == n[0] == alone.shape[2] in (54, 55)
    assert_close(beside[:, 0, : n[0]], alone[:, 0], 1e-4)
    # Something is encoded at all.
    assert (alone[-1, 0] - beside[-1, 1, : n[0]]).abs().mean() > 0.05

    wavs, lengths = batch(short, loud, padding=7.0)
    garbage, _ = encode(lobe, wavs, lengths)
    assert torch.equal(garbage, beside)


@pytest.mark.parametrize("groups", [1, 6])
def test_group_norm_of_gpus_equals_that_of_each_clip(groups):
    torch.manual_seed(0)
    norm = torch.nn.GroupNorm(groups, 6)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    frames, found = torch.tensor([9, 4, 4]), []
    hidden = 1 + torch.randn(3, 6, 9)
    for function in (wav2vec2.masked_group_norm, wav2vec2._normed_by_sums):
        leaf = hidden.clone().requires_grad_()
        normed = function(norm, leaf, frames)
        normed.square().sum().backward()
        found.append((normed, leaf.grad))
    torch.testing.assert_close(*found, atol=1e-4, rtol=1e-4)
    assert not found[1][0][1, :, 4:].any()
    # In half precision as it came.
    half = wav2vec2._normed_by_sums(norm, hidden.bfloat16(), frames)
    assert half.dtype == torch.bfloat16


def test_padding_of_the_whole_batch_is_cut_off(lobe, clip):
    wav = clip(1.0)[None]
    padded = torch.nn.functional.pad(wav, (0, 4000), value=3.0)
    states, _ = encode(lobe, wav)
    again, _ = encode(lobe, padded, torch.tensor([0.8]))
    assert torch.equal(states, again)


@pytest.mark.parametrize("samples", [1, 160, 400])
def test_very_short_clips(lobe, clip, batch, samples):
    short = clip(1.0)[1000 : 1000 + samples]
    alone, n = encode(lobe, short[None])
    assert alone.shape[2] == n[0] in (1, 2)
    assert alone.isfinite().all()
    beside, frames = encode(lobe, *batch(clip(1.0, seed=1), short))
    assert frames[1] == n[0]
    assert_close(beside[:, 1, : n[0]], alone[:, 0], 1e-4)


def test_silence_is_finite(lobe):
    states, _ = encode(lobe, torch.zeros(1, 8000))
    assert states.isfinite().all()


def test_more_than_a_window_is_refused_where_it_must(
    lobe, name, clip, monkeypatch
):
    """In training, that is: what is evaluated is cut into windows."""
    assert lobe.max_samples == 30 * 16000
    monkeypatch.setattr(lobe, "max_samples", 8000)
    wav = clip(0.6)[None]
    if name == "whisper":
        with pytest.raises(InputError, match="0.6 s .*max_seconds"):
            encode(lobe, wav)
    else:
        assert encode(lobe, wav)[1].item() == 29
    cut, lens = lobe.beginning(wav.repeat(2, 1), torch.tensor([1.0, 0.5]))
    assert cut.shape == (2, 8000) and lens.tolist() == pytest.approx([1, 0.6])
    assert encode(lobe, cut, lens)[0].isfinite().all()


def test_lengths_are_rounded_to_samples():
    wavs = torch.zeros(3, 48000)
    lengths = torch.tensor([48000, 31999, 7]) / 48000
    assert lengths_in_samples(wavs, lengths).tolist() == [48000, 31999, 7]
    assert lengths_in_samples(wavs).tolist() == [48000] * 3


# Training.


def test_layerdrop_and_masking_are_off_in_train_mode(folder, clip, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    drops = {"layerdrop": 1.0, "encoder_layerdrop": 1.0}
    none = dict.fromkeys(
        key for key in config if key.endswith("dropout") or key == "dropout"
    )
    none = dict.fromkeys(none, 0.0)
    masking = {"apply_spec_augment": True, "mask_time_prob": 0.9}
    (tmp_path / "config.json").write_text(
        json.dumps(config | drops | none | masking)
    )
    lobe = load_lobe(tmp_path)
    wav = clip(1.0)[None]
    trained, _ = encode(lobe.train(), wav)
    evaluated, _ = encode(lobe.eval(), wav)
    assert len(trained) == LAYERS + 1
    assert_close(trained, evaluated, 1e-5)


def test_dropout_keeps_a_mask_of_bytes(folder, clip):
    lobe = load_lobe(folder)
    config = peft.LoraConfig(target_modules=["q_proj"], lora_dropout=0.1)
    lobe.model = peft.get_peft_model(lobe.model, config)
    dropouts = [
        m for m in lobe.train().modules() if isinstance(m, torch.nn.Dropout)
    ]
    assert len(dropouts) >= LAYERS
    assert {type(module) for module in dropouts} == {LeanDropout}

    dropout = dropouts[-1]
    dropout.p = 0.25
    ones = torch.ones(100, 100, requires_grad=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: saved.append(x.dtype) or x, lambda x: x
    ):
        out = dropout(ones)
    assert saved == [torch.bool]
    assert out.unique().tolist() == pytest.approx([0, 4 / 3])
    assert (out == 0).float().mean() == pytest.approx(0.25, abs=0.03)
    out.sum().backward()
    assert torch.equal(ones.grad, out.detach())


@pytest.mark.parametrize("shape", [(5, 8), (2, 7, 8), (3, 0, 8)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("trained", [True, False])
def test_lean_linear_equals_torch(shape, bias, trained):
    torch.manual_seed(0)
    layer = torch.nn.Linear(8, 4, bias=bias).requires_grad_(trained)
    lean = copy.deepcopy(layer)
    lean.__class__ = LeanLinear
    wave = torch.randn(*shape)
    inputs = [wave.clone().requires_grad_() for _ in range(2)]
    plain, other = layer(inputs[0]), lean(inputs[1])
    assert_close(other, plain, 1e-6)
    weights = torch.randn_like(plain)
    for out in (plain, other):
        # In place, as some adapters add theirs.
        out.mul_(2)
        (out * weights).sum().backward()
    assert_close(inputs[1].grad, inputs[0].grad, 1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        assert lean(wave).dtype == torch.bfloat16
    for name, parameter in layer.named_parameters() if trained else ():
        assert_close(lean.get_parameter(name).grad, parameter.grad, 1e-5)


def test_full_fine_tuning_reaches_every_parameter(lobe, clip, batch):
    lobe.train()
    states, frames = lobe(*batch(clip(1.0), clip(0.5, seed=1)))
    states[:, 0].square().mean().backward()
    without = [
        name
        for name, parameter in lobe.named_parameters()
        if parameter.requires_grad
        and (parameter.grad is None or not parameter.grad.any())
        # Softmax does not see what all keys have in common.
        and not name.endswith("k_proj.bias")
    ]
    assert without == []


def test_no_graph_below_the_lowest_trainable_parameter(lobe, clip, batch):
    lobe.train().requires_grad_(False)
    saved, at_top, entering = [], [], []
    top = lobe.layers[-1]
    top.requires_grad_(True)
    hooks = [
        layer.register_forward_pre_hook(
            lambda _, inputs: entering.append(inputs[0].requires_grad)
        )
        for layer in lobe.layers
    ]
    top.register_forward_pre_hook(lambda *_: at_top.append(len(saved)))
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: saved.append(x.shape) or x, lambda x: x
    ):
        states, _ = lobe(*batch(clip(1.0), clip(0.5, seed=1)))
    assert at_top == [0] and saved
    assert entering == [False] * LAYERS and len(hooks) == LAYERS
    states.sum().backward()
    assert all(p.grad is not None for p in top.parameters())


@pytest.mark.parametrize("trained", ["layers", "all"])
def test_gradient_checkpointing_changes_no_gradient(
    folder, clip, batch, trained
):
    gradients = []
    for checkpointing in (False, True):
        lobe = load_lobe(folder, gradient_checkpointing=checkpointing).train()
        if trained == "layers":
            # As under an adapter: what enters them needs no gradient.
            lobe.requires_grad_(False)
            lobe.layers.requires_grad_(True)
        torch.manual_seed(0)
        lobe(*batch(clip(1.0), clip(0.5, seed=1)))[0].square().mean().backward()
        gradients.append(
            [p.grad for p in lobe.parameters() if p.grad is not None]
        )
        assert len(gradients[-1]) >= 15 * LAYERS
        recomputed = any(
            getattr(layer, "gradient_checkpointing", False)
            for layer in lobe.layers
        )
        assert recomputed == checkpointing
    for plain, checkpointed in zip(*gradients, strict=True):
        assert_close(checkpointed, plain, 1e-6)


def test_bfloat16_autocast(lobe, clip, batch):
    inputs = batch(clip(1.0), clip(0.5, seed=1))
    reference, frames = encode(lobe, *inputs)
    lobe.train()
    with torch.autocast("cpu", torch.bfloat16):
        lobe(*inputs)[0].float().sum().backward()
        states, _ = encode(lobe.eval(), *inputs)
    n = frames[1]
    error = (states - reference)[:, 1, :n].norm()
    assert error < 0.05 * reference[:, 1, :n].norm()


# Loading.


def test_half_precision_checkpoint_is_loaded_in_float32(folder, tmp_path, clip):
    AutoModel.from_pretrained(folder).half().save_pretrained(tmp_path)
    lobe = load_lobe(tmp_path)
    assert {p.dtype for p in lobe.parameters()} == {torch.float32}
    assert encode(lobe, clip(0.5)[None])[0].dtype == torch.float32
    lobe = load_lobe(tmp_path, dtype="bfloat16")
    assert encode(lobe, clip(0.5)[None])[0].dtype == torch.bfloat16


def test_preprocessor_config_is_not_needed(folder, lobe, name, tmp_path, clip):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "preprocessor_config.json").unlink()
    wav = clip(0.5)[None]
    bare = load_lobe(tmp_path).eval()
    if getattr(lobe.config, "feat_extract_norm", "layer") == "layer":
        assert torch.equal(encode(bare, wav)[0], encode(lobe, wav)[0])
    else:
        # Group norm takes a loudness away by itself.
        assert not bare.normalize_wav
    assert bare.num_layers == LAYERS and bare.hidden_size == WIDTH


def test_loading_is_silent(folder, capfd):
    load_lobe(folder)
    assert capfd.readouterr() == ("", "")


def test_not_a_speech_encoder(tmp_path):
    config = BertConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
        intermediate_size=8, vocab_size=8,
    )  # fmt: skip
    BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="'bert' is not a speech encoder"):
        load_lobe(tmp_path)


def test_missing_folder(tmp_path):
    with pytest.raises(InputError, match="nowhere.*config.json"):
        load_lobe(tmp_path / "nowhere")


@pytest.mark.parametrize("pickle", ["pytorch_model.bin", "model.ckpt", None])
def test_folder_without_safetensors(folders, tmp_path, pickle):
    shutil.copy(folders["wavlm_base"] / "config.json", tmp_path)
    if pickle:
        # What unpickling would leave behind.
        (tmp_path / pickle).write_bytes(
            b"cos\nmkdir\n(V" + str(tmp_path / "ran").encode() + b"\ntR."
        )
    with pytest.raises(InputError, match="safetensors.*save_pretrained"):
        load_lobe(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_damaged_weights(folders, tmp_path):
    shutil.copytree(folders["wavlm_base"], tmp_path, dirs_exist_ok=True)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(InputError, match="model.safetensors"):
        load_lobe(tmp_path)


def rewrite_weights(folder, tmp_path, change):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, {"format": "pt"})
    return tmp_path


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_pointer_of_git_lfs(folders, tmp_path, name):
    shutil.copytree(folders["wavlm_base"], tmp_path / "a copy")
    (tmp_path / "a copy" / name).write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    )
    with pytest.raises(
        InputError, match=rf"{name}: a Git LFS .*`git lfs pull`"
    ):
        load_lobe(tmp_path / "a copy")


def test_weights_that_lack_a_tensor(folder, lobe, tmp_path):
    for key in ("masked_spec_embed", "decoder.layer_norm.weight"):
        rewrite_weights(folder, tmp_path, lambda w, key=key: w.pop(key, 0))
    load_lobe(tmp_path)  # these do not matter
    lost = next(
        name for name in load_file(tmp_path / "model.safetensors")
        if name.endswith("layers.1.final_layer_norm.bias")
        and "decoder" not in name
    )  # fmt: skip
    rewrite_weights(folder, tmp_path, lambda weights: weights.pop(lost))
    with pytest.raises(InputError, match=rf"lacks 1 .*{lost}"):
        load_lobe(tmp_path)


def test_weights_of_another_shape(folder, tmp_path):
    def widen(weights):
        for name, weight in weights.items():
            if name.endswith("layers.1.final_layer_norm.bias"):
                weights[name] = torch.cat([weight, weight])

    rewrite_weights(folder, tmp_path, widen)
    with pytest.raises(InputError, match="model.safetensors"):
        load_lobe(tmp_path)


def test_checkpoint_with_a_head_loads_silently(folders, tmp_path, capfd):
    # As facebook/wav2vec2-base: a quantizer beside the encoder.
    model = Wav2Vec2ForPreTraining(
        AutoConfig.from_pretrained(folders["wav2vec2_base"])
    )
    model.save_pretrained(tmp_path)
    capfd.readouterr()
    lobe = load_lobe(tmp_path)
    assert capfd.readouterr() == ("", "")
    expected = model.wav2vec2.encoder.layers[0].attention.q_proj.weight
    assert torch.equal(lobe.layers[0].attention.q_proj.weight, expected)


def test_code_of_a_checkpoint_is_never_run(folders, tmp_path):
    shutil.copytree(folders["wavlm_base"], tmp_path, dirs_exist_ok=True)
    config = {
        "model_type": "unheard_of",
        "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w').close()"
    )
    with pytest.raises(InputError, match="cannot be read"):
        load_lobe(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_hub_id_comes_from_save_path(folders, tmp_path, monkeypatch):
    # As a download leaves it; no network.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    cache = tmp_path / "models--someone--wavlm"
    shutil.copytree(folders["wavlm_base"], cache / "snapshots" / "123")
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("123")
    monkeypatch.chdir(folders["wavlm_base"].parent)
    lobe = load_lobe("someone/wavlm", save_path=tmp_path)
    assert lobe.source == "someone/wavlm" and not lobe.normalize_wav
    # A saved model finds a folder from wherever it is loaded.
    local = load_lobe("wavlm_base")
    assert local.source == str(folders["wavlm_base"].resolve())
    with pytest.raises(InputError, match="someone/else"):
        load_lobe("someone/else", save_path=tmp_path)
