"""A finished run -> a folder to ship."""

import json
import logging
import shutil
from pathlib import Path

from ser_peft.adapters import PeftLobe
from ser_peft.errors import InputError
from ser_peft.inference import load_model, read_model
from ser_peft.io import atomic_path, write_json
from ser_peft.released import hashes

__all__ = ["export"]

logger = logging.getLogger(__name__)


def export(run, out, merge=False, backbone=None):
    """Copy a trained model to a folder of its own.

    Arguments
    ---------
    run : str or Path
        A finished run, its ``model/`` folder, or a model's name.
    out : str or Path
        New folder, which `ser_peft.load_model` takes.
    merge : bool
        Fold the adapter into the encoder's weights and write the encoder
        too: ``encoder/``, in the layout of Hugging Face, which
        `transformers.AutoModel.from_pretrained` takes (of a Whisper, the
        `encoder` of what that gives); likewise a ``text_encoder/``.
    backbone : str, optional
        Hugging Face id or folder of the encoder, where it is not, or shall
        not be looked for, where training found it.

    Returns
    -------
    dict
        The entry for the registry (`ser_peft.released.registry_file`).

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
    places = [backbone or about["backbone"], about.get("text_backbone", "")]
    for place in () if merge else filter(None, places):
        if Path(place).is_dir():
            logger.warning(
                "%s: looks for an encoder in %s, a folder of this machine; "
                "export with --merge, or give --backbone and a Hugging Face "
                "id, if others shall load it", out, place,
            )  # fmt: skip
    with atomic_path(out) as tmp:
        if merge:
            _merge(folder, backbone, tmp)
        else:
            shutil.copytree(folder, tmp)
            if backbone is not None:
                _rename(tmp, backbone)
    source = str(out.resolve())
    return {out.name: {"source": source, "sha256": hashes(out)}}


def _merge(folder, backbone, out):
    model = load_model(folder, backbone)
    lobes = {}
    for name in ("encoder", "text_encoder"):
        if encoder := getattr(model, name):
            lobes[name] = encoder.merge().lobe
            lobes[name].source = name  # beside model.json
            setattr(model, name, PeftLobe(lobes[name], "frozen"))
    model.save(out)
    for name, lobe in lobes.items():
        lobe.save_pretrained(out / name)


def _rename(folder, backbone):
    """Name another place of the encoder wherever one is named."""
    for path in folder.rglob("*.json"):
        if "text_adapter" in path.parts:
            continue
        about = json.loads(path.read_text(encoding="utf-8"))
        for key in ("backbone", "base_model_name_or_path"):
            if key in about:
                about[key] = str(backbone)
        write_json(path, about)
