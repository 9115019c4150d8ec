"""One training in folders of its own: checked, locked, begun, gone on with."""

import re
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from io import StringIO
from pathlib import Path

import torch
from ruamel.yaml import YAML
from speechbrain.utils.distributed import (
    ddp_broadcast,
    ddp_init_group,
    if_main_process,
)
from speechbrain.utils.epoch_loop import EpochCounter
from speechbrain.utils.train_logger import FileTrainLogger, TrainLogger

from ser_peft import data
from ser_peft.device import (
    check_precision,
    choose_precision,
    find_device,
    run_precision,
)
from ser_peft.errors import InputError
from ser_peft.io import atomic_path, check_writable
from ser_peft.settings.building import brain_of, building
from ser_peft.settings.finished import finished
from ser_peft.settings.yamls import dump, read_settings
from ser_peft.storage.checkpoints import SafeCheckpointer, newest_epoch
from ser_peft.storage.lock import check_free, only_process
from ser_peft.training.base import PeftBrain
from ser_peft.training.checks import check_settings

__all__ = ["Run", "checked_run", "ddp_group", "prepare"]

KINDS = {
    "adapter_opt": Callable,
    "checkpointer": SafeCheckpointer,
    "epoch_counter": EpochCounter,
    "head_opt": Callable,
    "modules": Mapping,
    "tracker": TrainLogger | None,
    "train_logger": FileTrainLogger,
    "wav_augment": Callable | None,
}
"""Types of the objects that a training's yaml builds."""

NEEDED = (
    "corpus data_folder fold classes seed output_folder save_folder "
    "manifests_folder brain epoch_counter train_logger modules checkpointer "
    "adapter_opt head_opt max_seconds"
).split()
"""Keys without which `recipes/train.py` cannot do."""

READ = (
    "protocol dimensions targets train_classes crop augment first_seconds"
).split()
"""Further keys that it reads."""


@contextmanager
def ddp_group(arguments):
    """Initialize SpeechBrain's process group, and end it.

    Arguments
    ---------
    arguments : tuple
        From `ser_peft.settings.arguments.parse_arguments`.
    """
    run_opts = arguments[1]
    try:
        ddp_init_group(run_opts)
    except ValueError as error:
        raise InputError(
            f"--distributed_backend={run_opts['distributed_backend']}: "
            f"{error}; without GPUs: --distributed_backend=gloo --device=cpu"
        ) from error
    try:
        yield
    except RuntimeError as error:
        if "by peer" not in str(error):
            raise
        # torchrun ends this process too, a moment later at most.
        print("stopped: another process did", file=sys.stderr)
        raise SystemExit(1) from error
    if torch.distributed.is_initialized():
        # Left to the interpreter's exit, gloo's threads now and then
        # abort a finished process, and torchrun calls the run failed.
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def prepare(save_folder, **kwargs):
    """Write the manifests of a fold; see `ser_peft.data.prepare`.

    Other trainings may share them: this one waits for a process that is
    writing them, and finds them written.
    """
    with only_process(save_folder, "manifests_folder", wait=True):
        data.prepare(save_folder=save_folder, **kwargs)


@contextmanager
def checked_run(hparams_file, run_opts, overrides):
    """Check a training before anything is written; lock its folders.

    All processes of the training hold the folders together. A finished run,
    or one of other settings, is not touched.

    Arguments
    ---------
    hparams_file, run_opts, overrides
        From `ser_peft.settings.arguments.parse_arguments`.

    Yields
    ------
    Run
        The training.

    Raises
    ------
    InputError
        If the yaml, a flag or a folder is unfit, or another process trains
        there.
    """
    run = Run(hparams_file, run_opts, overrides)
    folder, refusal, done = run.folder, None, False
    with ExitStack() as stack:
        if if_main_process():
            try:
                check_free(folder, "output_folder")
                done = finished(run.text, folder)
                if done:
                    print(f"{folder}: this run is finished")
                else:
                    for key in ("output_folder", "save_folder"):
                        stack.enter_context(only_process(run.values[key], key))
            except InputError as error:
                refusal = str(error)
        # All processes do what the main one finds.
        refusal, run.finished = ddp_broadcast((refusal, done))
        if refusal:
            if if_main_process():
                raise InputError(refusal)
            raise SystemExit(2)
        try:
            with building(hparams_file):
                yield run
        except KeyboardInterrupt as stop:
            if not if_main_process():
                raise SystemExit(130) from None
            last = newest_epoch(run.values["save_folder"])
            kept = f"epochs up to {last}" if last else "what was finished"
            told = f"{folder} keeps {kept}; the same command goes on from there"
            raise KeyboardInterrupt(*stop.args or [told]) from None


class Run:
    """Settings of one training, resolved and checked.

    Arguments
    ---------
    hparams_file, run_opts, overrides
        From `ser_peft.settings.arguments.parse_arguments`.

    Attributes
    ----------
    values : dict
        The yaml's keys; what it builds is still in words.
    brain : type
        The Brain that trains.
    finished : bool
        Whether all is done.
    """

    def __init__(self, hparams_file, run_opts, overrides):
        self.hparams_file, self.overrides = hparams_file, overrides
        # A Brain of one's own may lie beside the script.
        here = str(Path(sys.argv[0]).absolute().parent)
        if here not in sys.path:
            sys.path.insert(0, here)
        self.brain = brain_of(hparams_file, overrides)
        self._need("brain", issubclass(self.brain, PeftBrain))
        text = read_settings(
            hparams_file,
            overrides,
            {*NEEDED, *READ, *self.brain.defaults},
            run_opts,
        )
        values = YAML().load(text)
        for key in (*NEEDED, *self.brain.needed):
            self._need(key, key in values)
        check_settings(values)
        self.brain.check(values)
        for key in ("output_folder", "save_folder", "manifests_folder"):
            check_writable(values[key], key)
        named = values.get("device")
        if "device" in run_opts.overridden_args:
            named = run_opts["device"]
        self.device = find_device(named)
        for key in ("precision", "eval_precision"):
            check_precision(key, values.get(key), self.device)
        self.folder = Path(values["output_folder"])
        values["precision"] = run_precision(
            values.get("precision", "auto"),
            values["output_folder"],
            self.device,
        )
        self.run_opts = replace(run_opts, precision=values["precision"])
        self.text, self.values = dump(values), values
        self.finished = False

    def yaml(self, about):
        """Resolved yaml, as a stream for `load_hyperpyyaml`.

        Arguments
        ---------
        about : dict
            ``protocol.json`` of the manifests, which alone tells how many
            classes "all" of a corpus are.
        """
        values = YAML().load(self.text)
        side = about["side_classes"]
        whole = isinstance(values["classes"], (int, dict)) and not side
        head = values.get("head", {})
        # A flag may have given the head others, which it will refuse.
        if not whole and head.get("classes") == values["classes"]:
            head["classes"] = about["classes"] + side
        return StringIO(dump(values))

    def check_built(self, hparams):
        """Refuse objects of other types than a training's.

        Arguments
        ---------
        hparams : dict
            From `load_hyperpyyaml`.

        Raises
        ------
        InputError
            If one is.
        """
        for key, kind in KINDS.items():
            if key in hparams:
                self._need(key, isinstance(hparams[key], kind))
        modules = hparams["modules"]
        good = all(isinstance(m, torch.nn.Module) for m in modules.values())
        head = self.brain.head_name
        self._need("modules", good and {"encoder", head} <= {*modules})
        saved = [*map(id, hparams["checkpointer"].recoverables.values())]
        good = all(id(module) in saved for module in modules.values())
        self._need("checkpointer", good)
        log = getattr(hparams["train_logger"], "save_file", "train_log.txt")
        self._need("train_logger", isinstance(log, str | Path))
        check_writable(Path(log).parent, "train_logger")

    def _need(self, key, good):
        if not good:
            raise InputError(
                f"{self.hparams_file}: '{key}' is missing or no such thing as "
                "in the recipe's other yamls; copy it from one of them"
            )

    def save(self):
        """Write the settings to the run's folder."""
        if if_main_process():
            self.folder.mkdir(parents=True, exist_ok=True)
            # Whole or not at all: half of the file would look like another
            # run's.
            with atomic_path(self.folder / "hyperparams.yaml") as tmp:
                tmp.write_text(self.text, encoding="utf-8")

    def begin(self, brain, logger):
        """Save the settings, and take epochs to be done again out of the log.

        Last of all before training: a run that was refused may be started
        again with other settings.

        Arguments
        ---------
        brain : ser_peft.training.PeftBrain
            The Brain.
        logger : speechbrain.utils.train_logger.TrainLogger
            Its log.
        """
        self.save()
        if not _rewind(logger, brain.checkpointer):
            chosen, reason = choose_precision(self.device)
            logger.log_stats(
                {
                    "precision": self.values["precision"],
                    "auto": f"{chosen} ({reason})",
                }
            )


def _rewind(logger, checkpointer):
    """Shorten the log to the newest checkpoint's epoch.

    Returns
    -------
    bool
        Whether something is left of it.
    """
    newest = checkpointer.find_checkpoint()
    path = Path(getattr(logger, "save_file", ""))
    if not path.is_file():
        return False
    kept = []
    if newest:
        for line in path.read_text("utf-8").splitlines(keepends=True):
            epoch = re.search(r"\bepoch: (\d+)", line)
            if not epoch or int(epoch[1]) <= newest.meta["epoch"]:
                kept.append(line)
    if if_main_process():
        with atomic_path(path) as tmp:
            tmp.write_text("".join(kept), "utf-8")
    return bool(kept)
