"""A service with a tiny model."""

from contextlib import ExitStack, contextmanager

import numpy as np
import peft
import pytest
import soundfile
import torch
from starlette.testclient import TestClient

from ser_peft.adapters import PeftLobe
from ser_peft.heads import LayerMixHead
from ser_peft.inference import EmotionModel, load_model
from ser_peft.lobes import load_lobe
from ser_peft.service import About, Limits, Service, application

CLASSES = ["neutral", "angry", "sad", "happy"]


@pytest.fixture(scope="session")
def run(tiny_backbones, tmp_path_factory):
    """A run's folder: a tiny Whisper with classes and a dimension."""
    torch.manual_seed(0)
    method = peft.LoraConfig(init_lora_weights=False)
    encoder = PeftLobe(load_lobe(tiny_backbones["whisper"]), method)
    head = LayerMixHead(encoder, CLASSES, 1)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    dimensions = {"arousal": (3.0, 1.0)}
    model = EmotionModel(encoder, head, CLASSES, dimensions=dimensions)
    folder = tmp_path_factory.mktemp("runs") / "tiny ä"
    model.save(folder / "model")
    return folder


@pytest.fixture(scope="session")
def model(run):
    """The model of `run`."""
    return load_model(run)


@pytest.fixture(scope="session")
def clips(tmp_path_factory):
    """Recordings of 0.3 to 1.2 s, of several rates and formats."""
    folder = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    for number in range(8):
        rate = (16000, 22050, 8000)[number % 3]
        time = np.arange(round(rate * (0.3 + 0.13 * number))) / rate
        wave = np.sin(2 * np.pi * (100 + 40 * number) * time)
        wave = 0.1 * wave + rng.normal(0, 0.02, len(time))
        name = f"clip{number}.{('wav', 'flac', 'ogg')[number % 3]}"
        soundfile.write(folder / name, wave, rate)
    return sorted(folder.iterdir())


@contextmanager
def _served(model, run, token=None, **limits):
    service = Service(model, About.of(run), Limits(**limits))
    client = TestClient(
        application(service, token),
        base_url="http://127.0.0.1",
        raise_server_exceptions=False,
    )
    client.service = service
    with client:
        yield client


@pytest.fixture(scope="session")
def served():
    """Context: model, run, token and limits -> client of a service."""
    return _served


@pytest.fixture(scope="session")
def client(model, run):
    """Client of a service that takes 2 s and 1 MB."""
    with _served(model, run, max_seconds=2, max_mb=1) as client:
        yield client


@pytest.fixture
def serving(model, run):
    """Function: token and limits -> client of a service that has them."""
    with ExitStack() as stack:
        yield lambda **how: stack.enter_context(_served(model, run, **how))
