"""A damaged checkpoint is not used, and the run ends as without the damage."""

import random
import shutil

import pytest
from damages import DAMAGES
from outcomes import outcome


@pytest.fixture(scope="module")
def killed(run, tmp_path_factory):
    """Folder of a run that was killed while it saved its last epoch."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    end = run(folder, kill_at=("CKPT.yaml", 4))
    assert end.code == -9, end.log
    assert saved(folder) == ["CKPT+epoch0000", "CKPT+epoch0001", NEWEST]
    shutil.copytree(folder, folder.with_name("copy"))
    return folder


NEWEST = "CKPT+epoch0002"


def saved(folder):
    return sorted(path.name for path in (folder / "save").glob("CKPT+*"))


def test_damaged(run, killed, unbroken, soak):
    """The newest mostly; one before it now and then, and several at once."""
    draw = random.Random(0)
    names = [*DAMAGES] * 3 if soak else draw.sample([*DAMAGES], 2)
    for number, name in enumerate(names):
        shutil.rmtree(killed)
        shutil.copytree(killed.with_name("copy"), killed)
        victim = killed / "save" / NEWEST
        if number % 4 == 1:
            victim = killed / "save" / draw.choice(saved(killed))
        file = DAMAGES[name](victim, draw)
        end = run(killed)
        assert end.code == 0, (name, victim, end.log)
        (line,) = [x for x in end.log.splitlines() if "damaged" in x]
        assert str(victim) in line, (name, line)
        assert file in line or file == "SHA256SUMS", (name, line)
        assert outcome(killed) == outcome(unbroken.folder), (name, victim)


@pytest.mark.parametrize("epoch", [0, 1])
def test_one_that_is_wanted_is_gone(run, killed, unbroken, soak, epoch):
    if not soak and epoch:
        pytest.skip("only by make soak")
    shutil.rmtree(killed)
    shutil.copytree(killed.with_name("copy"), killed)
    shutil.rmtree(killed / "save" / f"CKPT+epoch000{epoch}")
    end = run(killed)
    assert end.code == 0, end.log
    (line,) = [x for x in end.log.splitlines() if "is gone" in x]
    assert f"CKPT+epoch000{epoch}: is gone: left out, and all newer" in line
    assert outcome(killed) == outcome(unbroken.folder)


def test_none_intact(run, killed, unbroken, soak):
    if not soak:
        pytest.skip("only by make soak")
    shutil.rmtree(killed)
    shutil.copytree(killed.with_name("copy"), killed)
    for name in saved(killed):
        DAMAGES["a bit"](killed / "save" / name, random.Random(0))
    end = run(killed)
    assert end.code == 0, end.log
    assert sum("damaged" in line for line in end.log.splitlines()) == 3
    assert outcome(killed) == outcome(unbroken.folder)


def test_only_testing_wants_all_intact(run, killed):
    shutil.rmtree(killed)
    shutil.copytree(killed.with_name("copy"), killed)
    DAMAGES["a bit"](killed / "save" / NEWEST, random.Random(0))
    end = run(killed, {"test_only": True})
    assert end.code == 2
    line = end.log.splitlines()[-1]
    assert line.startswith(f"error: --test_only: {killed}/save holds a damaged")
    assert not (killed / "results.json").exists()
