"""Tables of archives: their rows, and what becomes of killed runs."""

import csv
import json
import tracemalloc

import numpy as np
import pytest
import soundfile
from loudness import Loudness

from ser_peft.errors import InputError
from ser_peft.inference import batches
from ser_peft.inference.archive import Archive, merge, shard_path
from ser_peft.inference.listing import Listing


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Recordings, some of them unusable; groups of 4."""
    monkeypatch.setattr(batches, "CLIPS", 4)
    generator = np.random.default_rng(0)
    folder = tmp_path / "calls ä"
    folder.mkdir()
    for i in range(18):
        wav = generator.normal(0, 0.02 * (i + 1), 1600 * (1 + i % 5)).clip(
            -1, 1
        )
        soundfile.write(folder / f"{i:02}.wav", wav.clip(-1, 1), 16000)
    soundfile.write(folder / "03.wav", np.zeros(8000), 16000)
    (folder / "07.wav").write_bytes(b"no sound")
    (folder / "=cmd\n.wav").write_bytes((folder / "02.wav").read_bytes())
    return folder


def rows(path):
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    with open(path, newline="", encoding="utf-8") as file:
        return [*csv.DictReader(file)]


def write(path, folder, **options):
    archive = Archive(path, Loudness(), batch_seconds=0.5, **options)
    return archive.write(Listing([str(folder)]))


def test_rows(folder, tmp_path):
    path = tmp_path / "new" / "a.csv"
    found = write(path, folder, unsure=0.6)
    assert found == {"files": 19, "problems": 1, "silent": 1}
    table = rows(path)
    assert [*table[0]] == [
        "path", "seconds", "label", "quiet", "loud", "=odd", "unsure",
        "arousal", "problem",
    ]  # fmt: skip
    assert table[3]["problem"] == "silent" and not table[3]["label"]
    assert table[7]["problem"].startswith("cannot be read as audio")
    assert table[7]["seconds"] == "0.000"
    odd = table[-1]
    assert odd["path"] == f"{folder}/=cmd\\n.wav"
    assert odd["seconds"] == "0.300"
    (answer,) = Loudness().predict([folder / "=cmd\n.wav"])
    assert odd["label"] == answer["label"] == "quiet"
    for name, chance in answer["scores"].items():
        assert float(odd[name]) == pytest.approx(chance, abs=1e-6)
    assert float(odd["arousal"]) == pytest.approx(
        answer["dimensions"]["arousal"], rel=1e-5
    )
    best = max(float(odd[name]) for name in answer["scores"])
    assert odd["unsure"] == str(best < 0.6).lower()
    about = json.loads((tmp_path / "new" / "a.csv.json").read_text())
    assert about["finished"] and about["files"] == 19


def test_rows_of_jsonl(folder, tmp_path):
    table, lines = tmp_path / "a.csv", tmp_path / "a.jsonl"
    write(table, folder)
    write(lines, folder)
    for row, one in zip(rows(table), rows(lines), strict=True):
        assert row["path"] == one["path"]
        assert float(row["seconds"]) == one["seconds"]
        assert row["problem"] == one.get("problem", "")
        assert row["label"] == one.get("label", "")
        if row["label"]:
            assert float(row["loud"]) == one["scores"]["loud"]
            assert float(row["arousal"]) == pytest.approx(
                one["dimensions"]["arousal"], rel=1e-5
            )


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_killed_run_goes_on(folder, tmp_path, suffix, monkeypatch):
    whole, path = tmp_path / f"whole{suffix}", tmp_path / f"a{suffix}"
    write(whole, folder)
    scored = []
    judged = Loudness.judged

    def dies(after):
        def groups(self, items, batch_seconds):
            for number, group in enumerate(judged(self, items, batch_seconds)):
                if number == after:
                    raise KeyboardInterrupt
                scored.append(len(group))
                yield group

        return groups

    for after in (2, 0, 1):
        monkeypatch.setattr(Loudness, "judged", dies(after))
        with pytest.raises(KeyboardInterrupt):
            write(path, folder)
        assert not json.loads(path.with_name(path.name + ".json").read_text())[
            "finished"
        ]
        with open(path, "ab") as file:  # as a kill in mid-write leaves it
            file.write(b'"half a r')
    assert path.read_bytes().count(b"\n") == 12 + (suffix == ".csv")
    monkeypatch.setattr(Loudness, "judged", dies(None))
    assert write(path, folder) == {"files": 19, "problems": 1, "silent": 1}
    assert path.read_bytes() == whole.read_bytes()
    assert sum(scored) == 19  # nothing was done twice
    # Finished: nothing is done again, and nothing changes.
    before = path.read_bytes(), path.stat().st_mtime_ns
    assert write(path, folder) == {"files": 19, "problems": 1, "silent": 1}
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert sum(scored) == 19


def test_a_table_cut_anywhere_becomes_whole(folder, tmp_path):
    path = tmp_path / "a.csv"
    write(path, folder)
    whole = path.read_bytes()
    about = tmp_path / "a.csv.json"
    unfinished = json.loads(about.read_text()) | {"finished": False}
    for end in range(0, len(whole), 97):
        path.write_bytes(whole[:end])
        about.write_text(json.dumps(unfinished))
        write(path, folder)
        assert path.read_bytes() == whole


def test_refuses_to_mix(folder, tmp_path):
    path = tmp_path / "a.csv"
    with pytest.raises(InputError, match=r"a.xlsx: .* ends in .csv or .jsonl"):
        Archive(tmp_path / "a.xlsx", Loudness())
    path.write_text("mine\n")
    with pytest.raises(InputError, match="is there already, and not from"):
        write(path, folder)
    assert path.read_text() == "mine\n"
    path.unlink()
    write(path, folder)
    before = path.read_bytes()
    with pytest.raises(InputError, match="begun with unsure None, now .* 0.5"):
        write(path, folder, unsure=0.5)
    (folder / "00.wav").rename(folder / "000.wav")
    with pytest.raises(InputError, match="the recordings have changed"):
        write(path, folder)
    (folder / "000.wav").unlink()
    with pytest.raises(InputError, match="begun with files 19, now it is 18"):
        write(path, folder)
    assert path.read_bytes() == before
    (tmp_path / "a.csv.json").write_text("{")
    with pytest.raises(InputError, match="a.csv.json: is damaged"):
        write(path, folder)


def test_one_writer_at_a_time(folder, tmp_path):
    archive = Archive(tmp_path / "a.csv", Loudness())
    with archive._opened():
        with pytest.raises(InputError, match="another process writes it"):
            write(tmp_path / "a.csv", folder)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
@pytest.mark.parametrize("count", [1, 3, 25])
def test_parts_are_merged_in_order(folder, tmp_path, count, suffix):
    whole, out = tmp_path / f"whole{suffix}", tmp_path / f"a{suffix}"
    write(whole, folder)
    assert merge(out, count) is None
    for number in reversed(range(count)):
        assert merge(out, count) is None
        part = shard_path(out, (number, count))
        archive = Archive(part, Loudness(), batch_seconds=0.5)
        archive.write(Listing([str(folder)]), (number, count))
    assert merge(out, count) == {"files": 19, "problems": 1, "silent": 1}
    assert out.read_bytes() == whole.read_bytes()
    assert not part.parent.exists()
    assert merge(out, count) is None
    # The whole one is finished, as if one process had written it.
    assert write(out, folder) == {"files": 19, "problems": 1, "silent": 1}


def test_memory_does_not_grow_with_the_archive(tmp_path, monkeypatch):
    """Neither audio nor answers pile up, though the writer were slow."""
    monkeypatch.setattr(batches, "CLIPS", 8)
    monkeypatch.setattr(batches, "AHEAD", (8, 1 << 20))
    path = tmp_path / "clip.wav"
    wav = np.random.default_rng(0).normal(0, 0.1, 16000)
    soundfile.write(path, wav, 16000, "FLOAT")
    items = ((str(number), str(path), None) for number in range(400))
    tracemalloc.start()
    try:
        for _ in Loudness().judged(items):
            pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # All clips together are 26 MB; 8 of a group and 8 ahead are 1.
    assert peak < 8e6
