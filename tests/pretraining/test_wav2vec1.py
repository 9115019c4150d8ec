"""wav2vec 1.0: its arithmetic, fairseq's file, what trains and is saved."""

import argparse
import hashlib
import logging
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from speechbrain.utils.checkpoints import Checkpointer
from torch.nn.functional import conv1d, group_norm, pad

from ser_peft.adapters import PeftLobe
from ser_peft.errors import InputError
from ser_peft.pretraining.wav2vec1 import Wav2Vec1Lobe

WIDTH = 8
KERNELS = (10, 8, 4, 4, 4, 1, 1)
STRIDES = (5, 4, 2, 2, 2, 1, 1)
SETTINGS = {
    "arch": "wav2vec",
    "activation": "relu",
    "log_compression": True,
    "residual_scale": 0.5,
    "skip_connections_agg": True,
    "agg_zero_pad": False,
}


@pytest.fixture(scope="module")
def published():
    """Tensors by the names that fairseq gives them."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return 0.3 * torch.randn(shape, generator=generator)

    tensors, channels = {}, 1
    for i, kernel in enumerate(KERNELS):
        block = f"feature_extractor.conv_layers.{i}"
        tensors[f"{block}.0.weight"] = draw(WIDTH, channels, kernel)
        tensors[f"{block}.2.weight"] = 1 + draw(WIDTH)
        tensors[f"{block}.2.bias"] = draw(WIDTH)
        channels = WIDTH
    for i in range(12):
        block = f"feature_aggregator.conv_layers.{i}"
        tensors[f"{block}.1.weight"] = draw(WIDTH, WIDTH, i + 2)
        tensors[f"{block}.1.bias"] = draw(WIDTH)
        tensors[f"{block}.3.weight"] = 1 + draw(WIDTH)
        tensors[f"{block}.3.bias"] = draw(WIDTH)
    steps = "wav2vec_predictions.project_to_steps"
    tensors[f"{steps}.weight"] = draw(WIDTH, WIDTH, 1, 12)
    tensors[f"{steps}.bias"] = draw(WIDTH)
    return tensors


@pytest.fixture
def write(tmp_path, published):
    """Function: changes -> a file in fairseq's layout."""

    def make(changes=(), settings=(), zipped=True, **more):
        tensors = {**published, **dict(changes)}
        content = {
            "args": argparse.Namespace(**{**SETTINGS, **dict(settings)}),
            "model": {k: v for k, v in tensors.items() if v is not None},
            "optimizer_history": [{"criterion_name": "BinaryCrossEntropy"}],
            "extra_state": {"epoch": 3, "train_meters": {}},
            **more,
        }
        path = tmp_path / "wav2vec_large.pt"
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        return path

    return make


def context_of(tensors, wav):
    """What fairseq's aggregator gives for one clip, [1, C, T]."""
    hidden = wav[None, None]
    for i, stride in enumerate(STRIDES):
        block = f"feature_extractor.conv_layers.{i}"
        hidden = conv1d(hidden, tensors[f"{block}.0.weight"], stride=stride)
        norm = tensors[f"{block}.2.weight"], tensors[f"{block}.2.bias"]
        hidden = group_norm(hidden, 1, *norm).relu()
    hidden = (hidden.abs() + 1).log()
    for i in range(12):
        block = f"feature_aggregator.conv_layers.{i}"
        new = conv1d(
            pad(hidden, (i + 1, 0), mode="replicate"),
            tensors[f"{block}.1.weight"],
            tensors[f"{block}.1.bias"],
        )
        norm = tensors[f"{block}.3.weight"], tensors[f"{block}.3.bias"]
        new = group_norm(new, 1, *norm).relu()
        hidden = (new + hidden) * 0.5**0.5
    return hidden


@pytest.mark.parametrize("zipped", [True, False])
def test_computes_what_the_file_says(write, published, zipped):
    path = write(zipped=zipped)
    lobe = Wav2Vec1Lobe(path, width=WIDTH)
    wav = torch.randn(7001)
    states, frames = lobe(wav[None])
    # Nothing else trains anew, and nothing is known of it: by hand.
    expected = lobe.model.stride(context_of(published, wav)).relu()
    assert states.shape == (1, 1, *expected.mT.shape[1:])
    assert torch.allclose(states[0], expected.mT, atol=1e-5)
    assert frames.tolist() == [expected.shape[2]]
    assert lobe.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert states.std() > 0.01


def test_size_of_the_published_model():
    with torch.device("meta"):
        model = Wav2Vec1Lobe().model
    new = 512 * (512 * 4 + 1)
    # SUPERB counts 32.54 million with the 12 steps of prediction.
    steps = 512 * (512 * 12 + 1)
    total = sum(p.numel() for p in model.parameters())
    assert total - new + steps == 32_537_088


def test_settings_that_old_files_lack(write):
    path = write()
    content = torch.load(path, weights_only=False)
    content["args"] = argparse.Namespace(arch="wav2vec", residual_scale=0.5)
    torch.save(content, path)
    assert Wav2Vec1Lobe(path, width=WIDTH).sha256


STRANGE = "feature_aggregator.conv_layers.12.1.weight"
LAST = "feature_aggregator.conv_layers.11.3.bias"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({LAST: None}, f"1 of 69 tensors .*{LAST}"),
        ({STRANGE: torch.zeros(1)}, f"1 of 69 tensors .*{STRANGE}"),
        ({LAST: torch.zeros(WIDTH + 1)}, f"1 of 69 tensors .*{LAST}"),
        ({LAST: "zero"}, f"1 of 69 tensors .*{LAST}"),
    ],
)
def test_refuses_other_tensors(write, changes, said):
    with pytest.raises(InputError, match=f"wav2vec_large.pt: {said}"):
        Wav2Vec1Lobe(write(changes), width=WIDTH)


@pytest.mark.parametrize(
    ("key", "value"), [("log_compression", False), ("agg_zero_pad", True)]
)
def test_refuses_other_settings(write, key, value):
    with pytest.raises(InputError, match=f"trained with {key}={value}"):
        Wav2Vec1Lobe(write(settings={key: value}), width=WIDTH)


class Trap:
    """Makes a folder when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.mkdir, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_executes_nothing(write, tmp_path, zipped):
    sprung = tmp_path / "sprung"
    path = write(zipped=zipped, last_optimizer_state=Trap(sprung))
    with pytest.raises(InputError, match="more than tensors and settings"):
        Wav2Vec1Lobe(path, width=WIDTH)
    assert not sprung.exists()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(path.read_bytes()[:5000]),
        lambda path: path.write_bytes(b"not a checkpoint"),
        lambda path: path.write_bytes(b""),
        lambda path: torch.save([1, 2], path),
        lambda path: torch.save({"cfg": {}}, path),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_refuses_a_broken_file(write, spoil, zipped):
    path = write(zipped=zipped)
    spoil(path)
    with pytest.raises(InputError, match="wav2vec_large.pt: cannot be read"):
        Wav2Vec1Lobe(path, width=WIDTH)


@pytest.fixture
def lobe(write):
    return Wav2Vec1Lobe(write(), width=WIDTH)


def test_batch_mates_and_padding_do_not_matter(lobe):
    wavs, samples = torch.randn(3, 16000), [16000, 9000, 300]
    wavs[1, 9000:] = 1e3  # whatever it holds
    states, frames = lobe(wavs, torch.tensor(samples) / 16000)
    assert frames.tolist() == [48, 26, 1]
    assert states.shape == (1, 3, 48, WIDTH)
    for i, count in enumerate(frames):
        alone, own = lobe(wavs[i : i + 1, : samples[i]])
        assert own == count
        assert torch.allclose(alone[0, 0], states[0, i, :count], atol=1e-5)
        assert not states[0, i, count:].any()


def test_windows(lobe):
    assert lobe.frames(torch.tensor([945, 1264, 1265])).tolist() == [1, 1, 2]
    assert lobe.frame_centres(3).tolist() == [472, 792, 1112]
    assert (lobe.num_layers, lobe.hidden_size) == (0, WIDTH)


def test_masks_blank_what_the_aggregator_sees(lobe):
    seen = []
    lobe.model.feature_aggregator[0].register_forward_pre_hook(
        lambda block, inputs: seen.append(inputs[0])
    )
    wav = torch.randn(2, 8000)
    lobe(wav)
    frames = int(lobe.frames(8000))
    time_mask = torch.zeros(2, frames, dtype=torch.bool)
    time_mask[0, 3] = time_mask[1, -1] = True
    channel_mask = torch.zeros(2, WIDTH, dtype=torch.bool)
    channel_mask[0, 5] = True
    lobe(wav, None, time_mask, channel_mask)
    # Frame 3 has its centre between those of frames 7 and 8 of 100 Hz.
    seen[0][0, :, 7:9] = 0
    seen[0][1, :, 2 * frames - 1 : 2 * frames + 1] = 0
    seen[0][0, 5] = 0
    assert torch.equal(*seen)


def test_only_what_trains_is_saved(write, tmp_path):
    encoder = PeftLobe(Wav2Vec1Lobe(write(), width=WIDTH), "full")
    trained = {n for n, p in encoder.named_parameters() if p.requires_grad}
    assert trained == {
        name
        for name, _ in encoder.named_parameters()
        if not name.startswith("lobe.model.feature_extractor.")
    }
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    wav = torch.randn(2, 4000)
    saver = Checkpointer(tmp_path / "save", {"encoder": encoder})
    file = saver.save_checkpoint().paramfiles["encoder"]
    with safe_open(file, "pt") as tensors:
        assert len(tensors.keys()) == len(trained) == 50
    fresh = PeftLobe(Wav2Vec1Lobe(write(), width=WIDTH), "full")
    assert not torch.equal(fresh(wav)[0], encoder(wav)[0])
    loader = Checkpointer(tmp_path / "save", {"encoder": fresh})
    loader.recover_if_possible()
    assert torch.equal(fresh(wav)[0], encoder(wav)[0])


def test_without_a_file(caplog):
    with caplog.at_level(logging.WARNING):
        first, second = (Wav2Vec1Lobe(width=WIDTH).model for _ in range(2))
    assert "random weights" in caplog.text
    one, two = first.state_dict(), second.state_dict()
    for name in one:
        # No checkpoint holds the extractor: it must be the same again.
        kept = name.startswith("feature_extractor") or "norm" in name
        assert torch.equal(one[name], two[name]) == kept, name
