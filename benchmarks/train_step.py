"""A LoRA training step in our lobes and in SpeechBrain's, side by side.

The same weights, the same LoRA (on every attention projection and both
feed-forward layers), the same head and the same batch. Steps of the two are
interleaved in one process, so that whatever else the machine does hits both;
medians are compared. Peak memory is measured in a fresh process each. "kept"
is our step where the output of the frozen layers (here: what enters the first
one) is kept from an earlier epoch.

> python benchmarks/train_step.py --out results.json
> python benchmarks/train_step.py --models whisper --seconds 3 --device cuda
"""

import argparse
import gc
import logging
import os
import resource
import statistics
import tempfile
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import peft
import torch
import transformers
from speechbrain.integrations.huggingface.wav2vec2 import Wav2Vec2
from speechbrain.integrations.huggingface.wavlm import WavLM
from speechbrain.integrations.huggingface.whisper import Whisper
from tqdm import tqdm

from ser_peft.adapters import PeftLobe
from ser_peft.errors import InputError, one_line_errors
from ser_peft.io import SAMPLE_RATE, write_json
from ser_peft.lobes import load_lobe

SIDES = ("speechbrain", "ser_peft")
LORA = {"r": 8, "lora_alpha": 16, "lora_dropout": 0.1}
ATTENTION = ["q_proj", "k_proj", "v_proj", "out_proj"]
SSL_FFN = ["intermediate_dense", "output_dense"]
WHISPER_FFN = ["fc1", "fc2"]
# Without it glibc holds on to freed tensors, by rules of its own.
MALLOC = "MALLOC_MMAP_THRESHOLD_"


def main():
    """Measure what the command line asks for, print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    add("--seconds", nargs="+", type=float, default=[3.0, 6.0, 10.0])
    add("--batch", type=int, default=8, help="clips in a batch (%(default)s)")
    add("--steps", type=int, default=5, help="timed, each side (%(default)s)")
    add("--threads", type=int, default=torch.get_num_threads())
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add(
        "--clock", choices=["wall", "cpu"], default="wall",
        help="cpu: processor time, fair on a busy machine (--threads 1)",
    )  # fmt: skip
    add("--precision", choices=["fp32", "bf16"], default="fp32")
    add("--whisper", help="weights: folder or id (random: Whisper tiny)")
    add("--out", type=Path, help="write the measurements to this JSON file")
    args = parser.parse_args()
    if min(args.batch, args.steps, args.threads, *args.seconds) <= 0:
        parser.error("--seconds, --batch, --steps, --threads: more than 0")
    if args.device != "cpu" and not torch.cuda.is_available():
        parser.error(f"--device={args.device}: there is no GPU; give cpu")
    settings = {k: v for k, v in vars(args).items() if k != "out"}
    settings |= {"lora": LORA, "torch": torch.__version__}
    rows = []
    with one_line_errors():
        print_head(args)
        for row in measure(args):
            print_row(row)
            rows.append(row)
            if args.out:
                write_json(args.out, {"settings": settings, "rows": rows})


def measure(args):
    """Yield a row for each model and clip length, both sides in it."""
    total = 3 * len(args.models) * len(args.seconds)
    with (
        tempfile.TemporaryDirectory() as temporary,
        tqdm(total=total, leave=False) as progress,
    ):
        for model in args.models:
            folder = Path(temporary) / model
            in_own_process(write_checkpoint, model, folder, args.whisper)
            for seconds in args.seconds:
                progress.set_description(f"{model} {seconds:g} s")
                case = (model, folder, seconds, args)
                row = {"model": model, "seconds": seconds}
                row |= in_own_process(measure_time, *case)
                progress.update()
                for side in SIDES:
                    os.environ[MALLOC] = "65536"
                    row[side] |= in_own_process(measure_memory, side, *case)
                    del os.environ[MALLOC]
                    progress.update()
                yield row


def in_own_process(function, *args):
    """Call `function` in a fresh Python process and return its result."""
    with ProcessPoolExecutor(1, get_context("spawn"), quiet) as pool:
        return pool.submit(function, *args).result()


def quiet():
    """No progress bars and warnings of the libraries between ours."""
    transformers.utils.logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")


def write_checkpoint(model, folder, whisper):
    """Write a checkpoint in float32 that both sides load."""
    torch.manual_seed(0)
    encoder, extractor = MODELS[model][0](whisper)
    encoder.save_pretrained(folder)
    extractor.save_pretrained(folder)


# LayerDrop off: SpeechBrain's lobe would skip a tenth of the work, and crash
# a head that weights the layers.
def make_wav2vec2(whisper):
    """wav2vec 2.0 of the base shape, random weights."""
    config = transformers.Wav2Vec2Config(layerdrop=0.0)
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)
    return transformers.Wav2Vec2Model(config), extractor


def make_wavlm(whisper):
    """WavLM of the base shape, random weights."""
    config = transformers.WavLMConfig(layerdrop=0.0)
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=False)
    return transformers.WavLMModel(config), extractor


def make_whisper(source):
    """Whisper from `source`, else of the tiny shape with random weights."""
    if source:
        try:
            model = transformers.WhisperModel.from_pretrained(
                source, dtype=torch.float32
            )
        except (OSError, ValueError) as error:
            raise InputError(
                f"--whisper={source}: cannot be loaded ({error}); give the "
                "folder or Hugging Face id of a Whisper"
            ) from error
    else:
        sizes = {
            f"{side}_{what}": size
            for side in ("encoder", "decoder")
            for what, size in [
                ("layers", 4), ("attention_heads", 6), ("ffn_dim", 1536)
            ]
        }  # fmt: skip
        config = transformers.WhisperConfig(d_model=384, **sizes)
        model = transformers.WhisperModel(config)
    return model, transformers.WhisperFeatureExtractor(
        model.config.num_mel_bins
    )


MODELS = {
    "whisper": (make_whisper, WHISPER_FFN),
    "wav2vec2": (make_wav2vec2, SSL_FFN),
    "wavlm": (make_wavlm, SSL_FFN),
}


class Ours(torch.nn.Module):
    """Our lobe, and a linear head on the mean of layers and frames."""

    def __init__(self, model, folder):
        super().__init__()
        self.encoder = PeftLobe(load_lobe(folder), peft.LoraConfig(**LORA))
        self.head = torch.nn.Linear(self.encoder.hidden_size, 4)

    def forward(self, wavs, lengths):
        """Waveforms [B, T] to scores [B, 4]."""
        states, _ = self.encoder(wavs, lengths)
        return self.head(states.mean((0, 2)))


class Kept(Ours):
    """The same, going on from what the frozen layers gave before."""

    below = None

    def forward(self, wavs, lengths):
        """Waveforms [B, T] to scores [B, 4]."""
        if self.below is None:
            layers = self.encoder.frozen_layers
            self.below = self.encoder.below(wavs, lengths, layers)
        states, _ = self.encoder(None, below=self.below)
        return self.head(states.mean((0, 2)))


class Host(torch.nn.Module):
    """The same with SpeechBrain's lobe, as its users write it."""

    def __init__(self, model, folder):
        super().__init__()
        targets = ATTENTION + MODELS[model][1]
        config = peft.LoraConfig(target_modules=targets, **LORA)
        settings = {"source": str(folder), "save_path": str(folder)}
        settings["output_all_hiddens"] = True
        self.takes_lengths = model != "whisper"
        if model == "whisper":
            self.lobe = Whisper(**settings, encoder_only=True)
            self.lobe.model.encoder = peft.get_peft_model(
                self.lobe.model.encoder, config
            )
        else:
            lobe = {"wav2vec2": Wav2Vec2, "wavlm": WavLM}[model]
            self.lobe = lobe(**settings, freeze_feature_extractor=True)
            self.lobe.model = peft.get_peft_model(self.lobe.model, config)
        self.head = torch.nn.Linear(self.lobe.config.hidden_size, 4)

    def forward(self, wavs, lengths):
        """Waveforms [B, T] to scores [B, 4]."""
        lengths = [lengths] if self.takes_lengths else []
        return self.head(self.lobe(wavs, *lengths).mean((0, 2)))


class Case:
    """One side's model, optimiser and batch."""

    def __init__(self, side, model, folder, seconds, args):
        torch.set_num_threads(args.threads)
        torch.manual_seed(0)
        self.device = torch.device(args.device)
        self.timer = Timer(self.device, args.clock)
        build = {"speechbrain": Host, "ser_peft": Ours, "kept": Kept}[side]
        self.model = build(model, folder).train().to(self.device)
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-4)
        samples = round(seconds * SAMPLE_RATE)
        self.batch = [
            0.1 * torch.randn(args.batch, samples, device=self.device),
            torch.ones(args.batch, device=self.device),
        ]
        self.labels = torch.arange(args.batch, device=self.device) % 4
        self.mixed = torch.autocast(
            self.device.type, torch.bfloat16, enabled=args.precision == "bf16"
        )

    def loss(self):
        """Forward pass to the loss."""
        with self.mixed:
            scores = self.model(*self.batch)
        return torch.nn.functional.cross_entropy(scores.float(), self.labels)

    def train(self):
        """One training step; its seconds."""
        self.model.train()
        with self.timer as timer:
            self.loss().backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
        return timer.seconds

    def infer(self):
        """One forward pass in eval mode, LoRA off as if merged; its seconds."""
        self.model.eval()
        (adapted,) = (
            m for m in self.model.modules() if isinstance(m, peft.PeftModel)
        )
        with adapted.disable_adapter(), torch.no_grad(), self.timer as timer:
            self.loss()
        return timer.seconds


class Timer:
    """Seconds by the clock on the wall or the processor's own.

    On a GPU those of its kernels are in.
    """

    def __init__(self, device, clock):
        self.wait = torch.cuda.synchronize if device.type == "cuda" else int
        clocks = {"wall": time.perf_counter, "cpu": time.process_time}
        self.clock = clocks[clock]

    def __enter__(self):
        self.wait()
        self.start = self.clock()
        return self

    def __exit__(self, *exception):
        self.wait()
        self.seconds = self.clock() - self.start


def measure_time(model, folder, seconds, args):
    """Median seconds of each side, its steps in turn with the other's."""
    sides = (*SIDES, "kept")
    cases = {s: Case(s, model, folder, seconds, args) for s in sides}
    times = {s: {"step_s": [], "forward_s": []} for s in sides}
    # One after the other: a step leaves the allocator in a state that slows
    # the next forward pass down.
    for name, work in (("step_s", Case.train), ("forward_s", Case.infer)):
        for step in range(1 + args.steps):
            for side, case in cases.items():
                taken = work(case)
                if step:  # the first warms up
                    times[side][name].append(taken)
        gc.collect()
    return {
        side: {k: statistics.median(v) for k, v in times[side].items()}
        for side in sides
    }


def measure_memory(side, model, folder, seconds, args):
    """Peak and saved memory in MiB, and how much of the LoRA is alive."""
    case = Case(side, model, folder, seconds, args)
    if case.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    case.train()
    if case.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    own = {
        tensor.untyped_storage().data_ptr()
        for tensor in [*case.model.parameters(), *case.model.buffers()]
    }
    # Kept, so that no address is given out twice.
    saved = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage
        return tensor

    case.model.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        loss = case.loss()
    total = sum(storage.nbytes() for storage in saved.values())
    saved.clear()
    loss.backward()
    live = sum(p.grad is not None for p in case.trained) / len(case.trained)
    return {"peak_mib": peak / 2**20, "saved_mib": total / 2**20, "live": live}


COLUMNS = {
    "step, s": ("step_s", ".2f"),
    "forward, s": ("forward_s", ".2f"),
    "saved, MiB": ("saved_mib", ".0f"),
    "peak, MiB": ("peak_mib", ".0f"),
}


def print_head(args):
    """What is measured, and the head of the table."""
    print(
        f"{args.batch} clips a batch, {args.device}, {args.threads} CPU "
        f"thread(s), {args.clock} time; SpeechBrain / ser_peft (ratio)\n"
    )
    columns = " | ".join(COLUMNS)
    print(f"| model | clip, s | {columns} | LoRA alive, % | step, kept, s |")
    print("|---|---|" + "---|" * (len(COLUMNS) + 2), flush=True)


def print_row(row):
    """Both sides' medians and how many times ours is better."""
    host, ours = (row[side] for side in SIDES)
    cells = [row["model"], f"{row['seconds']:g}"]
    for key, form in COLUMNS.values():
        ratio = host[key] / ours[key]
        cells.append(f"{host[key]:{form}} / {ours[key]:{form}} ({ratio:.1f})")
    cells.append(f"{100 * host['live']:.0f} / {100 * ours['live']:.0f}")
    kept = row["kept"]["step_s"]
    cells.append(f"{kept:.2f} ({host['step_s'] / kept:.1f})")
    print("|", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
