"""A killed run, started again, ends as if nothing had happened."""

import random

import pytest
from outcomes import same

# In the order of a run; each start is killed at the next one.
PLACES = [
    ("valid.json", 1),
    ("protocol.json", 2),
    ("hyperparams.yaml", 1),
    ("CKPT.yaml", 1),
    ("SHA256SUMS", 1),
    ("history.ckpt", 1),
    ("partial-CKPT", 6),
    ("CKPT.yaml", 2),
    ("epoch_counter.ckpt", 1),
    ("train_log.txt", 1),
    ("model.json", 1),
    ("adapter_config.json", 1),
    (".README.md.", 2),
    ("predictions.csv", 1),
    ("confusion.png", 1),
    ("report.html", 1),
    ("results.json", 1),
    ("results.json", 2),
]
FEW = PLACES[4], PLACES[6], PLACES[12], PLACES[14]


def test_killed_at_every_place(run, unbroken, soak, tmp_path):
    for place in PLACES if soak else FEW:
        end = run(tmp_path / "run", kill_at=place)
        assert end.code == -9, (place, end.log)
        assert not (tmp_path / "run" / "results.json").exists()
    end = run(tmp_path / "run")
    assert end.code == 0, end.log
    same(tmp_path / "run", unbroken.folder)


@pytest.mark.parametrize("workers", [0, 1])
def test_killed_at_any_moment(run, unbroken, soak, tmp_path, workers):
    if not soak:
        pytest.skip("only by make soak")
    whole = unbroken
    if workers:  # they draw other random numbers
        whole = run(tmp_path / "whole", {"num_workers": workers})
        assert whole.code == 0, whole.log
        whole.folder = tmp_path / "whole"
    draw = random.Random(workers)
    for time in range(6):
        folder, kills = tmp_path / f"run{time}", 0
        # Shares of a time measured once: on a busy machine a rough one.
        for most in (0.2, 0.3, 0.4, None):
            after = most and draw.uniform(0.1, most) * whole.seconds
            end = run(folder, {"num_workers": workers}, kill_after=after)
            if end.code == 0:
                break
            assert end.code < 0, end.log
            kills += 1
        assert kills and end.code == 0
        same(folder, whole.folder)


def test_interrupted(run, unbroken, tmp_path):
    """By Ctrl-C: one line, that of a shell's commands as exit status."""
    end = run(tmp_path / "run", interrupt_at=("history.ckpt", 3))
    assert end.code == 130, end.log
    assert "Traceback" not in end.log
    line = end.log.replace("\r", "\n").splitlines()[-1]
    assert line == (
        f"stopped: {tmp_path}/run keeps epochs up to 1; the same command goes "
        "on from there"
    )
    end = run(tmp_path / "run")
    assert end.code == 0, end.log
    same(tmp_path / "run", unbroken.folder)
