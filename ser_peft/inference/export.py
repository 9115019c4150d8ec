"""A finished run, or several as an ensemble -> a folder to ship."""

import json
import logging
import shutil
from pathlib import Path

from ser_peft.adapters import PeftLobe
from ser_peft.data.provenance import RECORD, record_of, united
from ser_peft.errors import InputError
from ser_peft.inference.card import CARD, HPARAMS, move_card
from ser_peft.inference.ensembles import models_in, refuse_one_place
from ser_peft.inference.loading import load_model, read_model
from ser_peft.inference.model import FORMAT, identities
from ser_peft.io import atomic_path, write_json
from ser_peft.storage.closed import (
    MANIFEST,
    SIGNATURE,
    files_of,
    hashes,
    seal,
    sign,
)

__all__ = ["assemble", "export"]

logger = logging.getLogger(__name__)

TEMPLATES = Path(__file__).with_name("templates")


def export(
    run,
    out,
    merge=False,
    backbone=None,
    text_backbone=None,
    sign_with=None,
    speechbrain=False,
):
    """Copy a trained model to a folder of its own.

    Arguments
    ---------
    run : str or Path
        A finished run, its ``model/`` folder, or a model's name.
    out : str or Path
        New folder, which `ser_peft.load_model` takes.
    merge : bool
        Merge the adapter into the encoder's weights and write the encoder
        too: ``encoder/`` in the layout of Hugging Face, for
        `transformers.AutoModel.from_pretrained` (a Whisper is its
        `encoder`); the same for a ``text_encoder/``. An encoder whose upper
        layers were cut off is for `load_lobe` with that depth.
    backbone : str, optional
        Hugging Face id or folder of the encoder, if its users shall look for
        it elsewhere than training did. The export names no folder of this
        machine: without an id or `merge`, its users say where they have the
        encoder.
    text_backbone : str, optional
        The same for the text encoder.
    sign_with : str or Path, optional
        Private key, see `ser_peft.storage.closed.sign`.
    speechbrain : bool
        Add a ``hyperparams.yaml``, by which SpeechBrain's own
        `EncoderClassifier.from_hparams` loads the folder.

    Returns
    -------
    dict
        Entry for the registry (`ser_peft.storage.released.registry_file`).

    Raises
    ------
    InputError
        If `run` is no model, `out` is there already, or the method cannot be
        merged.
    """
    out = Path(out)
    if out.exists():
        raise InputError(f"{out}: is there already; give a new folder")
    folder, about = read_model(run)
    if speechbrain and not about["classes"]:
        raise InputError(
            f"{folder}: has no classes, which SpeechBrain's classifiers give; "
            "export it without --speechbrain"
        )
    if speechbrain and "members" in about:
        raise InputError(
            f"{folder}: is an ensemble, which SpeechBrain's classifiers do "
            "not know; export it without --speechbrain"
        )
    places = {"backbone": backbone, "text_backbone": text_backbone}
    with atomic_path(out) as tmp:
        if "members" in about:
            encoders, members = {}, models_in(folder, about)
            refuse_one_place(members, **places)
            for path in members:
                place = tmp / path.relative_to(folder)
                export(path, place, merge, **places)
            _copy(folder, tmp, about["members"])
        elif merge:
            encoders = _merge(folder, backbone, text_backbone, tmp)
        else:
            _copy(folder, tmp)
            encoders = dict(about["encoders"] or {})
            for key, given in places.items():
                if key not in about:
                    continue
                place = given or about[key]
                if place and (Path(place).is_absolute() or given):
                    place = _outward(out, key, place)
                # Of an encoder that is named anew, nothing else is known.
                seen = {} if given and place else encoders.get(key, {})
                encoders[key] = {**seen, "source": place}
                if place != about[key]:
                    _rename(tmp, key, place)
        if speechbrain:
            shutil.copyfile(TEMPLATES / HPARAMS, tmp / HPARAMS)
        seal(tmp, encoders, about["origins"])
        move_card(folder, tmp)
        if sign_with:
            sign(tmp, sign_with)
    source = str(out.resolve())
    return {out.name: {"source": source, "sha256": hashes(out)}}


def assemble(models, out, trust=False):
    """Make one model folder of several, an ensemble.

    Arguments
    ---------
    models : list of str or Path
        Finished runs, their ``model/`` folders, or names of models, with the
        same classes and dimensions in the same order.
    out : str or Path
        Model folder, which `ser_peft.load_model` takes; replaced if it is
        there. ``members/`` has a whole model folder of each; those that were
        trained in the same frozen encoder have no copy of it. ``heard.json``
        has the speakers whom any of them has heard.
    trust : bool
        Take a model without a record of the speakers it has heard.

    Returns
    -------
    dict
        ``heard.json``.

    Raises
    ------
    InputError
        If one is no model, an ensemble itself, without a record, or tells
        other classes or dimensions than the first.
    """
    read = [read_model(model) for model in models]
    told = [(one["classes"], [*one["dimensions"]]) for _, one in read]
    for (folder, about), found in zip(read, told, strict=True):
        if "members" in about:
            raise InputError(
                f"{folder}: is an ensemble already; give its members"
            )
        if found != told[0]:
            raise InputError(
                f"{folder}: tells {', '.join(sum(found, []))}; {read[0][0]} "
                f"{', '.join(sum(told[0], []))}: members must have the same, "
                "in the same order"
            )
    heard = united([record_of("member", folder, trust) for folder, _ in read])
    names = [f"members/{number}" for number in range(1, len(read) + 1)]
    with atomic_path(out) as tmp:
        for name, (folder, _) in zip(names, read, strict=True):
            _copy(folder, tmp / name, keep=MANIFEST)
        write_json(tmp / "model.json", {"format": FORMAT, "members": names})
        write_json(tmp / RECORD, heard)
        seal(tmp, {}, [one for _, about in read for one in about["origins"]])
    return heard


def _copy(folder, out, leave=(), keep=None):
    """Copy a model folder, but for manifest, signature and card.

    Arguments
    ---------
    folder, out : Path
        Model folder and its copy.
    leave : iterable of str
        Folders in it that are not copied.
    keep : str, optional
        One of the files above that is copied nevertheless.
    """
    for name, path in files_of(folder).items():
        if name == keep or not (
            name in (MANIFEST, SIGNATURE, CARD)
            or name.startswith(tuple(f"{one}/" for one in leave))
        ):
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, out / name)


def _outward(out, key, place):
    """Place of an encoder for users of other machines, or None."""
    if not (Path(place).is_absolute() or Path(place).is_dir()):
        return place
    logger.warning(
        "%s: its encoder is %s, a folder of this machine, which is not named "
        "in it: those who load it give --%s; export with --%s and a Hugging "
        "Face id, or with --merge, if they shall not have to",
        out, place, key, key,
    )  # fmt: skip
    return None


def _merge(folder, backbone, text_backbone, out):
    """Write a merged model; return the identities of its encoders."""
    model = load_model(folder, backbone, text_backbone=text_backbone)
    lobes = {}
    for name, encoder in model.encoders.items():
        lobes[name] = encoder.merge().lobe
        # Beside model.json, and in the manifest with all other files.
        lobes[name].source, lobes[name].identity = name, None
        setattr(model, name, PeftLobe(lobes[name], "frozen"))
    model.save(out)
    for name, lobe in lobes.items():
        lobe.save_pretrained(out / name)
    if (folder / RECORD).exists():
        # Beside each encoder too, which others may train without the rest.
        for place in (out, *map(out.joinpath, lobes)):
            shutil.copy(folder / RECORD, place)
    return identities(model.encoders)


def _rename(folder, key, place):
    """Name another place of an encoder, or none, wherever one is named."""
    adapter = "adapter" if key == "backbone" else "text_adapter"
    about = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    write_json(folder / "model.json", {**about, key: place})
    for path in (folder / adapter).rglob("adapter_config.json"):
        about = json.loads(path.read_text(encoding="utf-8"))
        about["base_model_name_or_path"] = place
        write_json(path, about)
