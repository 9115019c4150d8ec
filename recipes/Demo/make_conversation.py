#!/usr/bin/env python3
"""Join clips to one recording, for trying `ser-peft timeline`.

> python make_conversation.py results/demo/manifests/test.json talk.flac

takes clips of a manifest in random order, with pauses of silence or noise
between them. `talk.csv` beside it says where each of them begins and ends, and
its emotion.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
import soundfile

from ser_peft.data import read_audio
from ser_peft.errors import InputError, one_line_errors
from ser_peft.inference.listing import Listing
from ser_peft.io import SAMPLE_RATE, atomic_path
from ser_peft.storage.schema import read_json

PAUSE = (0.7, 2.5)  # seconds
NOISE = (0.0, 0.002, 0.02)  # deviation; the first is digital silence


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("manifest", help="as test.json of a run's manifests")
    parser.add_argument("out", type=Path, help="recording to write, .flac")
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    entries = read_json(
        args.manifest, dict[str, dict], "is no manifest", "give test.json"
    )
    if not 0 < args.clips <= len(entries):
        raise InputError(f"--clips {args.clips}: give 1 to {len(entries)}")
    paths = [path for path, _ in Listing([args.manifest])]
    emotions = [entry["emotion"] for entry in entries.values()]
    rng = np.random.default_rng(args.seed)
    with (
        atomic_path(args.out) as tmp,
        soundfile.SoundFile(tmp, "w", SAMPLE_RATE, 1) as sound,
        atomic_path(args.out.with_suffix(".csv")) as table,
        open(table, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["start", "end", "emotion"])
        end = 0.0
        for number in rng.permutation(len(paths))[: args.clips]:
            frames = int(rng.uniform(*PAUSE) * SAMPLE_RATE)
            sound.write(rng.normal(0, rng.choice(NOISE), frames))
            start = end + frames / SAMPLE_RATE
            wav = read_audio(paths[number]).numpy()
            sound.write(wav)
            end = start + len(wav) / SAMPLE_RATE
            writer.writerow([f"{start:.3f}", f"{end:.3f}", emotions[number]])
    print(f"{args.out}: {args.clips} clips, {end:.0f} s")


if __name__ == "__main__":
    with one_line_errors():
        main()
