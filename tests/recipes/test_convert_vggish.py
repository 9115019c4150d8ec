"""VGGish's published file, and the folder that is made of it."""

import hashlib
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ser_peft.errors import InputError
from ser_peft.lobes import load_lobe
from ser_peft.lobes.vggish import VGGishConfig

ROOT = Path(__file__).resolve().parents[2]
SPEC = importlib.util.spec_from_file_location(
    "convert_vggish", ROOT / "recipes" / "IEMOCAP" / "convert_vggish.py"
)
convert_vggish = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(convert_vggish)
convert = convert_vggish.convert_vggish

TINY = {"conv_dim": [[4], [4], [8, 8], [8, 8]], "hidden_dim": [16, 16]}


@pytest.fixture
def small_default(monkeypatch):
    """Stands in for the published widths."""

    class Small(VGGishConfig):
        def __init__(self, **kwargs):
            super().__init__(**TINY | {"hidden_size": 8} | kwargs)

    monkeypatch.setattr(convert_vggish, "VGGishConfig", Small)


@pytest.fixture
def state_dict():
    """As torchvggish names and shapes it."""
    shapes = {
        "features.0": (4, 1, 3, 3), "features.3": (4, 4, 3, 3),
        "features.6": (8, 4, 3, 3), "features.8": (8, 8, 3, 3),
        "features.11": (8, 8, 3, 3), "features.13": (8, 8, 3, 3),
        "embeddings.0": (16, 192), "embeddings.2": (16, 16),
        "embeddings.4": (8, 16),
    }  # fmt: skip
    tensors = {}
    for name, shape in shapes.items():
        tensors[f"{name}.weight"] = 0.3 * torch.randn(shape)
        tensors[f"{name}.bias"] = 0.3 * torch.randn(shape[0])
    return tensors


@pytest.fixture
def published(state_dict, small_default, tmp_path, monkeypatch):
    """A function: state dict -> file whose hash is the expected one."""

    def write(tensors=state_dict):
        path = tmp_path / "vggish.pth"
        torch.save(tensors, path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        monkeypatch.setattr(convert_vggish, "SHA256", digest[:8])
        return path

    return write


def test_conversion(published, state_dict, tmp_path):
    folder = convert(published(), tmp_path / "hf")
    assert sorted(p.name for p in folder.iterdir()) == [
        "config.json", "model.safetensors",
    ]  # fmt: skip
    lobe = load_lobe(folder)
    found = lobe.model.state_dict()
    assert found.keys() == state_dict.keys()
    assert all(torch.equal(found[name], state_dict[name]) for name in found)
    assert lobe.config.final_relu and not lobe.config.pca
    # A safetensors file needs no hash.
    save_file(state_dict, tmp_path / "a.safetensors")
    again = convert(tmp_path / "a.safetensors", tmp_path / "again")
    wav = 0.1 * torch.randn(1, 36800)
    assert torch.equal(lobe(wav)[0], load_lobe(again)(wav)[0])


def test_conversion_with_pca(published, tmp_path):
    matrix, means = np.random.rand(8, 8), np.random.rand(8)
    path = tmp_path / "vggish_pca_params.npz"
    np.savez(path, pca_eigen_vectors=matrix, pca_means=means)
    lobe = load_lobe(convert(published(), tmp_path / "hf", path))
    assert lobe.config.pca and not lobe.config.final_relu
    np.testing.assert_allclose(lobe.model.pca_eigen_vectors, matrix, rtol=1e-6)
    np.testing.assert_allclose(lobe.model.pca_means, means, rtol=1e-6)

    np.savez(path, pca_means=means)
    with pytest.raises(InputError, match="pca_params.npz.*pca_eigen_vectors"):
        convert(published(), tmp_path / "other", path)
    assert not (tmp_path / "other").exists()


def test_download(published, tmp_path, monkeypatch):
    path = published()

    def download(url, to):
        assert url == "https://example.org/vggish.pth"
        to.write_bytes(path.read_bytes())

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    load_lobe(convert("https://example.org/vggish.pth", tmp_path / "hf"))

    def offline(url, to):
        raise OSError("no route")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(InputError, match="cannot be downloaded.*no route"):
        convert("https://example.org/vggish.pth", tmp_path / "other")


def test_another_file_is_not_unpickled(published, tmp_path, monkeypatch):
    path = published()
    path.write_bytes(path.read_bytes() + b"\0")

    def load(*args, **kwargs):
        raise AssertionError("unpickled")

    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(InputError, match="SHA-256 is .*does not begin with"):
        convert(path, tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


@pytest.mark.parametrize("kind", ["missing", "unknown", "shape"])
def test_tensors_that_do_not_fit(published, state_dict, tmp_path, kind):
    if kind == "missing":
        del state_dict["embeddings.2.bias"]
    elif kind == "unknown":
        state_dict["embeddings.6.bias"] = torch.zeros(1)
    else:
        state_dict["embeddings.2.bias"] = torch.zeros(17)
    with pytest.raises(InputError, match=r"embeddings\.[26]\.bias"):
        convert(published(state_dict), tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


def test_unreadable_files(small_default, tmp_path):
    with pytest.raises(InputError, match="nowhere.pth"):
        convert(tmp_path / "nowhere.pth", tmp_path / "hf")
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"broken")
    with pytest.raises(InputError, match="a.safetensors: cannot be read"):
        convert(path, tmp_path / "hf")


def test_no_folder_is_replaced(published, tmp_path):
    (tmp_path / "vggish").mkdir()
    with pytest.raises(InputError, match="vggish: is there already"):
        convert(published(), tmp_path / "vggish")


def test_command(published, tmp_path, capsys):
    out = tmp_path / "off"
    convert_vggish.main([str(published()), str(out), "--final-relu", "off"])
    assert f"give --backbone={out} to a training" in capsys.readouterr().out
    assert not load_lobe(out).config.final_relu
