"""Timelines and streams: labels, memory, and speed.

A recording is made of the clips of a run's manifests, which the run may have
heard or not (`--split`), with stretches of silence, white noise, pink noise,
hum and synthetic music between. Its timeline is compared with what was put
where: speech is a clip from the first to the last 25 ms that are within 30 dB
of its loudest, pauses of 0.3 s and what lies beyond them left out. Timelines
of a minute and of the whole recording are made in fresh processes, whose peak
memory is compared. Then the recording is pushed through a stream. Times are
those of the processor: with one thread, those on a machine that is free.

> python benchmarks/timeline.py RUN --minutes 60 --out results.json
"""

import argparse
import json
import os
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import soundfile

from ser_peft.data import read_manifests, root_of
from ser_peft.data.audio import Recording
from ser_peft.errors import one_line_errors
from ser_peft.io import write_json

RATE = 16000
FRAME = 0.01  # seconds; what labels are compared in
LEVELS = 15, 30  # dB under the speech
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def main():
    """Measure what the command line asks for, print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("run", type=Path, help="a finished run, with its manifests")
    add("--split", default="test", help="(%(default)s)")
    add("--minutes", type=float, default=60, help="(%(default)s)")
    gaps = "shortest and longest stretch between clips, s (%(default)s)"
    add("--gaps", type=float, nargs=2, default=(0.3, 5), help=gaps)
    add("--tight", action="store_true", help="without the clips' own silence")
    add("--window", type=float, default=4.0, help="s (%(default)s)")
    add("--hop", type=float, default=1.0, help="s (%(default)s)")
    add("--chunk", type=float, default=0.1, help="pushed at once, s")
    add("--threads", type=int, default=1, help="(%(default)s)")
    add("--seed", type=int, default=0, help="(%(default)s)")
    add("--out", type=Path, help="write the measurements to this JSON file")
    args = parser.parse_args()
    os.environ |= dict.fromkeys(THREADS, str(args.threads))
    with one_line_errors(), tempfile.TemporaryDirectory() as folder:
        result = measure(args, Path(folder))
        print(json.dumps(result, indent=2))
        if args.out:
            write_json(args.out, result)


def measure(args, folder):
    """All figures, as a dict."""
    path, minute = folder / "recording.wav", folder / "minute.wav"
    truth = make(path, args)
    wav, _ = soundfile.read(path, stop=60 * RATE, dtype="int16")
    soundfile.write(minute, wav, RATE)
    how = args.run, args.window, args.hop, args.threads
    short = in_own_process(follow, minute, *how)
    whole = in_own_process(follow, path, *how)
    stream = in_own_process(push, path, *how, args.chunk)
    rows = whole.pop("segments")
    return {
        "labels": compare(rows, truth, whole["seconds"]),
        "timeline": whole,
        "memory_of_a_minute_mb": short["peak_mb"],
        "stream": stream,
    }


def in_own_process(function, *args):
    """Call `function` in a fresh Python process and return its result."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def make(path, args):
    """Write the recording; return (start, end, what) of all in it, in s."""
    about, manifests = read_manifests(args.run / "manifests")
    root = root_of(about["data_folder"])
    entries = [*manifests[args.split].values()]
    rng = np.random.default_rng(args.seed)
    truth, at, order = [], 0, []
    with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as file:

        def write(wav):
            nonlocal at
            at += len(wav)
            noise = 1e-4 * rng.standard_normal(len(wav))
            file.write(np.clip(wav + noise, -1, 1))

        number = 0
        while at < args.minutes * 60 * RATE:
            order = order or rng.permutation(len(entries)).tolist()
            entry = entries[order.pop()]
            kind = [*KINDS][number % len(KINDS)]
            # Now and then, a stretch of it alone.
            seconds = 10 if number % 8 == 7 else rng.uniform(*args.gaps)
            level = 0.2 * 10 ** (-rng.uniform(*LEVELS) / 20)
            size = int(RATE * seconds)
            truth.append((at / RATE, (at + size) / RATE, kind))
            write(level * KINDS[kind](size, rng))
            wav = Recording(entry["wav"].replace("{data_root}", root)).read()
            wav *= 0.5 / max(np.abs(wav).max(), 0.1)
            start, stop = speech_of(wav)
            if args.tight:
                wav, start, stop = wav[start:stop], 0, stop - start
            label = "=" + entry["emotion"]
            truth.append(((at + start) / RATE, (at + stop) / RATE, label))
            write(wav)
            number += 1
    return truth


def speech_of(wav):
    """First and last sample of the speech in a clip without noise."""
    frames = np.lib.stride_tricks.sliding_window_view(wav, 400)[::160]
    power = np.sqrt((frames**2).mean(1))
    loud = np.flatnonzero(power > power.max() * 10 ** (-30 / 20))
    runs = np.split(loud, np.flatnonzero(np.diff(loud) > 30) + 1)
    best = max(runs, key=lambda run: power[run].sum())
    return best[0] * 160, best[-1] * 160 + 400


def silence(size, rng):
    """Zeros."""
    return np.zeros(size)


def white(size, rng):
    """White noise of power 1."""
    return rng.standard_normal(size)


def pink(size, rng):
    """Noise of equal power in each octave."""
    spectrum = np.fft.rfft(rng.standard_normal(size))
    spectrum[0] = 0
    spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
    wav = np.fft.irfft(spectrum, size)
    return wav / wav.std()


def hum(size, rng):
    """Mains hum: 50 Hz and its harmonics."""
    at = np.arange(size) / RATE
    wav = sum(
        np.sin(2 * np.pi * 50 * k * at + rng.uniform(0, 6)) / k
        for k in range(1, 9)
    )
    return wav / wav.std()


def music(size, rng):
    """Chords, a melody and a drum."""
    wav = np.zeros(size + RATE)
    beat = int(RATE * rng.uniform(0.35, 0.6))
    roots = 220 * 2 ** (rng.choice([0, -4, -2, 3, 5], 8) / 12)
    for number, start in enumerate(range(0, size, beat)):
        at = np.arange(min(2 * beat, len(wav) - start)) / RATE
        root = roots[number // 4 % 8]
        third = 3 + number // 4 % 2
        notes = [(root * 2 ** (step / 12), 1, 3) for step in (0, third, 7)]
        step = rng.choice([12, 14, 15, 17, 19, 24])
        notes.append((root * 2 ** (step / 12), 1.2, 5))
        for hertz, loud, decay in notes:
            tone = sum(
                np.sin(2 * np.pi * hertz * k * at) / k**1.5 for k in range(1, 7)
            )
            wav[start : start + len(at)] += loud * tone * np.exp(-decay * at)
        drum = 2 * np.exp(-40 * at) * rng.standard_normal(len(at))
        wav[start : start + len(at)] += drum
    return wav[:size] / wav[:size].std()


KINDS = {f.__name__: f for f in (silence, white, pink, hum, music)}


def compare(segments, truth, seconds):
    """Shares of the seconds of speech, and of all else that got a label."""
    at = FRAME * (np.arange(int(seconds / FRAME)) + 0.5)
    true = np.full(len(at), "around clips", object)
    given = np.full(len(at), "", object)
    for rows, of in ((truth, true), (segments, given)):
        for start, end, what in rows:
            of[(at >= start) & (at < end)] = what
    speech = np.array([what.startswith("=") for what in true])
    right = given == [what.removeprefix("=") for what in true]
    found = given != ""
    shares = {
        "speech_seconds": speech.sum() * FRAME,
        "right": (right & speech).sum() / speech.sum(),
        "found": (found & speech).sum() / speech.sum(),
        "right_of_found": (right & speech).sum() / (found & speech).sum(),
    }
    for kind in ("around clips", *KINDS):
        here = true == kind
        shares[f"labelled_{kind}"] = (found & here).sum() / max(1, here.sum())
    return {key: round(float(value), 4) for key, value in shares.items()}


def model_of(run, threads):
    """The run's model; torch on so many threads."""
    import torch

    from ser_peft.inference import load_model

    torch.set_num_threads(threads)
    return load_model(run)


def peak():
    """Peak memory of this process, MB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def follow(path, run, window, hop, threads):
    """Figures of a timeline, and its segments."""
    model = model_of(run, threads)
    before, began = peak(), time.process_time()
    found = model.timeline(path, window, hop)
    spent = time.process_time() - began
    return {
        "seconds": found.seconds,
        "times_real_time": round(found.seconds / spent, 1),
        "peak_mb": peak(),
        "loaded_mb": before,
        "segments": [
            (one.start, one.end, one.label or "unsure")
            for one in found.segments
        ],
    }


def push(path, run, window, hop, threads, chunk):
    """Figures of a stream."""
    stream = model_of(run, threads).stream(window, hop)
    wav, _ = soundfile.read(path, stop=600 * RATE, dtype="float32")
    size, spent, came = int(chunk * RATE), [], []
    for start in range(0, len(wav), size):
        began = time.process_time()
        windows = stream.push(wav[start : start + size])
        spent.append(time.process_time() - began)
        came.append(bool(windows and windows[-1].heard))
    spent, came = np.array(spent), np.array(came)
    return {
        "times_real_time": round(len(wav) / RATE / spent.sum(), 1),
        "push_ms": quantiles(spent[~came]),
        "push_with_a_window_of_speech_ms": quantiles(spent[came]),
    }


def quantiles(seconds):
    """Median, 95 % quantile and maximum in ms."""
    return [
        round(1000 * float(np.quantile(seconds, q)), 1) for q in (0.5, 0.95, 1)
    ]


if __name__ == "__main__":
    main()
