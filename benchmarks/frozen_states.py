"""Epochs in which the states of frozen layers are kept, and epochs without.

Trains with the recipe of RAVDESS, twice each: with ``--cache_gb=0`` every
epoch computes everything anew, else the hidden states below the lowest
trained layer are kept. Clips are whole (``--augment=False``). An epoch is
training and validation; the fastest one behind the first is taken. The
probabilities that both give the test clips are compared.

> python benchmarks/frozen_states.py --data RAVDESS \
      --whisper openai/whisper-tiny.en
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from speechbrain.utils.distributed import infer_device

from ser_peft.errors import InputError, one_line_errors
from ser_peft.io import write_json

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "RAVDESS"
CLASSES = ("01", "03", "04", "05")


def main():
    """Measure what the command line asks for, print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--data", required=True, help="RAVDESS: holds Actor_01 ... Actor_24")
    add("--whisper", required=True, help="weights: folder or id")
    add("--models", nargs="+", default=["whisper", "wavlm"])
    add("--methods", nargs="+", default=["frozen", "lora"])
    add("--clips", type=int, default=4, help="of each actor (%(default)s)")
    add("--epochs", type=int, default=3)
    add("--threads", type=int, default=torch.get_num_threads())
    add("--precision", default="fp32")
    add("--device", default=infer_device())
    add("--out", type=Path, help="write the measurements to this JSON file")
    args = parser.parse_args()
    if args.epochs < 2:
        parser.error("--epochs: at least 2; the first one fills the cache")
    rows = []
    print(
        f"{args.threads} CPU thread(s), {args.device}, {args.precision}\n\n"
        "| model | method | epoch, s | epoch, kept, s | ratio | "
        "probabilities differ by |\n|---|---|---|---|---|---|",
        flush=True,
    )
    with one_line_errors(), tempfile.TemporaryDirectory() as temporary:
        data = link_clips(Path(args.data), Path(temporary), args.clips)
        for model in args.models:
            backbone, layers = args.whisper, 4
            if model == "wavlm":
                backbone, layers = write_wavlm(Path(temporary)), 12
            top = list(range(layers // 2, layers))
            for method in args.methods:
                more = []
                if method != "frozen":
                    more = [f"--encoder={{layers: {top}}}"]
                ends = [
                    train(
                        data, Path(temporary), backbone, method, more, gb, args
                    )
                    for gb in (0, 16)
                ]
                (plain, chances), (kept, others) = ends
                row = {
                    "model": model,
                    "method": method
                    if method == "frozen"
                    else "LoRA, top half",
                    "epoch_s": plain,
                    "kept_s": kept,
                    "difference": max(
                        abs(a - b) for a, b in zip(chances, others, strict=True)
                    ),
                }
                rows.append(row)
                print(
                    f"| {model} | {row['method']} | {plain:.1f} | {kept:.1f} | "
                    f"{plain / kept:.1f} | {row['difference']:.1e} |",
                    flush=True,
                )
                if args.out:
                    settings = {k: str(v) for k, v in vars(args).items()}
                    write_json(args.out, {"settings": settings, "rows": rows})


def link_clips(source, folder, count):
    """A smaller RAVDESS: some clips of each actor and class."""
    actors = sorted(source.glob("Actor_*"))
    if len(actors) != 24:
        raise InputError(f"--data={source}: holds no Actor_01 ... Actor_24")
    for actor in actors:
        target = folder / "RAVDESS" / actor.name
        target.mkdir(parents=True)
        for emotion in CLASSES:
            clips = sorted(actor.glob(f"03-01-{emotion}-*"))
            for clip in clips[: max(1, count // len(CLASSES))]:
                (target / clip.name).symlink_to(clip.resolve())
    return folder / "RAVDESS"


def write_wavlm(folder):
    """A WavLM of the base shape with random weights."""
    torch.manual_seed(0)
    folder = folder / "wavlm"
    transformers.utils.logging.disable_progress_bar()
    transformers.WavLMModel(transformers.WavLMConfig()).save_pretrained(folder)
    return folder


def train(data, folder, backbone, method, more, gigabytes, args):
    """Seconds of the fastest epoch behind the first; probabilities."""
    out = folder / f"{Path(backbone).name}-{method}-{gigabytes}"
    command = [
        *(sys.executable, "train.py", "hparams/whisper_lora.yaml"),
        f"--method={method}",
        *(f"--data_folder={data}", f"--output_folder={out}", "--fold=5"),
        *(f"--backbone={Path(backbone).resolve()}", "--augment=False"),
        *("--crop=1", "--start_from_probe=False", "--robustness=False"),
        *(f"--number_of_epochs={args.epochs}", f"--cache_gb={gigabytes}"),
        *(f"--precision={args.precision}", f"--device={args.device}"),
        *("--num_workers=0", "--noprogressbar", *more),
    ]
    threads = {"OMP_NUM_THREADS": str(args.threads)}
    end = subprocess.run(
        command,
        cwd=RECIPE,
        env=os.environ | threads,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if end.returncode:
        raise InputError(f"{' '.join(command)}: {end.stderr[-500:]}")
    histories = out.glob("save/CKPT*/history.ckpt")
    epochs = max((json.loads(h.read_text()) for h in histories), key=len)
    with open(out / "predictions.csv", newline="") as file:
        rows = list(csv.reader(file))[1:]
    chances = [float(cell) for row in rows for cell in row[4:]]
    return min(epoch["seconds"] for epoch in epochs[1:]), chances


if __name__ == "__main__":
    main()
