"""What the package does on this machine's GPU, measured; see gpu.sh.

Encoders have random weights and the shapes of WavLM base+ and large, the
speech is made up, in the layout of RAVDESS. One step after the other, each
in its own processes where it trains; one that fails is noted, and the rest
goes on.

> python benchmarks/gpu.py --out gpu.json
> python benchmarks/gpu.py --smoke    # tiny shapes, also without a GPU
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np
import peft
import psutil
import soundfile
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from ser_peft.adapters import PeftLobe
from ser_peft.device import choose_precision
from ser_peft.evaluation.results import versions
from ser_peft.heads import ProbeMixHead
from ser_peft.io import write_json
from ser_peft.lobes import load_lobe
from ser_peft.lobes.configs import config_of
from ser_peft.pretraining.kmeans import assign, kmeans

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "recipes" / "RAVDESS"
# This package first, then what the caller had.
PYTHONPATH = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
RATE = 16000
SHAPES = {"base": "microsoft/wavlm-base-plus", "large": "microsoft/wavlm-large"}
TINY = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
DTYPES = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
}


def main():
    """Run everything, write what was found after each step."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, default=Path("gpu.json"), help="(%(default)s)")
    add("--smoke", action="store_true", help="tiny shapes, on any device")
    add("--minutes", type=float, default=9.5, help="at most (%(default)s)")
    args = parser.parse_args()
    if not args.smoke and not torch.cuda.is_available():
        parser.error("there is no GPU; give --smoke to try it without one")
    with tempfile.TemporaryDirectory() as work:
        bench = Bench(Path(work), args)
        for step in (
            bench.matrix_rate,
            bench.share_base,
            bench.share_large,
            bench.train_base,
            bench.train_large,
            bench.ptapt,
            bench.clusters,
            bench.train_step,
        ):
            bench.attempt(step)
    failed = [k for k, v in bench.found["steps"].items() if "error" in v]
    print(f"{args.out}: {len(failed)} of {len(bench.found['steps'])} failed")
    sys.exit(bool(failed))


class Bench:
    """The steps, and what they share.

    Arguments
    ---------
    work : Path
        For the corpus, the encoders and the runs.
    args : argparse.Namespace
        Of the command line.
    """

    def __init__(self, work, args):
        self.work, self.out, self.smoke = work, args.out, args.smoke
        self.end = time.time() + 60 * args.minutes
        self.gpu = torch.cuda.is_available()
        self.device = "cuda" if self.gpu else "cpu"
        self.precision, why = choose_precision(self.device)
        self.found = {
            "device": torch.cuda.get_device_name() if self.gpu else "cpu",
            "smoke": self.smoke,
            "precision": f"{self.precision}: {why}",
            "cuda": torch.version.cuda,
            "versions": versions(),
            "steps": {},
        }
        self.corpus = make_corpus(work / "corpus", self.smoke)
        for name in SHAPES:
            make_encoder(work / name, name, self.smoke)

    def attempt(self, step):
        """Run a step, note what it found or why it failed, write it all."""
        start, name = time.time(), step.__name__
        print(f"{name} ...", flush=True)
        try:
            if self.left() < 30:
                raise TimeoutError("no time left; give --minutes")
            found = step()
        except Exception as error:  # of any step: the others are to be run
            traceback.print_exc()
            found = {"error": f"{type(error).__name__}: {error}"[-2000:]}
        found["wall_s"] = round(time.time() - start, 1)
        print(json.dumps(found), flush=True)
        self.found["steps"][name] = found
        write_json(self.out, self.found)

    def left(self):
        """Seconds that are left."""
        return self.end - time.time()

    def wait(self):
        """Until the GPU has done what it was given."""
        if self.gpu:
            torch.cuda.synchronize()

    def seconds(self, work, repeats):
        """Median seconds of a piece of work, the first two calls left out."""
        times = []
        for _ in range(2 + repeats):
            self.wait()
            start = time.perf_counter()
            work()
            self.wait()
            times.append(time.perf_counter() - start)
        return float(np.median(times[2:]))

    # --------------------------------------------------------------- steps

    def matrix_rate(self):
        """TFLOP/s of a large matrix product in each precision."""
        size, rates = 256 if self.smoke else 8192, {}
        for name in {"fp32", self.precision}:
            a = torch.randn(size, size, device=self.device, dtype=DTYPES[name])
            took = self.seconds(lambda a=a: a @ a, 10)
            rates[name] = 2 * size**3 / took / 1e12
        self.rate = rates[self.precision]
        return {"size": size, "tflops": rates}

    def share_base(self):
        """See `share`."""
        return self.share("base", clips=32)

    def share_large(self):
        """See `share`."""
        return self.share("large", clips=16)

    def share(self, name, clips, seconds=5.0):
        """A LoRA step's rate, as a share of the matrix product's.

        Its operations are counted, not estimated; those of the frozen
        weights' gradients, which nobody computes, are not in.
        """
        if self.smoke:
            clips, seconds = 2, 0.5
        torch.manual_seed(0)
        encoder = PeftLobe(
            load_lobe(self.work / name), peft.LoraConfig(r=16, lora_alpha=32)
        )
        model = torch.nn.ModuleList([encoder, ProbeMixHead(encoder, 4)])
        model.train().to(self.device)
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-4)
        wavs = 0.1 * torch.randn(clips, round(seconds * RATE))
        wavs, lens = wavs.to(self.device), torch.ones(clips)
        labels = torch.arange(clips, device=self.device) % 4
        dtype = DTYPES[self.precision]
        mixed = torch.autocast(
            self.device, dtype, enabled=dtype != torch.float32
        )

        def step():
            with mixed:
                scores = model[1](*encoder(wavs, lens))
            loss = torch.nn.functional.cross_entropy(scores.float(), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        step()
        with FlopCounterMode(display=False) as counter:
            step()
        if self.gpu:
            torch.cuda.reset_peak_memory_stats()
        took = self.seconds(step, 3 if self.smoke else 10)
        rate = counter.get_total_flops() / took / 1e12
        peak = torch.cuda.max_memory_allocated() / 2**20 if self.gpu else None
        return {
            "clips": clips,
            "clip_s": seconds,
            "step_s": took,
            "audio_s_per_s": clips * seconds / took,
            "tflop": counter.get_total_flops() / 1e12,
            "tflops": rate,
            "share": rate / self.rate,
            "peak_mib": peak,
        }

    def train_base(self):
        """Train, killed behind the first epoch, and go on to the end."""
        argv, folder = self.training("base", epochs=2 if self.smoke else 4)
        self.run("train.py", *argv, until=folder / "save")
        self.run("train.py", *argv)
        log = (folder / "train_log.txt").read_text()
        assert log.count("epoch: 1,") == 1, "began again"
        return {"resumed": True, **costs(folder / "results.json")}

    def train_large(self):
        """Train to the end."""
        argv, folder = self.training("large", epochs=1 if self.smoke else 2)
        self.run("train.py", *argv)
        return costs(folder / "results.json")

    def ptapt(self):
        """P-TAPT with LoRA: states, clusters, masked prediction."""
        layer, clusters = (1, "[4, 6]") if self.smoke else (9, "[64, 512]")
        # A copy, whose first phase is as short.
        recipes = RECIPE.parent
        for name in ("ptapt.yaml", "ptapt_states.yaml"):
            text = (recipes / "IEMOCAP" / "hparams" / name).read_text()
            text = re.sub("(number_of_epochs): .*", r"\1: 1", text)
            (self.work / name).write_text(text)
        argv, folder = self.training("base", 1, self.work / "ptapt.yaml")
        more = (
            *("--corpus=ravdess", "--protocol=peft-ser", "--method=lora"),
            *(f"--layer={layer}", f"--clusters={clusters}"),
        )
        self.run("train_ptapt.py", *argv, *more)
        return costs(folder / "pretraining.json")

    def training(self, name, epochs, hparams=None):
        """Arguments of a training, and its folder."""
        hparams = hparams or RECIPE / "hparams" / "wavlm_lora.yaml"
        folder = self.work / "runs" / hparams.stem / name
        return [
            str(hparams),
            f"--data_folder={self.corpus}",
            f"--backbone={self.work / name}",
            f"--output_folder={folder}",
            f"--number_of_epochs={epochs}",
            "--noprogressbar",
        ], folder

    def run(self, script, *argv, until=None):
        """Run a recipe's script; kill it when a checkpoint is there."""
        backend = "nccl" if self.gpu else "gloo"
        launcher = [sys.executable, "-m", "torch.distributed.run"]
        process = subprocess.Popen(
            [*launcher, "--standalone", "--nproc_per_node=1",
             RECIPE / script, *argv,
             f"--distributed_backend={backend}"],
            env=os.environ | {"PYTHONPATH": PYTHONPATH},
        )  # fmt: skip
        try:
            while process.poll() is None:
                if self.left() < 0:
                    raise TimeoutError(f"{script}: took too long")
                if until and any(until.glob("CKPT*/CKPT.yaml")):
                    return
                time.sleep(0.05)
        finally:
            if process.poll() is None:
                # Torchrun's workers lead sessions of their own.
                launcher = psutil.Process(process.pid)
                for one in [launcher, *launcher.children(recursive=True)]:
                    one.kill()
                process.wait()
        assert not until, f"{script}: ended before it was killed"
        assert process.returncode == 0, f"{script}: {process.returncode}"

    def clusters(self):
        """Time of k-means on frames in memory."""
        frames, width, k = (
            (3000, 32, 8) if self.smoke else (1_000_000, 768, 512)
        )
        x = np.random.default_rng(0).normal(size=(frames, width))
        x = (x + 3 * (np.arange(frames) % 50)[:, None] / 50).astype(np.float16)
        start = time.perf_counter()
        centroids = kmeans(x, k, device=self.device)
        fitted = time.perf_counter()
        assign(x, centroids, self.device)
        return {
            "frames": frames,
            "width": width,
            "clusters": k,
            "fit_s": fitted - start,
            "assign_s": time.perf_counter() - fitted,
        }

    def train_step(self):
        """A step beside SpeechBrain's lobe: see train_step.py."""
        out = self.work / "train_step.json"
        flags = "--models whisper --seconds 1 --batch 1 --steps 1"
        if not self.smoke:
            flags = "--models wavlm --seconds 3 10 --steps 5"
        subprocess.run(
            [sys.executable, ROOT / "benchmarks" / "train_step.py",
             *flags.split(), "--device", self.device, "--out", out],
            env=os.environ | {"PYTHONPATH": PYTHONPATH},
            check=True,
            timeout=max(self.left(), 1),
        )  # fmt: skip
        return json.loads(out.read_text())


def costs(path):
    """What a finished run says that it took."""
    run = json.loads(path.read_text())
    keys = "epochs steps train_seconds peak_memory_mb precision processes"
    found = {key: run[key] for key in keys.split()}
    return {**found, "step_s": run["train_seconds"] / run["steps"]}


def make_corpus(folder, smoke):
    """Voices of 24 actors and 8 emotions, named as in RAVDESS.

    Arguments
    ---------
    folder : Path
        New.
    smoke : bool
        Few and short ones.

    Returns
    -------
    Path
        The folder.
    """
    rng = np.random.default_rng(0)
    for actor in range(1, 25):
        actor_folder = folder / f"Actor_{actor:02d}"
        actor_folder.mkdir(parents=True)
        for emotion in range(1, 9):
            for take in range(1 if smoke else 8):
                seconds = 0.4 if smoke else rng.uniform(3, 4.5)
                t = np.arange(int(seconds * RATE)) / RATE
                pitch = (90 if actor % 2 else 160) + 40 * emotion
                wave = sum(
                    np.sin(2 * np.pi * k * pitch * t) / k for k in (1, 2, 3)
                )
                wave = 0.02 * emotion * wave + rng.normal(0, 0.01, len(t))
                spoken, repeated = 1 + take // 4, 1 + take // 2 % 2
                name = (
                    f"03-01-{emotion:02d}-{1 + take % 2:02d}-{spoken:02d}-"
                    f"{repeated:02d}-{actor:02d}.wav"
                )
                soundfile.write(actor_folder / name, wave, RATE)
    return folder


def make_encoder(folder, name, smoke):
    """Write a WavLM of random weights."""
    torch.manual_seed(0)
    config = config_of(SHAPES[name])
    if smoke:
        config.update(TINY)
    transformers.WavLMModel(config).save_pretrained(folder)
    norm = config.feat_extract_norm == "layer"
    transformers.Wav2Vec2FeatureExtractor(
        do_normalize=norm, return_attention_mask=norm
    ).save_pretrained(folder)


if __name__ == "__main__":
    main()
