"""What the adapters' tests share."""

import copy

import pytest
import torch

from ser_peft.lobes import load_lobe

BACKBONES = ("wav2vec2", "hubert", "wavlm", "wavlm_large", "whisper")


@pytest.fixture(scope="session")
def fresh_lobe(tiny_backbones):
    """Function: name of a backbone -> a lobe of its own, in eval mode."""
    lobes = {name: load_lobe(tiny_backbones[name]).eval() for name in BACKBONES}
    return lambda name: copy.deepcopy(lobes[name])


@pytest.fixture(scope="session")
def clips():
    """Two clips of 0.5 and 0.3 s: ``wav[2, T]`` and relative lengths."""
    generator = torch.Generator().manual_seed(0)
    return (
        0.1 * torch.randn(2, 8000, generator=generator),
        torch.tensor([1.0, 0.6]),
    )


@pytest.fixture(scope="session")
def states(clips):
    """Function: encoder -> its hidden states of `clips`, without gradient."""

    def run(encoder):
        with torch.no_grad():
            return encoder(*clips)[0]

    return run


@pytest.fixture(scope="session")
def disturb():
    """Function: moves all that trains in an encoder, as training would."""

    def move(encoder, seed=0):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in encoder.parameters():
                if parameter.requires_grad:
                    noise = torch.randn(parameter.shape, generator=generator)
                    parameter.add_(0.1 * noise)
        return encoder.eval()

    return move
