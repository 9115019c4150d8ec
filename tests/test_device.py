"""Where to compute, and what loads the audio meanwhile."""

import pytest

from ser_peft.device import loader_workers


@pytest.mark.parametrize(
    "asked, device, cores, processes, workers",
    [
        (3, "cuda:0", 16, 1, 3),
        (0, "cuda", 16, 1, 0),
        ("auto", "cpu", 16, 1, 1),
        ("auto", "cuda", 16, 1, 8),
        ("auto", "cuda:1", 16, 4, 3),
        ("auto", "mps", 2, 4, 1),
    ],
)
def test_loader_workers(monkeypatch, asked, device, cores, processes, workers):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    assert loader_workers(asked, device) == workers
