"""PeftLobe: targets, proof of life, checkpoints, folders, merging."""

import copy
import json
import logging

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from speechbrain.utils.checkpoints import Checkpointer

from ser_peft.adapters import (
    BottleneckConfig,
    PeftLobe,
    PromptConfig,
    load_adapter,
)
from ser_peft.errors import InputError
from ser_peft.lobes import lengths_in_samples, load_lobe

NAMES = ("wav2vec2", "hubert", "wavlm", "wavlm_large", "whisper")


def lora(**kwargs):
    return peft.LoraConfig(**{"r": 4, **kwargs})


def combined():
    return [PromptConfig(1), lora(), BottleneckConfig(bottleneck=4)]


def trainable(encoder):
    return {n: p for n, p in encoder.named_parameters() if p.requires_grad}


# ------------------------------------------------------------------ targets


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("targets", "layers", "linears"),
    [
        ("attention", None, 8),
        ("ffn", None, 4),
        ("attention+ffn", None, 12),
        ("attention+ffn", [1], 6),
        (r".*layers\.0\..*(q|v)_proj", None, 2),
    ],
)
def test_targets(fresh_lobe, name, targets, layers, linears):
    encoder = PeftLobe(fresh_lobe(name), lora(), targets, layers)
    names = trainable(encoder)
    assert len(names) == 2 * linears
    if layers:
        assert all("layers.1." in key for key in names)


def test_ffn_parameter_count(fresh_lobe):
    """10 * r * H * L for the two linears of an FFN 4 H wide; here 2 H."""
    encoder = PeftLobe(fresh_lobe("wav2vec2"), lora(r=8), "ffn")
    assert encoder.num_adapter_parameters == 6 * 8 * 32 * 2


@torch.no_grad()
@pytest.mark.parametrize("name", ["wavlm", "whisper"])
def test_lora_as_in_peft_ser(fresh_lobe, clips, disturb, name):
    """Feng and Narayanan 2023: W x + B A x / r, in the FFN's linears only."""
    config = lora(r=4, lora_alpha=1)
    encoder = disturb(PeftLobe(fresh_lobe(name), config, "ffn"))
    seen = {}
    for layer in encoder.lobe.layers:
        for linear in map(layer.get_submodule, encoder.lobe.ffn):
            linear.register_forward_hook(
                lambda module, args, output: seen.update(
                    {module: (*args, output)}
                )
            )
    encoder(clips[0])
    adapted = [m for m in encoder.modules() if hasattr(m, "lora_A")]
    assert set(seen) == set(adapted) and len(seen) == 2 * 2
    for linear, (x, output) in seen.items():
        a, b = linear.lora_A["default"].weight, linear.lora_B["default"].weight
        weight = linear.base_layer.weight + b @ a / 4
        expected = x @ weight.T + linear.base_layer.bias
        assert torch.allclose(output, expected, atol=1e-5)


def test_own_target_modules_go_first(fresh_lobe):
    config = lora(target_modules=["q_proj"])
    encoder = PeftLobe(fresh_lobe("whisper"), config)
    assert len(trainable(encoder)) == 4
    with pytest.raises(InputError, match="target_modules"):
        PeftLobe(fresh_lobe("whisper"), config, targets="ffn")


def test_all_linear_lives_in_wavlm(fresh_lobe):
    """Even the gates of the relative positions, dead in the stock class."""
    encoder = PeftLobe(fresh_lobe("wavlm"), lora(target_modules="all-linear"))
    assert any("gru_rel_pos_linear" in name for name in trainable(encoder))


def test_ia3_scales_keys_values_and_inner_activations(fresh_lobe):
    encoder = PeftLobe(fresh_lobe("wav2vec2"), peft.IA3Config(), layers=[0])
    sizes = sorted(p.numel() for p in trainable(encoder).values())
    assert sizes == [32, 32, 64]


def test_the_configuration_passed_in_stays(fresh_lobe):
    config = lora()
    before = copy.deepcopy(config.to_dict())
    PeftLobe(fresh_lobe("wavlm"), config, "attention")
    assert config.to_dict() == before


@pytest.mark.parametrize(
    ("targets", "layers", "message"),
    [
        ("q_proj", None, "matches no module .*attention.q_proj"),
        ("(", None, "targets: '\\('"),
        (".*q_proj", [0], "layers: goes with"),
        ("ffn", [2], "layers 0 to 1"),
        ("ffn", [], "layers 0 to 1"),
        ("norm", None, "not supported"),
        (r"encoder\.pos_conv_embed\.conv", None, "grouped convolution"),
    ],
)
def test_refuses_wrong_targets(fresh_lobe, targets, layers, message):
    with pytest.raises(InputError, match=message):
        PeftLobe(fresh_lobe("wav2vec2"), lora(), targets, layers)


# ------------------------------------------------------------------ methods


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (peft.PromptTuningConfig(num_virtual_tokens=2), "PromptConfig"),
        (peft.PrefixTuningConfig(num_virtual_tokens=2), "PromptConfig"),
        (peft.PromptEncoderConfig(num_virtual_tokens=2), "PromptConfig"),
        (
            peft.MultitaskPromptTuningConfig(num_virtual_tokens=2),
            "PromptConfig",
        ),
        (peft.CPTConfig(task_type="CAUSAL_LM"), "PromptConfig"),
        (peft.AdaptionPromptConfig(), "PromptConfig"),
        (peft.XLoraConfig(), "XLORA mixes"),
        (peft.PolyConfig(), "POLY wants a task id"),
        (peft.TrainableTokensConfig(), "token embedding"),
        (peft.ShadowConfig(), "SHADOW"),
        (lora(task_type="FEATURE_EXTRACTION"), "task_type"),
        (lora(init_lora_weights="pissa_niter_4"), "cannot repeat"),
        (lora(init_lora_weights="eva"), "from data"),
        (lora(megatron_config={"a": 1}), "megatron_config"),
        (peft.C3AConfig(block_size=7), "method c3a: The block size"),
        ("lora", "method: 'lora' is no method"),
        (["frozen", PromptConfig()], "method: 'frozen' is no method"),
        ([], "at least one"),
        ([lora(), peft.IA3Config()], "at most one"),
        ([PromptConfig(1), PromptConfig(2)], "one PromptConfig"),
        (BottleneckConfig(layers=[5]), "layers 0 to 1"),
    ],
)
def test_refuses_what_cannot_work(fresh_lobe, method, message):
    with pytest.raises(InputError, match=message):
        PeftLobe(fresh_lobe("hubert"), method)


def test_warns_of_methods_that_shift_the_start(fresh_lobe, caplog):
    with caplog.at_level(logging.WARNING):
        PeftLobe(fresh_lobe("hubert"), lora())
        assert not caplog.messages
        config = peft.FourierFTConfig(n_frequency=20)
        PeftLobe(fresh_lobe("hubert"), config)
    assert "fourierft: before any training" in caplog.messages[0]


def test_passes_the_lobes_properties_through(fresh_lobe):
    encoder = PeftLobe(fresh_lobe("whisper"), "frozen")
    assert (encoder.hidden_size, encoder.num_layers) == (32, 2)
    assert (encoder.sample_rate, encoder.max_samples) == (16000, 480000)


def test_frozen_stays_in_eval_and_without_graph(fresh_lobe, clips):
    encoder = PeftLobe(fresh_lobe("wav2vec2").train(), "frozen").train()
    assert not any(module.training for module in encoder.modules())
    assert not encoder(*clips)[0].requires_grad
    assert not trainable(encoder)
    assert encoder.num_adapter_parameters == 0


def test_full_trains_all_that_the_states_depend_on(fresh_lobe):
    lobe = fresh_lobe("whisper")
    lobe.model.spare = torch.nn.Linear(2, 2)
    encoder = PeftLobe(lobe, "full")
    left_out = {
        n for n, p in lobe.model.named_parameters() if not p.requires_grad
    }
    assert left_out == {"embed_positions.weight", "spare.weight", "spare.bias"}
    assert encoder.num_adapter_parameters == sum(
        p.numel() for p in trainable(encoder).values()
    )


def test_full_in_some_layers(fresh_lobe):
    encoder = PeftLobe(fresh_lobe("hubert"), "full", layers=[1])
    assert trainable(encoder)
    assert all("encoder.layers.1." in name for name in trainable(encoder))


def test_batch_norm_keeps_its_statistics(tiny_backbones, tmp_path, clips):
    """In mHuBERT-147's positional convolution; they are not saved."""
    config = transformers.AutoConfig.from_pretrained(tiny_backbones["hubert"])
    config.conv_pos_batch_norm = True
    transformers.HubertModel(config).save_pretrained(tmp_path)
    encoder = PeftLobe(load_lobe(tmp_path), lora()).train()
    before = {n: b.clone() for n, b in encoder.named_buffers()}
    assert any("running_mean" in name for name in before)
    encoder(*clips)
    assert all(torch.equal(b, before[n]) for n, b in encoder.named_buffers())


# ------------------------------------------------------------ proof of life


@pytest.mark.parametrize("method", ["lora", "full", "combined"])
def test_building_leaves_no_trace(fresh_lobe, clips, method):
    methods = {"lora": lora(), "full": "full", "combined": combined()}
    lobe = fresh_lobe("hubert")
    base = {n: t.clone() for n, t in lobe.model.state_dict().items()}
    torch.manual_seed(3)
    lobe.layers[0].train()
    encoder = PeftLobe(lobe, methods[method])
    state = torch.get_rng_state()
    # What the check wraps: building again without it.
    torch.manual_seed(3)
    bare = PeftLobe(fresh_lobe("hubert"), methods[method], trainable=False)
    assert torch.equal(torch.get_rng_state(), state)
    for (name, tensor), (_, other) in zip(
        encoder.lobe.model.state_dict().items(),
        bare.lobe.model.state_dict().items(),
        strict=True,
    ):
        assert torch.equal(tensor, other), name
    kept = list(encoder.lobe.model.state_dict().values())
    for tensor in base.values():
        assert any(torch.equal(tensor, other) for other in kept)
    assert all(p.grad is None for p in encoder.parameters())


def test_building_keeps_gradients_and_mode(fresh_lobe):
    for mode in (True, False):
        lobe = fresh_lobe("wav2vec2").train(mode)
        weight = lobe.layers[0].layer_norm.weight
        weight.grad = torch.full_like(weight, 3)
        PeftLobe(lobe, "full")
        assert (weight.grad == 3).all()
        assert all(module.training is mode for module in lobe.modules())


def test_builds_under_no_grad(fresh_lobe):
    with torch.no_grad():
        PeftLobe(fresh_lobe("wav2vec2"), lora())


def test_refuses_a_module_that_is_never_called(fresh_lobe):
    lobe = fresh_lobe("whisper")
    lobe.model.spare = torch.nn.Linear(2, 2)
    with pytest.raises(InputError, match=r"2 of 6 .*spare\.lora_A"):
        PeftLobe(lobe, lora(), r"spare|layers\.0\.fc.")


def test_refuses_a_module_that_is_cut_off(fresh_lobe):
    """A gradient of zero, not None."""
    lobe = fresh_lobe("hubert")
    torch.nn.init.zeros_(lobe.layers[0].attention.out_proj.weight)
    with pytest.raises(InputError, match="v_proj.lora_A.* no gradient|get no"):
        PeftLobe(lobe, lora(), r"encoder\.layers\.0\.attention\.v_proj")


def test_refuses_a_lobe_under_no_grad(fresh_lobe, monkeypatch):
    lobe = fresh_lobe("hubert")
    monkeypatch.setattr(lobe, "forward", torch.no_grad()(lobe.forward))
    with pytest.raises(InputError, match="24 of 24 trainable tensors"):
        PeftLobe(lobe, lora())


@pytest.mark.parametrize("name", ["wavlm", "whisper"])
@pytest.mark.parametrize("method", ["lora", "parallel", "combined"])
def test_gradient_checkpointing(tiny_backbones, clips, name, method):
    """Same gradients, and none asked of the input."""
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        lobe = load_lobe(
            tiny_backbones[name], gradient_checkpointing=checkpointing
        )
        methods = {
            "lora": lora(),
            "parallel": BottleneckConfig(bottleneck=4, parallel=True),
            "combined": combined(),
        }
        encoder = PeftLobe(lobe, methods[method])
        assert lobe.backbone.is_activation_checkpointing is checkpointing
        torch.manual_seed(1)
        encoder(*clips)[0].square().sum().backward()
        found.append([p.grad for p in trainable(encoder).values()])
        lengths = lengths_in_samples(*clips)
        below = lobe.embed(clips[0], lengths, lobe.frames(lengths))
        assert not below.requires_grad
    for plain, recomputed in zip(*found, strict=True):
        assert torch.allclose(plain, recomputed, rtol=1e-4, atol=1e-4)


# -------------------------------------------------------------- checkpoints


def test_speechbrain_checkpoint(fresh_lobe, states, disturb, tmp_path):
    encoder = disturb(PeftLobe(fresh_lobe("hubert"), combined()))
    Checkpointer(tmp_path, {"encoder": encoder}).save_checkpoint()
    fresh = PeftLobe(fresh_lobe("hubert"), combined()).eval()
    Checkpointer(tmp_path, {"encoder": fresh}).recover_if_possible()
    assert torch.equal(states(fresh), states(encoder))
    (saved,) = tmp_path.glob("CKPT*/encoder.ckpt")
    assert sum(t.numel() for t in load_file(saved).values()) == (
        encoder.num_adapter_parameters
    )


def test_checkpoint_keeps_what_the_method_froze(fresh_lobe, states, tmp_path):
    """Another device may draw or decompose it otherwise."""
    method = peft.VeraConfig(r=8, d_initial=1.0)
    encoder = PeftLobe(fresh_lobe("hubert"), method)
    encoder.lobe.model.base_model.vera_A["default"].normal_()
    for parameter in trainable(encoder).values():
        parameter.data.fill_(1.0)
    encoder.save(tmp_path / "encoder.ckpt")
    fresh = PeftLobe(fresh_lobe("hubert"), method)
    fresh.load(tmp_path / "encoder.ckpt")
    assert torch.equal(states(fresh), states(encoder))


def test_checkpoint_of_nothing(fresh_lobe, tmp_path):
    encoder = PeftLobe(fresh_lobe("hubert"), "frozen")
    encoder.save(tmp_path / "a.ckpt")
    assert load_file(tmp_path / "a.ckpt") == {}
    encoder.load(tmp_path / "a.ckpt")


def test_checkpoint_must_match(fresh_lobe, tmp_path):
    encoder = PeftLobe(fresh_lobe("hubert"), lora())
    path = tmp_path / "encoder.ckpt"
    encoder.save(path)
    tensors = load_file(path)
    name = next(iter(tensors))

    def refused(changed, message):
        save_file(changed, path)
        with pytest.raises(InputError, match=message) as caught:
            encoder.load(path)
        assert str(path) in str(caught.value)

    less = {n: t for n, t in tensors.items() if n != name}
    refused(less, f"1 tensors are missing .*{name}")
    refused(tensors | {"odd": torch.ones(1)}, r"1 unknown \['odd'\]")
    refused(tensors | {name: torch.ones(1)}, f"{name} is .1. there")
    path.write_bytes(b"torn")
    with pytest.raises(InputError, match="cannot be read"):
        encoder.load(path)


def test_adalora_resumes_as_if_never_stopped(
    fresh_lobe, states, clips, tmp_path
):
    def build():
        # The first cut, in step 4, rests on all the steps before it.
        config = peft.AdaLoraConfig(
            init_r=8, target_r=2, total_step=1, deltaT=4, beta1=0.9
        )
        encoder = PeftLobe(fresh_lobe("hubert"), config)
        encoder.set_total_steps(8)
        return encoder, torch.optim.SGD(trainable(encoder).values(), lr=1e-2)

    def train(encoder, optimizer, steps):
        for step in steps:
            low, high = encoder(*clips)[0][1:].square().mean((1, 2, 3))
            # The fourth step sees the lower layer, those before the upper.
            (low + 1e-3 * high if step == 4 else high).backward()
            optimizer.step()
            encoder.on_step(step)
            optimizer.zero_grad()

    encoder, optimizer = build()
    train(encoder, optimizer, range(1, 4))
    encoder.save(tmp_path / "encoder.ckpt")
    train(encoder, optimizer, range(4, 9))
    resumed, optimizer = build()
    resumed.load(tmp_path / "encoder.ckpt")
    train(resumed, optimizer, range(4, 9))
    assert torch.equal(states(resumed), states(encoder))
    kept = [
        (p != 0).sum() for n, p in trainable(encoder).items() if "lora_E" in n
    ]
    assert sum(kept) <= 2 * len(kept)
    # Past the last allocation, the ranks kept are those of the checkpoint.
    encoder.save(tmp_path / "encoder.ckpt")
    late, optimizer = build()
    late.load(tmp_path / "encoder.ckpt")
    train(late, optimizer, range(9, 10))
    train(encoder, torch.optim.SGD(trainable(encoder).values(), 1e-2), [9])
    assert torch.equal(states(late), states(encoder))


def test_adalora_needs_room_between_its_warm_ups(fresh_lobe):
    config = peft.AdaLoraConfig(tinit=5, tfinal=5, total_step=20)
    encoder = PeftLobe(fresh_lobe("hubert"), config)
    with pytest.raises(InputError, match="leave nothing of 10 steps"):
        encoder.set_total_steps(10)
    assert encoder.regularization() > 0
    assert PeftLobe(fresh_lobe("hubert"), lora()).regularization() == 0


# ------------------------------------------------------------------ folders


def test_export_layout(fresh_lobe, tmp_path):
    files = ["adapter_config.json", "adapter_model.safetensors"]

    def exported(method):
        PeftLobe(fresh_lobe("hubert"), method).export(tmp_path / "adapter")
        found = (tmp_path / "adapter").rglob("*")
        paths = (p.relative_to(tmp_path / "adapter") for p in found)
        return sorted(str(p) for p in paths if p.suffix)

    assert exported(lora()) == files
    assert exported(PromptConfig()) == files
    assert exported("full") == files
    assert exported(combined()) == [
        f"{method}/{file}"
        for method in ("adapter", "lora", "prompt")
        for file in files
    ]
    assert exported("frozen") == files[:1]
    config = json.loads((tmp_path / "adapter" / files[0]).read_text())
    assert config["peft_type"] == "FROZEN"
    assert list(tmp_path.iterdir()) == [tmp_path / "adapter"]


@pytest.mark.parametrize(
    "method", [lora(), BottleneckConfig(4), PromptConfig(2), "full"]
)
def test_exported_configuration_names_the_backbone(
    fresh_lobe, tiny_backbones, tmp_path, method
):
    PeftLobe(fresh_lobe("hubert"), method).export(tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    config = json.loads(path.read_text())
    assert config["base_model_name_or_path"] == str(tiny_backbones["hubert"])
    assert config["auto_mapping"]["base_model_class"] == "HubertModel"


def test_layers_come_back(fresh_lobe, states, disturb, tmp_path):
    for method in (lora(), PromptConfig(2), BottleneckConfig(4), "full"):
        encoder = PeftLobe(fresh_lobe("hubert"), method, layers=[1])
        disturb(encoder).export(tmp_path / "adapter")
        loaded = load_adapter(fresh_lobe("hubert"), tmp_path / "adapter")
        assert torch.equal(states(loaded), states(encoder))


def test_loaded_adapter_stays_frozen(fresh_lobe, clips, tmp_path):
    encoder = PeftLobe(fresh_lobe("hubert"), combined())
    encoder.export(tmp_path / "adapter")
    loaded = load_adapter(fresh_lobe("hubert"), tmp_path / "adapter").train()
    assert loaded.method_name == "combined"
    assert loaded.num_adapter_parameters == encoder.num_adapter_parameters
    assert not any(module.training for module in loaded.modules())
    assert not loaded(*clips)[0].requires_grad


@pytest.mark.parametrize(
    "method", [lora(), BottleneckConfig(4), PromptConfig(2), "full"]
)
def test_refuses_another_backbone(fresh_lobe, tmp_path, method):
    PeftLobe(fresh_lobe("wavlm"), method).export(tmp_path / "adapter")
    with pytest.raises(InputError, match="was trained in a WavLMModel"):
        load_adapter(fresh_lobe("hubert"), tmp_path / "adapter")
    shallow = fresh_lobe("wavlm")
    del shallow.layers[1]
    with pytest.raises(InputError, match="unknown .*layers.1"):
        load_adapter(shallow, tmp_path / "adapter")
    deep = fresh_lobe("wavlm")
    deep.layers.append(copy.deepcopy(deep.layers[1]))
    with pytest.raises(InputError, match="missing .*layers.2"):
        load_adapter(deep, tmp_path / "adapter")


@pytest.mark.parametrize(
    "method", [lora(), BottleneckConfig(4), PromptConfig(2)]
)
def test_refuses_another_width(fresh_lobe, tmp_path, method):
    PeftLobe(fresh_lobe("wavlm"), method).export(tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    wider = {n: torch.ones(99, 99) for n in load_file(path)}
    save_file(wider, path)
    with pytest.raises(InputError, match=r"adapter_model.*99"):
        load_adapter(fresh_lobe("wavlm"), tmp_path / "adapter")


def test_refuses_damaged_folders(fresh_lobe, tmp_path):
    folder = tmp_path / "adapter"
    PeftLobe(fresh_lobe("hubert"), lora()).export(folder)
    tensors, config = (
        folder / "adapter_model.safetensors",
        folder / "adapter_config.json",
    )

    def refused(message):
        with pytest.raises(InputError, match=message):
            load_adapter(fresh_lobe("hubert"), folder)

    content = load_file(tensors)
    name = next(iter(content))
    save_file({n: t for n, t in content.items() if n != name}, tensors)
    refused(f"1 tensors are missing .*{name}")
    tensors.write_bytes(b"torn")
    refused("adapter_model.safetensors: cannot be read")
    tensors.unlink()
    refused("adapter_model.safetensors: cannot be read")
    for wrong in ("{", "[]", "{}", '{"peft_type": "BOTTLENECK"}',
                  '{"peft_type": "NEW"}'):  # fmt: skip
        config.write_text(wrong)
        refused("adapter_config.json: is no adapter configuration")
    config.unlink()
    refused("adapter_config.json: cannot be read")


@pytest.mark.parametrize("name", NAMES)
def test_loads_with_plain_peft(
    fresh_lobe, tiny_backbones, disturb, name, tmp_path
):
    """Without this package, on the encoder as transformers has it."""
    # Stock WavLM does not call its projections: nothing there to adapt.
    targets = "ffn" if "wavlm" in name else "attention+ffn"
    encoder = disturb(PeftLobe(fresh_lobe(name), lora(), targets))
    encoder.export(tmp_path / "adapter")
    folder = tiny_backbones[name]
    plain = transformers.AutoModel.from_pretrained(folder)
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    seconds = 1
    if name == "whisper":
        plain, seconds = plain.get_encoder(), 30
    wav = 0.1 * torch.randn(1, seconds * 16000)
    plain = peft.PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()
    inputs = extractor(wav[0].numpy(), sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        output = plain.base_model.model(
            next(iter(inputs.values())), output_hidden_states=True
        )
        states, _ = encoder(wav)
    *below, _ = output.hidden_states
    for ours, theirs in zip(
        states, [*below, output.last_hidden_state], strict=True
    ):
        assert torch.allclose(ours, theirs, atol=1e-4)


# ------------------------------------------------------------------ merging


@pytest.mark.parametrize("name", ["wavlm", "wavlm_large"])
def test_wavlm_attention_trains_and_merges(
    fresh_lobe, tiny_backbones, disturb, name
):
    """Where stock transformers trains nothing, silently."""
    stock = transformers.WavLMModel.from_pretrained(tiny_backbones[name])
    stock.eval()
    wav = torch.randn(1, 16000)
    if name == "wavlm_large":
        wav = (wav - wav.mean()) / wav.std(correction=0)

    def gap(encoder):
        with torch.no_grad():
            ours = encoder(wav)[0][-1]
            return (ours - stock(wav).last_hidden_state).abs().max()

    encoder = PeftLobe(fresh_lobe(name), lora(), "attention")
    assert gap(encoder) < 1e-5
    disturb(encoder)(wav)[0].square().sum().backward()
    gradients = [p.grad for p in trainable(encoder).values()]
    assert len(gradients) == 16
    assert all(g is not None and g.any() for g in gradients)
    assert gap(encoder) > 1e-2
    merged = encoder.merge()
    stock.load_state_dict(merged.lobe.model.state_dict())
    assert gap(merged) < 1e-5


def test_merged_encoder_is_plain_and_frozen(fresh_lobe, tmp_path):
    encoder = PeftLobe(fresh_lobe("whisper"), lora())
    assert encoder.merge() is encoder
    assert not trainable(encoder)
    assert not isinstance(encoder.lobe.model, peft.PeftModel)
    with pytest.raises(InputError, match="export before merging"):
        encoder.export(tmp_path / "adapter")


# --------------------------------------------------------------- real model


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        (lora(r=8), 122_880),
        (BottleneckConfig(128), 395_264),
        (PromptConfig(5), 7_680),
        ([PromptConfig(1), BottleneckConfig(128), lora(r=32)], 888_320),
    ],
    ids=["lora", "adapter", "prompt", "combined"],
)
def test_parameters_as_published_for_whisper_tiny(
    shared_whisper, method, parameters
):
    """Feng and Narayanan 2023, "PEFT-SER": LoRA on the FFN only."""
    encoder = PeftLobe(load_lobe(shared_whisper), method, "ffn")
    assert encoder.num_adapter_parameters == parameters


def test_what_an_encoder_from_scratch_takes():
    """All of it trains; it has feed-forward layers, but no attention."""
    with pytest.raises(InputError, match="starts from scratch.*use 'full'"):
        PeftLobe(load_lobe("filterbank_cnn"), "frozen")
    lobe = load_lobe("filterbank_cnn")
    lobe.random = False  # as one that was trained and merged
    with pytest.raises(InputError, match="has no attention in layers"):
        PeftLobe(lobe, peft.LoraConfig(r=4), targets="attention")
    with pytest.raises(InputError, match="has no layers for it"):
        PeftLobe(lobe, PromptConfig(5))
    encoder = PeftLobe(lobe, peft.LoraConfig(r=4), targets="ffn")
    assert encoder.num_adapter_parameters == 6 * 2 * 4 * (96 + 192)
