"""The commands, as a user types them."""

import csv
import json
import re
import shutil
import subprocess
import sys
from contextlib import nullcontext, redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ser_peft.cli import main
from ser_peft.corpora import CORPORA, ravdess
from ser_peft.data import read_manifests

ROOT = Path(__file__).resolve().parents[1]


def fails(capsys, *argv):
    """The one line of a command that exits with status 2."""
    with pytest.raises(SystemExit) as stop:
        main([str(arg) for arg in argv])
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    # Progress bars overwrite themselves; the message is the last line.
    lines = [line.split("\r")[-1] for line in err.splitlines()]
    (line,) = [line for line in lines if line.startswith("error: ")]
    assert line == lines[-1]
    return line


def table(text):
    """Rows of numbers by their first word."""
    rows = re.findall(r"^(\w+) +(\d+) +(\d+) +(\d+)$", text, re.MULTILINE)
    return {name: [int(n) for n in numbers] for name, *numbers in rows}


@pytest.fixture(scope="module")
def probe(tiny_backbones, manifests, tmp_path_factory):
    """Folder of a probe that the command made, and what it printed."""
    out = tmp_path_factory.mktemp("cli") / "probe"
    command = ["probe", tiny_backbones["whisper"], manifests, "--out", out]
    with redirect_stdout(StringIO()) as printed:
        main([str(part) for part in command])
    return out, printed.getvalue()


def test_prepare_prints_counts(ravdess_tree, tmp_path, capsys):
    main(["prepare", "ravdess", str(ravdess_tree), str(tmp_path / "out")])
    out = capsys.readouterr().out
    about, manifests = read_manifests(tmp_path / "out")
    sha = about["protocol_sha"]
    assert out.startswith(f"ravdess, peft-ser, fold 1 of 5 ({sha})\n")
    assert re.search(r"train +valid +test\n", out)
    assert table(out) == {
        **dict.fromkeys(["neutral", "angry", "sad", "happy"], [15, 4, 5]),
        "speakers": [15, 4, 5],
    }
    assert {len(e) for e in manifests.values()} == {60, 16, 20}


def test_prepare_takes_classes_fold_and_protocol(
    ravdess_tree, tmp_path, capsys
):
    flags = "--classes 8 --fold 5 --protocol peft-ser".split()
    main(["prepare", "ravdess", str(ravdess_tree), str(tmp_path), *flags])
    counts = table(capsys.readouterr().out)
    assert len(counts) == 9 and counts["calm"] == [16, 4, 4]
    assert read_manifests(tmp_path)[0]["fold"] == 5


def test_columns_stand_under_their_heads(
    ravdess_tree, tmp_path, capsys, monkeypatch
):
    """Also where all class names are shorter than "speakers"."""
    short = {"sad": "sad", "happy": "happy"}
    monkeypatch.setitem(ravdess.CLASS_SETS, 2, short)
    flags = ["--classes", "2"]
    main(["prepare", "ravdess", str(ravdess_tree), str(tmp_path), *flags])
    lines = capsys.readouterr().out.splitlines()[1:]
    assert len(lines) == 4 and len({len(line) for line in lines}) == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["nope", "{tree}", "{out}"], "corpus nope: unknown"),
        (["ravdess", "{out}/none", "{out}"], "none: no such folder"),
        (["ravdess", "{out}", "{out}"], "this is not RAVDESS"),
        (["ravdess", "{tree}", "{out}", "--classes", "5"], "classes 5: "),
        (["ravdess", "{tree}", "{out}", "--fold", "6"], "--fold=6: "),
        (["ravdess", "{tree}", "{out}", "--protocol", "x"], "protocol x: "),
    ],
)
def test_prepare_refuses(ravdess_tree, tmp_path, capsys, flags, message):
    argv = [flag.format(tree=ravdess_tree, out=tmp_path) for flag in flags]
    assert message in fails(capsys, "prepare", *argv)
    assert not list(tmp_path.iterdir())


def test_prepare_names_a_broken_file(ravdess_tree, tmp_path, capsys):
    tree = shutil.copytree(ravdess_tree, tmp_path / "tree")
    (tree / "Actor_07" / "03-01-03-01-01-01-07.wav").write_text("no audio")
    line = fails(capsys, "prepare", "ravdess", tree, tmp_path / "out")
    assert "03-01-03-01-01-01-07.wav: cannot be read as audio" in line


def test_probe(probe, tiny_backbones, manifests):
    out, printed = probe
    results = json.loads((out / "results.json").read_text())
    low, high = results["ua_ci95"]
    assert printed == (
        f"linear probe: test UA {results['ua']:.3f} (95 % CI {low:.3f} to "
        f"{high:.3f}), WA {results['wa']:.3f}; report in {out}/report.html\n"
    )
    page = (out / "report.html").read_text()
    assert f"ser-peft probe {tiny_backbones['whisper']} {manifests}" in page


def test_probe_writes_beside_the_manifests(
    tiny_backbones, manifests, tmp_path, capsys
):
    folder = shutil.copytree(manifests, tmp_path / "manifests")
    main(["probe", str(tiny_backbones["hubert"]), str(folder)])
    out = folder / "probe" / "hubert"
    assert str(out) in capsys.readouterr().out
    assert (out / "results.json").exists()
    # The manifests are still manifests.
    read_manifests(folder)


def test_probe_of_all_folds(tiny_backbones, ravdess_tree, tmp_path, capsys):
    backbone, out = tiny_backbones["whisper"], tmp_path / "out"
    argv = ["probe", backbone, "--corpus", "ravdess", "--data_folder"]
    main([*map(str, argv), str(ravdess_tree), "--out", str(out)])
    printed = capsys.readouterr().out
    for fold in range(1, 6):
        folder = out / f"fold{fold}"
        assert read_manifests(folder / "manifests")[0]["fold"] == fold
        results = json.loads((folder / "results.json").read_text())
        assert results["fold"] == fold
        assert f"linear probe of fold {fold}: test UA" in printed
    assert "| probe " in printed and " 5 " in printed
    main(["summarize", str(out)])
    assert capsys.readouterr().out in printed


def test_probe_of_chosen_manifests(
    tiny_backbones, ravdess_tree, manifests, tmp_path, capsys
):
    third = tmp_path / "third"
    flags = ["--fold", "3"]
    main(["prepare", "ravdess", str(ravdess_tree), str(third), *flags])
    backbone, out = tiny_backbones["whisper"], tmp_path / "out"
    argv = ["probe", backbone, "--out", out, third, manifests]
    main([*map(str, argv)])
    assert {p.parent.name for p in out.glob("*/results.json")} == {
        "fold1",
        "fold3",
    }
    line = fails(capsys, "probe", backbone, third, third, "--out", out)
    assert "third: fold 3, as " in line


def test_probe_refuses_folds_that_are_not_there(
    tiny_backbones, ravdess_tree, tmp_path, capsys
):
    argv = ["probe", tiny_backbones["whisper"], "--out", tmp_path / "o"]
    assert "give folders of manifests, or --corpus" in fails(capsys, *argv)
    argv += ["--corpus", "ravdess"]
    assert "--data_folder=... is needed" in fails(capsys, *argv)
    argv += ["--data_folder", ravdess_tree, "--folds", "1-6"]
    assert "peft-ser has folds 1 to 5" in fails(capsys, *argv)
    assert not (tmp_path / "o").exists()


def test_probe_refuses(tiny_backbones, manifests, tmp_path, capsys):
    backbone = tiny_backbones["whisper"]
    line = fails(capsys, "probe", backbone, tmp_path)
    assert "No such file or directory); make the manifests" in line
    line = fails(capsys, "probe", tmp_path, manifests, "--out", tmp_path / "o")
    assert f"backbone {tmp_path}: " in line
    for device in ("cuda:77", "gpu"):
        line = fails(
            capsys, "probe", backbone, manifests, "--device", device,
            "--out", tmp_path / "o",
        )  # fmt: skip
        assert f"--device {device}: " in line
    assert not (tmp_path / "o").exists()


def test_predict(probe, ravdess_tree, capsys):
    clips = [str(path) for path in sorted(ravdess_tree.rglob("*.wav"))[:3]]
    main(["predict", str(probe[0]), *clips])
    out = capsys.readouterr().out
    for line, clip in zip(out.splitlines(), clips, strict=True):
        label, *scores = re.fullmatch(
            re.escape(clip) + r": (\w+)  "
            r"\(neutral (.+)  angry (.+)  sad (.+)  happy (.+)\)",
            line,
        ).groups()
        scores = [float(score) for score in scores]
        names = ["neutral", "angry", "sad", "happy"]
        assert names[scores.index(max(scores))] == label
        assert sum(scores) == pytest.approx(1, abs=0.021)


def test_predict_escapes_names(probe, ravdess_tree, tmp_path, capsys):
    clip = next(ravdess_tree.rglob("*.wav"))
    odd = shutil.copy(clip, tmp_path / "\x1b[2J.wav")
    main(["predict", str(probe[0]), str(odd)])
    out = capsys.readouterr().out
    assert "\x1b" not in out and r"\x1b[2J.wav: " in out


def test_predict_as_json(probe, ravdess_tree, tmp_path, capsys):
    clip = tmp_path / "a clip.flac"
    samples, rate = soundfile.read(next(ravdess_tree.rglob("*.wav")))
    soundfile.write(clip, samples, rate)
    main(["predict", str(probe[0] / "model"), str(clip), "--json"])
    (line,) = capsys.readouterr().out.splitlines()
    answer = json.loads(line)
    assert answer["file"] == str(clip)
    assert answer["label"] == max(answer["scores"], key=answer["scores"].get)


def test_predict_refuses(probe, ravdess_tree, tmp_path, capsys):
    clip = next(ravdess_tree.rglob("*.wav"))
    line = fails(capsys, "predict", tmp_path, clip)
    assert "model.json: cannot be read" in line
    broken = tmp_path / "broken.wav"
    broken.touch()
    line = fails(capsys, "predict", probe[0], clip, broken)
    assert f"{broken}: cannot be read as audio" in line


def test_predict_judges_all_that_it_can(probe, ravdess_tree, tmp_path, capsys):
    good = [str(path) for path in sorted(ravdess_tree.rglob("*.wav"))[:2]]
    main(["predict", "--json", str(probe[0]), *good])
    expected = capsys.readouterr().out
    bad = [tmp_path / "ä b.wav", tmp_path / "voice.m4a"]
    bad[0].touch()
    bad[1].write_bytes(b"\0\0\0\x20ftypM4A " + bytes(99))
    files = good[0], bad[0], good[1], bad[1]
    with pytest.raises(SystemExit) as stop:
        main(["predict", "--json", str(probe[0]), *map(str, files)])
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert out == expected
    *_, first, second, line = err.splitlines()
    assert first.endswith(f"{bad[0]}: cannot be read as audio (an empty file); "
                          "copy or download it again")  # fmt: skip
    assert "voice.m4a" in second and "ffmpeg -i" in second
    assert line.startswith(
        f"error: 2 of 4 recordings cannot be used: {bad[0]}, {bad[1]}; "
    )
    assert err.count("error: ") == 1


def test_summarize(probe, tmp_path, capsys):
    main(["summarize", str(probe[0]), "--out", str(tmp_path / "s.json")])
    out = capsys.readouterr().out
    assert "## ravdess, peft-ser, 4 classes" in out and "| probe " in out
    summary = json.loads((tmp_path / "s.json").read_text())
    results = json.loads((probe[0] / "results.json").read_text())
    (group,) = summary["groups"]
    assert group["ua"]["mean"] == pytest.approx(results["ua"])
    (tmp_path / "none").mkdir()
    assert "no results.json" in fails(capsys, "summarize", tmp_path / "none")


def test_exit_codes_of_the_program(probe, tmp_path):
    def run(*argv):
        command = [sys.executable, "-m", "ser_peft.cli", *map(str, argv)]
        return subprocess.run(command, capture_output=True, text=True)

    done = run("summarize", probe[0])
    assert done.returncode == 0 and done.stderr == ""
    assert "| probe " in done.stdout
    done = run("summarize", tmp_path / "none")
    assert done.returncode == 2 and done.stdout == ""
    assert re.fullmatch(r"error: .*none: no such file.*\n", done.stderr)
    done = run("--help")
    assert done.returncode == 0 and done.stderr == ""
    done = run("summarise")
    assert done.returncode == 2 and "summarize" in done.stderr


# Runs a script, then tells what of the heavy packages it has imported.
IMPORTED = """
import runpy, sys
sys.path.insert(0, sys.argv[1])
sys.argv[1:2] = []
sys.argv[0] = sys.argv.pop(1)
try: runpy.run_path(sys.argv[0], run_name="__main__")
finally: print(*{"HEAVY"} & {*sys.modules}, file=sys.stderr)
"""


def test_a_wrong_flag_is_told_before_the_heavy_imports():
    """torch alone takes its second: the manifests' module needs it."""
    recipe = ROOT / "recipes" / "Custom"
    heavy = "speechbrain transformers peft sklearn scipy matplotlib"
    code = IMPORTED.replace("HEAVY", '","'.join(heavy.split()))
    hparams = recipe / "hparams" / "whisper_lora.yaml"
    done = subprocess.run(
        [sys.executable, "-c", code, recipe, recipe / "train.py", hparams,
         "--bogus=1"], capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    line, imported = done.stderr.splitlines()
    assert line.startswith("error: --bogus: ") and imported == ""


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["prepare"],
        ["probe"],
        ["transcribe"],
        ["compare"],
        ["predict"],
        ["summarize"],
        ["params"],
        ["export"],
        ["evaluate"],
        ["ensemble"],
        ["crossval"],
    ],
)
def test_help_is_quick(command):
    code = (
        "import sys\n"
        "from ser_peft.cli import main\n"
        "try: main(sys.argv[1:] + ['--help'])\n"
        "finally: sys.stderr.write(str('torch' in sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command], capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stderr == "False"
    assert done.stdout.startswith("usage: ser-peft")


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == "ser_peft torch speechbrain peft transformers".split()


def test_a_wrong_command_is_one_line(capsys):
    assert "'bogus'" in fails(capsys, "bogus")
    assert "arguments are required: COMMAND" in fails(capsys)
    assert "--nope; see ser-peft" in fails(capsys, "summarize", "x", "--nope")
    assert "invalid int value" in fails(capsys, "compare", "--repeats", "x")


def test_home_is_expanded(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    line = fails(capsys, "prepare", "custom", "~/my.csv", "--fold", "1", "out")
    assert f"data_folder {tmp_path}/my.csv: no such folder" in line
    assert "no user nobody1" in fails(capsys, "summarize", "~nobody1/x")
    line = fails(capsys, "summarize", "x", "--out", __file__ + "/a/b")
    assert "test_cli.py is no folder that can be written to" in line


def test_help_names_every_corpus(capsys):
    with pytest.raises(SystemExit):
        main(["prepare", "--help"])
    out = capsys.readouterr().out
    assert all(name in out for name in CORPORA)


def test_predict_to_a_table(probe, ravdess_tree, tmp_path, capsys, slurm):
    """Alone, by jobs here or on SLURM, by torchrun: the same rows."""
    bad = tmp_path / "bad.wav"
    bad.touch()
    soundfile.write(tmp_path / "silent.wav", np.zeros(16000), 16000)
    files = [*sorted(ravdess_tree.rglob("*.wav"))[:5], bad,
             tmp_path / "silent.wav"]  # fmt: skip
    argv = [str(arg) for arg in ("predict", probe[0], *files)]
    argv += ["--precision", "fp32", "--out"]
    tables = []
    jobs = ["--jobs", "2"]
    cluster = ["--cluster=slurm", "--slurm", "time=3"]
    ways = {"a": [], "b": jobs, "c": None, "d": cluster}
    for name, more in ways.items():
        out = tmp_path / f"{name} ä.csv"
        if more is None:
            for rank in "10":
                with pytest.MonkeyPatch.context() as patch:
                    patch.setenv("RANK", rank)
                    patch.setenv("WORLD_SIZE", "2")
                    ends = rank == "0"
                    with pytest.raises(SystemExit) if ends else nullcontext():
                        main([*argv, str(out)])
        else:
            with pytest.raises(SystemExit) as stop:
                main([*argv, str(out), *more])
            assert stop.value.code == 2
        text, err = capsys.readouterr()
        assert text.endswith(f"7 files in {out}, 1 of them silent\n")
        assert err.splitlines()[-1] == (
            "error: 1 of 7 recordings cannot be used; the column problem of "
            f"{out} says why"
        )
        assert {p.name for p in tmp_path.glob(f"{name} *")} == {
            out.name, f"{out.name}.json",
        }  # fmt: skip
        with open(out, newline="", encoding="utf-8") as file:
            tables.append([*csv.DictReader(file)])
    for table in tables:
        assert [row["path"] for row in table] == [*map(str, files)]
        problems = [bool(row["problem"]) for row in table]
        assert problems == [*[False] * 5, True, True]
        for row, other in zip(table[:5], tables[0], strict=False):
            assert row["label"] == other["label"]
            assert float(row["sad"]) == pytest.approx(
                float(other["sad"]), abs=2e-6
            )
    line = fails(capsys, *argv[:3], "--jobs", "2")
    assert "--jobs, --cluster slurm: give --out too" in line
    for flag in ("--jobs", "--batch-seconds", "--unsure"):
        assert f"{flag} 0: give more" in fails(capsys, *argv[:3], flag, "0")
