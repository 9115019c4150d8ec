"""Trainings from the first check to the report: SpeechBrain's skeleton."""

import re
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from inspect import signature
from pathlib import Path

import speechbrain as sb
import torch
from ruamel.yaml import YAML, YAMLError
from speechbrain.utils.distributed import (
    ddp_broadcast,
    ddp_init_group,
    if_main_process,
    run_on_main,
)
from speechbrain.utils.epoch_loop import EpochCounter
from speechbrain.utils.train_logger import TrainLogger

from ser_peft.adapters import PeftLobe
from ser_peft.adapters.folder import find
from ser_peft.data import datasets, eval_batches
from ser_peft.data.provenance import Heard
from ser_peft.device import (
    check_precision,
    choose_precision,
    find_device,
    run_precision,
)
from ser_peft.errors import InputError
from ser_peft.evaluation.results import headline
from ser_peft.io import atomic_path, check_writable
from ser_peft.lobes import load_lobe, shapes
from ser_peft.pretraining.clusters import cluster_frames, random_labels
from ser_peft.settings.yamls import (
    OMITTED,
    OPTIONAL,
    build,
    dump,
    finished,
    read_settings,
)
from ser_peft.storage.checkpoints import SafeCheckpointer, newest_epoch
from ser_peft.storage.lock import check_free, only_process
from ser_peft.training import (
    DistillBrain,
    EmotionBrain,
    PtaptBrain,
    StateBrain,
    TaptBrain,
)
from ser_peft.training.checks import check_settings

__all__ = ["train_distill", "train_emotion", "train_ptapt", "train_tapt"]

# What a yaml's keys must have been built to.
KINDS = {
    "adapter_opt": Callable,
    "checkpointer": SafeCheckpointer,
    "epoch_counter": EpochCounter,
    "head_opt": Callable,
    "modules": Mapping,
    "train_logger": TrainLogger,
    "wav_augment": Callable | None,
}


def train_emotion(prepare, *arguments):
    """See `ser_peft.recipe.train_emotion`.

    Arguments
    ---------
    prepare : callable
        Likewise.
    *arguments
        From `ser_peft.settings.yamls.read_command_line`.
    """
    with _processes(*arguments):
        _say_scores(_train(EmotionBrain, prepare, *arguments))


def train_distill(prepare, *arguments):
    """See `ser_peft.recipe.train_distill` and `train_emotion`."""
    with _processes(*arguments):
        _say_scores(_train(DistillBrain, prepare, *arguments))


def train_tapt(prepare, *arguments):
    """See `ser_peft.recipe.train_tapt` and `train_emotion`."""
    with _processes(*arguments):
        _say(_train(TaptBrain, prepare, *arguments))


def train_ptapt(prepare, hparams_file, run_opts, given):
    """See `ser_peft.recipe.train_ptapt` and `train_emotion`."""
    with _processes(hparams_file, run_opts, given):
        text, settings = _settings(
            PtaptBrain, prepare, hparams_file, run_opts, given
        )
        with _only_run(text, settings):
            if not finished(text, settings["output_folder"]):
                _first_phases(prepare, hparams_file, run_opts, text, settings)
            _say(_fit(PtaptBrain, prepare, hparams_file, run_opts, text))


def _first_phases(prepare, hparams_file, run_opts, text, settings):
    """Pseudo-labels for P-TAPT's third phase."""
    states = None
    if settings["states"]:
        states = _states(settings, prepare, hparams_file)
        _settings(StateBrain, prepare, states[0], run_opts, states[1])
    _prepare(settings, prepare)
    _check_start(settings)
    _claim(Path(settings["output_folder"]), text)
    if states:
        _train(StateBrain, prepare, states[0], run_opts, states[1])
    run_on_main(_label, (settings, prepare, run_opts, states))


def _check_start(settings):
    """Refuse at once what only the third phase would trip over."""
    layers = shapes(settings["backbone"]).num_layers
    if settings["layer"] > layers:
        raise InputError(
            f"layer: {settings['layer']}: {settings['backbone']} has layers 1 "
            f"to {layers}"
        )
    if settings["init_from"]:
        heard = Heard(
            *datasets(settings["manifests_folder"]),
            settings.get("trust_start", False),
        )
        heard.add("init_from", find(settings["init_from"]))


def _states(settings, prepare, hparams_file):
    """Yaml of phase 1 and what its keys get."""
    path = Path(hparams_file).parent / settings["states"]
    shared = {*signature(prepare).parameters, "seed", "backbone", "layer"}
    try:
        tree = YAML().load(path)
        head = str(tree["head"].tag.value)
    except (
        *(AttributeError, LookupError, OSError, TypeError),
        *(ValueError, YAMLError),
    ):
        head = ""  # no yaml of a head at all
    if not head.endswith("StateHead"):
        raise InputError(
            f"states: {path}: is no yaml with a StateHead; name one beside "
            f"{hparams_file}, as ptapt_states.yaml"
        )
    given = {
        key: settings[key]
        for key in tree
        if key in (shared | {"num_workers"}) - {"save_folder"}
        and key in settings
    }
    given["output_folder"] = f"{settings['output_folder']}/states"
    given["manifests_folder"] = settings["manifests_folder"]
    return str(path), given


def _label(settings, prepare, run_opts, states):
    """Phase 2: cluster the frames of the estimator, if not done yet."""
    folder = Path(settings["output_folder"])
    path = folder / "labels.safetensors"
    if path.exists():
        return
    _prepare(settings, prepare)
    device = _device(settings, run_opts)
    if states is None:
        lobe = load_lobe(
            settings["backbone"],
            settings["save_folder"],
            depth=settings["layer"],
        )
        encoder = PeftLobe(lobe, "frozen")
    else:
        text, _ = _settings(StateBrain, prepare, states[0], run_opts, states[1])
        encoder = build(states[0], text)["modules"]["encoder"]
        encoder.load(folder / "states" / "encoder.safetensors")
    encoder.eval().to(device)
    _, sets = datasets(settings["manifests_folder"])
    loaders = {
        split: torch.utils.data.DataLoader(
            sets[split],
            batch_sampler=eval_batches(sets[split], settings["batch_seconds"]),
            collate_fn=sb.dataio.batch.PaddedBatch,
        )
        for split in ("train", "valid")
    }
    how = random_labels if settings["labels"] == "random" else cluster_frames
    how(
        encoder, loaders, folder, settings["clusters"], settings["seed"], device
    ).save(path)


@contextmanager
def _processes(hparams_file, run_opts, given):
    """SpeechBrain's processes around what a script does."""
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
        # As torchrun ends this one, a moment later at most.
        print("stopped: another process did", file=sys.stderr)
        raise SystemExit(1) from error
    if torch.distributed.is_initialized():
        # Left to the interpreter's exit, gloo's threads now and then
        # abort a finished process, and torchrun calls the run failed.
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def _say_scores(brain):
    if brain and if_main_process():
        folder = brain.hparams.output_folder
        print(f"test {headline(brain.results)}; report in {folder}/report.html")


def _say(brain):
    if brain and if_main_process():
        folder = brain.hparams.output_folder
        print(f"pretrained; give --init_from={folder} to a training")


def _settings(brain_class, prepare, hparams_file, run_opts, given):
    """A yaml's text and content, refused if anything in it is unfit."""
    keys = signature(prepare).parameters
    text = read_settings(
        hparams_file, given, {*brain_class.reads, *keys}, run_opts
    )
    settings = YAML().load(text)
    needed = {key for key in keys if keys[key].default is keys[key].empty}
    needed |= brain_class.reads - OPTIONAL - OMITTED
    for key in sorted(needed - {"save_folder"}):
        _need(hparams_file, key, key in settings)
    check_settings(settings)
    if settings["keep"] == "average" and issubclass(
        brain_class, (PtaptBrain, TaptBrain)
    ):
        raise InputError(
            "keep: average is for trainings that are tested; pretraining keeps "
            "last or best"
        )
    for key in ("output_folder", "save_folder", "manifests_folder"):
        check_writable(settings[key], key)
    device = _device(settings, run_opts)
    for key in ("precision", "eval_precision"):
        check_precision(key, settings.get(key), device)
    settings["precision"] = run_precision(
        settings.get("precision", "auto"), settings["output_folder"], device
    )
    return dump(settings), settings


def _device(settings, run_opts):
    """Where a Brain of these settings and options runs."""
    named = settings.get("device")
    if "device" in run_opts.overridden_args:
        named = run_opts["device"]
    return find_device(named)


@contextmanager
def _only_run(text, settings):
    """Hold a run's folders: all its processes together, or none.

    What is finished, or another run's, is not touched.
    """
    folder, refusal = settings["output_folder"], None
    with ExitStack() as stack:
        if if_main_process():
            try:
                check_free(folder, "output_folder")
                if not finished(text, folder):
                    for key in ("output_folder", "save_folder"):
                        stack.enter_context(only_process(settings[key], key))
            except InputError as error:
                refusal = str(error)
        if refusal := ddp_broadcast(refusal):
            if if_main_process():
                raise InputError(refusal)
            raise SystemExit(2)
        try:
            yield
        except KeyboardInterrupt as stop:
            if not if_main_process():
                raise SystemExit(130) from None
            last = newest_epoch(settings["save_folder"])
            kept = f"epochs up to {last}" if last else "what was finished"
            said = f"{folder} keeps {kept}; the same command goes on from there"
            raise KeyboardInterrupt(*stop.args or [said]) from None


def _train(brain_class, prepare, hparams_file, run_opts, given):
    """One training in a folder of its own; see `_fit`."""
    # Everything that can be checked at once is, before anything is
    # written or loaded.
    text, settings = _settings(
        brain_class, prepare, hparams_file, run_opts, given
    )
    with _only_run(text, settings):
        return _fit(brain_class, prepare, hparams_file, run_opts, text)


def _fit(brain_class, prepare, hparams_file, run_opts, text):
    """SpeechBrain's skeleton; gives the Brain, or None if all was done."""
    settings = YAML().load(text)
    folder = Path(settings["output_folder"])
    if finished(text, folder):
        print(f"{folder}: this run is finished")
        return None
    _prepare(settings, prepare)
    about, sets = brain_class.datasets(settings)
    if not isinstance(settings["classes"], (int, dict)) and "head" in settings:
        # As "all" of a csv: only the manifests tell which these are.
        settings["head"]["classes"] = about["classes"]
    hparams = build(hparams_file, dump(settings))
    _check_built(hparams_file, hparams, brain_class.head_name)
    run_opts = replace(run_opts, precision=settings["precision"])
    brain = brain_class(hparams, run_opts, about, sets)
    brain.look_for_kept()
    if run_opts["test_only"]:
        newest = brain.checkpointer.find_checkpoint()
        where = f"--test_only: {settings['save_folder']} holds"
        if brain.checkpointer.damaged:
            raise InputError(
                f"{where} a damaged checkpoint; leave --test_only out: what "
                "it was is trained again"
            )
        if not newest:
            raise InputError(f"{where} no checkpoint; train first")
    loaders = brain.train_loader(), brain.eval_loader("valid")
    # Last: a run that was refused may be started again with other settings.
    _claim(folder, text)
    if not _rewind(hparams["train_logger"], brain.checkpointer):
        chosen, reason = choose_precision(_device(settings, run_opts))
        hparams["train_logger"].log_stats(
            {"precision": settings["precision"], "auto": f"{chosen} ({reason})"}
        )
    brain.fit(hparams["epoch_counter"], *loaders)
    brain.results = brain.report()
    return brain


def _rewind(logger, checkpointer):
    """Take epochs that are to be done again out of the training log.

    Returns
    -------
    bool
        Whether the log goes on.
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


def _check_built(hparams_file, hparams, head):
    """Refuse what only looks like a yaml of these trainings."""
    for key, kind in KINDS.items():
        if key in hparams:
            _need(hparams_file, key, isinstance(hparams[key], kind))
    modules = hparams["modules"]
    good = all(isinstance(m, torch.nn.Module) for m in modules.values())
    _need(hparams_file, "modules", good and {"encoder", head} <= {*modules})
    saved = [*map(id, hparams["checkpointer"].recoverables.values())]
    good = all(id(module) in saved for module in modules.values())
    _need(hparams_file, "checkpointer", good)
    log = getattr(hparams["train_logger"], "save_file", "train_log.txt")
    _need(hparams_file, "train_logger", isinstance(log, str | Path))
    check_writable(Path(log).parent, "train_logger")


def _need(hparams_file, key, good):
    if not good:
        raise InputError(
            f"{hparams_file}: '{key}' is missing or no such thing as in the "
            "recipe's other yamls; copy it from one of them"
        )


def _prepare(settings, prepare):
    """Write the manifests, on the main process.

    Other trainings may share them: who comes later finds them written.
    """
    keys, folder = signature(prepare).parameters, settings["manifests_folder"]
    given = settings | {"save_folder": folder}

    def alone():
        with only_process(folder, "manifests_folder", wait=True):
            prepare(**{key: given[key] for key in keys if key in given})

    run_on_main(alone)


def _claim(folder, text):
    """Make a run's folder and say in it which run that is."""
    sb.create_experiment_directory(folder)
    if if_main_process():
        # Not by SpeechBrain: a kill could leave half of the file, which
        # would look like another run's.
        with atomic_path(folder / "hyperparams.yaml") as tmp:
            tmp.write_text(text, encoding="utf-8")
