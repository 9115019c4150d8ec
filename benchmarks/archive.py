"""An archive of recordings, beside the ways people take without one.

The files of a corpus are linked until there are enough of them. Rounds of
the same three things, on the same threads, their medians compared: a loop
that calls ``predict`` file by file, the model as it was trained; Hugging
Face's ``pipeline("audio-classification")`` with the same encoder and a random
head, on decoded arrays, of its faster batch size; and ``ser-peft predict
--out``. Then the command goes through all files, once undisturbed and once
killed twice; the tables must be the same.

> python benchmarks/archive.py results/whisper_lora --data RAVDESS \
      --whisper openai/whisper-tiny.en
"""

import argparse
import filecmp
import os
import re
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from statistics import median

import soundfile
import torch
from transformers import (
    WhisperFeatureExtractor,
    WhisperForAudioClassification,
    pipeline,
)

from ser_peft import load_model
from ser_peft.errors import one_line_errors
from ser_peft.inference.archive import Archive
from ser_peft.inference.listing import Listing


def main():
    """Measure what the command line asks for, print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("model", help="a finished run of a Whisper")
    add("--data", required=True, help="folder with recordings")
    add("--whisper", required=True, help="the run's encoder: folder or id")
    add("--files", type=int, default=5000)
    add("--rounds", type=int, default=3)
    add("--threads", type=int, default=torch.get_num_threads())
    add("--precision", default="auto")
    add("--onnx", nargs="*", default=[], help="exports of it, as further rows")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with one_line_errors(), tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "archive"
        files = link(args.data, folder, args.files)
        rates = rounds(args, files, Path(temporary))
        for name, rate in rates.items():
            mine = rates["archive"] / rate
            print(f"{name}: {rate:.1f} files/s; archive: {mine:.2f} times")
        whole(args, folder, Path(temporary))


def link(data, folder, count):
    """Link the recordings of a folder until there are `count`."""
    found = [path for path, _ in Listing([str(data)])]
    folder.mkdir()
    files = []
    for number in range(count):
        path = Path(found[number % len(found)]).resolve()
        files.append(folder / f"{number:06}{path.suffix}")
        files[-1].symlink_to(path)
    return [*map(str, files)]


def rounds(args, files, temporary):
    """Rates in files a second, medians of the rounds."""
    plain = load_model(args.model)
    ready = load_model(args.model).optimize_for_inference(args.precision)
    stock = classifier(args.whisper)
    ways = {
        "loop": (lambda some: [plain.predict([path]) for path in some], 100),
        **{
            f"pipeline, batches of {size}": (
                lambda some, size=size: [*stock(arrays(some), batch_size=size)],
                24,
            )
            for size in (1, 8)
        },
        "archive": (lambda some: table(ready, some, temporary), 768),
    }
    for path in args.onnx:
        model = load_model(path)
        ways[Path(path).stem] = (
            lambda some, model=model: table(model, some, temporary), 768,
        )  # fmt: skip
    rates = {name: [] for name in ways}
    for number in range(-1, args.rounds):  # the first one warms up
        for name, (way, count) in ways.items():
            some = files[: 8 if number < 0 else count]
            start = time.perf_counter()
            way(some)
            if number >= 0:
                rates[name].append(len(some) / (time.perf_counter() - start))
    return {name: median(found) for name, found in rates.items()}


def classifier(whisper):
    """Hugging Face's pipeline with the same encoder and a random head."""
    model = WhisperForAudioClassification.from_pretrained(
        whisper, num_labels=4, dtype=torch.float32
    )
    extractor = WhisperFeatureExtractor.from_pretrained(whisper)
    return pipeline(
        "audio-classification", model, feature_extractor=extractor, device="cpu"
    )


def arrays(paths):
    """Decoded recordings, one by one: the pipeline itself needs ffmpeg."""
    for path in paths:
        wav, rate = soundfile.read(path, dtype="float32")
        yield {"raw": wav, "sampling_rate": rate}


def table(model, paths, temporary):
    """Write a table of some files."""
    out = temporary / f"{time.monotonic_ns()}.csv"
    Archive(out, model).write(Listing(paths))


def whole(args, folder, temporary):
    """Go through all files by the command, and again, killed twice."""
    command = [
        sys.executable, "-m", "ser_peft.cli", "predict", args.model,
        str(folder), "--precision", args.precision, "--out",
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": str(args.threads)}
    out, again = temporary / "whole.csv", temporary / "killed.csv"
    start = time.perf_counter()
    _, seconds, memory = run([*command, str(out)], environment)
    print(
        f"all {args.files} files: {args.files / seconds:.1f} files/s with "
        f"the start, peak memory {memory:.0f} MiB"
    )
    _, _, few = run(
        [*command[:5], *map(str, sorted(folder.iterdir())[:200]),
         *command[6:], str(temporary / "few.csv")], environment,
    )  # fmt: skip
    print(f"200 files: peak memory {few:.0f} MiB")
    for kill in (0.3 * seconds, 0.5 * seconds, None):
        code, *_ = run([*command, str(again)], environment, kill)
        rows = len(again.read_bytes().splitlines()) - 1 if again.exists() else 0
        print(f"exit code {code}, {rows} rows")
    print("the tables are the same:", filecmp.cmp(out, again, shallow=False))
    print(f"{time.perf_counter() - start:.0f} s in all")


def run(command, environment, kill=None):
    """Run a command; returns its exit code, seconds, and peak MiB."""
    start, peak = time.perf_counter(), 0
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL
    )
    while process.poll() is None:
        time.sleep(0.1)
        if kill and time.perf_counter() - start > kill:
            process.kill()
        # Not of rusage: that counts what this process had when it forked.
        with suppress(FileNotFoundError):
            status = Path(f"/proc/{process.pid}/status").read_text()
            found = re.search(r"VmHWM:\s+(\d+)", status)
            peak = int(found[1]) / 1024 if found else peak
    return process.returncode, time.perf_counter() - start, peak


if __name__ == "__main__":
    main()
