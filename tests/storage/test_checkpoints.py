"""Checkpoints are whole or not there, and go on where they were."""

import multiprocessing
import os
import random
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from damages import DAMAGES
from safetensors.torch import load_file, save_file
from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)

from ser_peft.storage.checkpoints import SafeCheckpointer, load_mean


@register_checkpoint_hooks
class Number(torch.nn.Module):
    """One trained tensor and two buffers, saved as safetensors."""

    def __init__(self, value=0.0, on_save=lambda: None):
        super().__init__()
        self.value = torch.nn.Parameter(torch.tensor([value]))
        self.register_buffer("measured", torch.tensor([value]))
        self.register_buffer("counted", torch.tensor(int(value)))
        self.on_save = on_save

    @mark_as_saver
    def save(self, path):
        Path(path).write_bytes(b"the first half of")
        self.on_save()
        save_file(self.state_dict(), path)

    @mark_as_loader
    def load(self, path, end_of_epoch=True):
        self.load_state_dict(load_file(path))


def checkpointer(folder, value=0.0, on_save=lambda: None):
    """Two recoverables; `on_save` runs in the middle of the second."""
    recoverables = {"first": Number(value), "second": Number(value, on_save)}
    return SafeCheckpointer(folder, recoverables)


def recovered(folder):
    """Values that a new process would go on with."""
    new = checkpointer(folder, -1.0)
    new.recover_if_possible()
    return [float(r.value.detach()) for r in new.recoverables.values()]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def in_a_child(function, *args):
    """Run `function` in a process of its own, which is to be killed."""
    child = multiprocessing.get_context("fork").Process(
        target=function, args=args
    )
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL


def test_saved_and_recovered(tmp_path):
    saver = checkpointer(tmp_path, 3.0)
    saved = saver.save_checkpoint(meta={"epoch": 2})
    assert recovered(tmp_path) == [3.0, 3.0]
    assert saved.path.is_dir()
    assert sorted(p.name for p in saved.path.iterdir()) == [
        "CKPT.yaml",
        "SHA256SUMS",
        "first.ckpt",
        "second.ckpt",
    ]
    assert saved.path.name == "CKPT+epoch0002"
    assert saved.paramfiles == saver.find_checkpoint().paramfiles
    assert saver.find_checkpoint().meta["epoch"] == 2
    # As the tool of that name checks them.
    command = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    subprocess.run(command, cwd=saved.path, check=True, capture_output=True)


def test_killed_while_saving(tmp_path):
    before = checkpointer(tmp_path, 1.0)
    before.save_checkpoint()
    (whole,) = names(tmp_path)

    def save():
        checkpointer(tmp_path, 2.0, on_save=kill).save_checkpoint()

    in_a_child(save)
    assert len(names(tmp_path)) == 2
    # Nobody takes the half one, not even before it is swept away.
    assert [c.path.name for c in before.list_checkpoints()] == [whole]
    assert recovered(tmp_path) == [1.0, 1.0]
    assert names(tmp_path) == [whole]


def test_an_error_while_saving(tmp_path):
    """As of a full disk; the same process may try again."""

    def full():
        raise OSError(28, "No space left on device")

    saver = checkpointer(tmp_path, 1.0)
    saver.save_checkpoint()
    saver.recoverables["second"].on_save = full
    with pytest.raises(OSError, match="No space"):
        saver.save_checkpoint()
    assert len(saver.list_checkpoints()) == 1
    saver.recoverables["second"].on_save = lambda: None
    saver.recoverables["first"].value.data.fill_(5.0)
    saver.save_and_keep_only()
    assert len(saver.list_checkpoints()) == 1
    assert recovered(tmp_path) == [5.0, 1.0]
    assert len(names(tmp_path)) == 1


@pytest.mark.parametrize("first_gone", ["CKPT.yaml", "first.ckpt"])
def test_killed_while_deleting(tmp_path, first_gone, monkeypatch):
    def delete(path):
        os.unlink(Path(path) / first_gone)
        kill()

    def save():
        saver = checkpointer(tmp_path)
        for value, rank in ((1.0, 0.3), (2.0, 0.9), (3.0, 0.5)):
            for recoverable in saver.recoverables.values():
                recoverable.value.data.fill_(value)
            saver.save_checkpoint(meta={"rank": rank})
        monkeypatch.setattr(shutil, "rmtree", delete)
        saver.delete_checkpoints(max_keys=["rank"])

    in_a_child(save)
    assert len(names(tmp_path)) == 3
    assert recovered(tmp_path) == [3.0, 3.0]
    again = checkpointer(tmp_path)
    best = again.find_checkpoint(max_key="rank")
    assert best.meta["rank"] == 0.9
    again.load_checkpoint(best)
    assert float(again.recoverables["first"].value.detach()) == 2.0
    again.delete_checkpoints(max_keys=["rank"])
    assert len(names(tmp_path)) == 2


def test_a_name_given_again_is_replaced(tmp_path):
    for value in (1.0, 2.0):
        saved = checkpointer(tmp_path, value).save_checkpoint(name="mine")
    assert names(tmp_path) == ["CKPT+mine"]
    assert saved.path == tmp_path / "CKPT+mine"
    assert recovered(tmp_path) == [2.0, 2.0]


def test_others_files_stay(tmp_path):
    (tmp_path / "backbone").mkdir()
    (tmp_path / "notes.txt").touch()
    checkpointer(tmp_path)
    assert names(tmp_path) == ["backbone", "notes.txt"]


# -------------------------------------------------------------------- damage


def save_epochs(folder, ranks, saver=None):
    """A checkpoint an epoch, whose first value is the epoch's number."""
    saver = saver or checkpointer(folder)
    for epoch, rank in ranks.items():
        for value, recoverable in enumerate(saver.recoverables.values(), epoch):
            recoverable.value.data.fill_(value)
        saver.save_and_keep_only(
            meta={"epoch": epoch, "rank": rank}, max_keys=["rank"]
        )
    return saver


def epochs(saver):
    return sorted(c.meta["epoch"] for c in saver.list_checkpoints())


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_found_whatever_it_is(tmp_path, caplog, name):
    save_epochs(tmp_path, {1: 0.9, 2: 0.5})
    victim = tmp_path / "CKPT+epoch0002"
    file = DAMAGES[name](victim, random.Random(name))
    assert recovered(tmp_path) == [1.0, 2.0]
    (warning,) = [m for m in caplog.messages if "damaged" in m]
    assert warning.startswith(f"{victim}: damaged (")
    assert file in warning or file == "SHA256SUMS"
    # Done again, it is as if nothing had happened.
    saver = save_epochs(tmp_path, {2: 0.5})
    assert epochs(saver) == [1, 2] and recovered(tmp_path) == [2.0, 3.0]
    assert names(tmp_path) == ["CKPT+epoch0001", "CKPT+epoch0002"]


def test_what_follows_a_damaged_one_waits_for_it(tmp_path):
    """Or the best were chosen among others than without the damage."""
    save_epochs(tmp_path, {1: 0.2, 2: 0.9, 3: 0.1, 4: 0.3})
    assert names(tmp_path) == ["CKPT+epoch0002", "CKPT+epoch0004"]
    DAMAGES["a bit"](tmp_path / "CKPT+epoch0002", random.Random(0))
    saver = checkpointer(tmp_path)
    assert saver.recover_if_possible() is None
    save_epochs(tmp_path, {1: 0.2}, saver)
    assert epochs(saver) == [1]
    # Killed here, the next one finds the same.
    saver = checkpointer(tmp_path)
    assert saver.recover_if_possible().meta["epoch"] == 1
    save_epochs(tmp_path, {2: 0.9}, saver)
    assert epochs(saver) == [2, 4]
    save_epochs(tmp_path, {3: 0.1, 4: 0.3}, saver)
    assert epochs(saver) == [2, 4]
    assert names(tmp_path) == ["CKPT+epoch0002", "CKPT+epoch0004"]


def test_hashed_once_a_process(tmp_path, monkeypatch):
    save_epochs(tmp_path, {1: 0.2, 2: 0.1})
    hashed = []
    monkeypatch.setattr(
        "ser_peft.storage.checkpoints._check_hashes",
        lambda path: hashed.append(path),
    )
    saver = checkpointer(tmp_path)
    save_epochs(tmp_path, {3: 0.3, 4: 0.4}, saver)
    assert [path.name[-1] for path in hashed] == ["1", "2"]


def test_of_an_earlier_version(tmp_path, caplog):
    """Without hashes, called after the time: used, and that is said."""
    saver = checkpointer(tmp_path, 1.0)
    for epoch in (1, 2):
        saver.save_checkpoint(meta={"epoch": epoch}, name=f"2026+{epoch}")
    for path in tmp_path.glob("*/SHA256SUMS"):
        path.unlink()
    assert recovered(tmp_path) == [1.0, 1.0]
    assert [m for m in caplog.messages if "an earlier version" in m]
    # Damaged it is left out.
    (tmp_path / "CKPT+2026+2" / "CKPT.yaml").write_bytes(b"")
    saver = checkpointer(tmp_path, 2.0)
    assert saver.recover_if_possible().meta["epoch"] == 1
    save_epochs(tmp_path, {2: 0.1}, saver)
    assert names(tmp_path) == ["CKPT+epoch0002"]


# --------------------------------------------------------------------- clocks


def test_newer_is_the_later_epoch(tmp_path, monkeypatch):
    """Also among equal ranks, and whatever is deleted."""
    days = iter(range(100, 0, -1))
    monkeypatch.setattr("time.time", lambda: 86400.0 * next(days))
    for epoch in range(1, 5):
        saver = save_epochs(tmp_path, {epoch: 0.5})
        assert saver.find_checkpoint().meta["epoch"] == epoch
        assert saver.find_checkpoint(max_key="rank").meta["epoch"] == epoch
        assert epochs(saver) == [epoch]


# ---------------------------------------------------------------------- means


def test_mean_of_checkpoints(tmp_path):
    for value in (1.0, 2.0, 6.0):
        Number(value).save(tmp_path / f"{value}")
    module = Number()
    load_mean(module, [tmp_path / "2.0", tmp_path / "1.0", tmp_path / "6.0"])
    assert module.value.tolist() == [3.0]
    assert module.measured.tolist() == [3.0]
    # Whole numbers are those of the last.
    assert int(module.counted) == 6
    load_mean(module, [tmp_path / "6.0"])
    assert module.value.tolist() == [6.0]
