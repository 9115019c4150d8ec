"""The ONNX file of a model, in float32 and in int8, beside torch.

All three give the scores of the same clips by `Recognizer.score`; they take
turns, so that whatever else the machine does hits all of them, and medians are
compared. torch has the adapter merged and computes in float32.

> python benchmarks/onnx_speed.py results/whisper_lora --out results.json
> python benchmarks/onnx_speed.py whisper wavlm --clock cpu
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import peft
import torch
from train_step import MODELS, quiet, write_checkpoint

from ser_peft.adapters import PeftLobe
from ser_peft.errors import one_line_errors
from ser_peft.heads import ProbeMixHead
from ser_peft.inference import EmotionModel, load_model, load_onnx
from ser_peft.inference.onnx_export import export_onnx
from ser_peft.io import SAMPLE_RATE, write_json
from ser_peft.lobes import load_lobe

CLASSES = ["neutral", "angry", "sad", "happy"]
SIDES = "torch", "fp32", "int8"
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def main():
    """Measure what the command line asks for, print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    kinds = ", ".join(MODELS)
    add("models", nargs="+", help=f"runs, or {kinds}: with random weights")
    add("--seconds", type=float, default=3.7, help="of a clip (%(default)s)")
    add("--batches", nargs="+", type=int, default=[1, 16], help="clips in one")
    add("--rounds", type=int, default=15, help="timed (%(default)s)")
    add("--threads", type=int, default=1)
    add(
        "--clock", choices=CLOCKS, default="wall",
        help="cpu: processor time, fair on a busy machine (--threads 1)",
    )  # fmt: skip
    add("--out", type=Path, help="write the measurements to this JSON file")
    args = parser.parse_args()
    quiet()
    torch.set_num_threads(args.threads)
    print("| model | clips | torch, ms | fp32, ms | int8, ms | MB | MB, int8 |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    rows = []
    with one_line_errors(), tempfile.TemporaryDirectory() as folder:
        for name in args.models:
            models, sizes = load(name, Path(folder) / Path(name).name, args)
            for clips in args.batches:
                times = measure(models, clips, args)
                row = {"model": name, "clips": clips, "ms": times, **sizes}
                rows.append(row)
                print_row(row)
    if args.out:
        write_json(
            args.out, {"settings": {**vars(args), "out": None}, "rows": rows}
        )


def load(name, folder, args):
    """The three models, and the sizes of the two files in bytes."""
    run = Path(name)
    if name in MODELS:
        run = folder / "run"
        write_checkpoint(name, folder / "backbone", None)
        encoder = PeftLobe(load_lobe(folder / "backbone"), peft.LoraConfig())
        head = ProbeMixHead(encoder, CLASSES)
        EmotionModel(encoder, head, CLASSES).save(run / "model")
    models = {"torch": load_model(run).optimize_for_inference("fp32")}
    sizes = {}
    for side in SIDES[1:]:
        path = folder / f"{side}.onnx"
        about = export_onnx(run, path, int8=side == "int8")
        models[side] = load_onnx(path, args.threads)
        sizes[f"{side}_bytes"] = os.path.getsize(path)
    return models, {**sizes, "about": about}


def measure(models, clips, args):
    """Median milliseconds of each side for one batch."""
    wavs = np.random.default_rng(0).normal(
        0, 0.1, (clips, round(args.seconds * SAMPLE_RATE))
    )
    wavs, lengths = wavs.astype(np.float32), np.full(clips, wavs.shape[1])
    clock, times = CLOCKS[args.clock], {side: [] for side in SIDES}
    for number in range(2 + args.rounds):
        for side, model in models.items():
            start = clock()
            model.score(wavs, lengths)
            if number >= 2:  # the first ones warm up
                times[side].append(1000 * (clock() - start))
    return {side: statistics.median(taken) for side, taken in times.items()}


def print_row(row):
    """Print a row of the table, with how many times as fast as torch."""
    taken = row["ms"]
    cells = [row["model"], row["clips"], f"{taken['torch']:.1f}"]
    for side in SIDES[1:]:
        ratio = taken["torch"] / taken[side]
        cells.append(f"{taken[side]:.1f} ({ratio:.2f})")
    for side in SIDES[1:]:
        cells.append(f"{row[f'{side}_bytes'] / 1e6:.1f}")
    print("|", " | ".join(map(str, cells)), "|", flush=True)


if __name__ == "__main__":
    main()
