"""Of two starts in one folder one trains, and the other says so and goes."""

import os

import pytest
from outcomes import same

from ser_peft.storage.lock import only_process

GAPS = [0, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 1.5, 2]


@pytest.fixture(scope="module")
def other(run, tmp_path_factory):
    """Folder of an unbroken run with another seed."""
    folder = tmp_path_factory.mktemp("other") / "run"
    end = run(folder, {"seed": 9})
    assert end.code == 0, end.log
    return folder


@pytest.mark.parametrize("gap", GAPS)
def test_two_starts(run, argv_of, unbroken, other, soak, tmp_path, gap):
    if not soak and gap not in GAPS[:3:2]:
        pytest.skip("only by make soak")
    folder = tmp_path / "run"
    end = run(folder, rival=(gap, argv_of(folder, seed=9)))
    ends = {8: (end.code, end.log), 9: (end.rival_code, end.rival_log)}
    (winner,) = [seed for seed, (code, _) in ends.items() if code == 0]
    code, log = ends[17 - winner]
    assert code == 2, log
    (line,) = log.splitlines()
    busy = f"error: output_folder {folder}: process "
    over = f"error: output_folder {folder}: holds a run with another 'seed'"
    assert line.startswith((busy, over)), line
    same(folder, {8: unbroken.folder, 9: other}[winner])


def test_shared_manifests(run, argv_of, unbroken, tmp_path):
    """Who comes second waits until they are written."""
    folders = [tmp_path / name for name in "ab"]
    shared = {"manifests_folder": tmp_path / "manifests"}
    end = run(folders[0], shared, rival=(0, argv_of(folders[1], **shared)))
    assert (end.code, end.rival_code) == (0, 0), end.log + end.rival_log
    for folder in folders:
        predictions = (folder / "predictions.csv").read_bytes()
        expected = (unbroken.folder / "predictions.csv").read_bytes()
        assert predictions == expected


def test_two_processes_are_refused_as_one(run, tmp_path):
    """Nobody else says a word."""
    with only_process(tmp_path / "run", "output_folder"):
        end = run(
            tmp_path / "run", {"distributed_backend": "gloo"}, processes=2
        )
        assert os.listdir(tmp_path / "run") == [".lock"]
    assert end.code == 2
    (line,) = end.log.splitlines()
    assert f"process {os.getpid()} on" in line


def test_two_processes_are_one(run, argv_of, tmp_path):
    """Both of a run that has the folder go on."""
    given = {"distributed_backend": "gloo", "number_of_epochs": 1}
    folder = tmp_path / "run"
    end = run(folder, given, processes=2, rival=(1, argv_of(folder, seed=9)))
    assert end.code == 0, end.log
    assert end.rival_code == 2 and end.rival_log.count("\n") == 1
