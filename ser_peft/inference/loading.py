"""Model folders, of trainings and releases: read, proven, loaded."""

import hashlib
import inspect
import json
import logging
from pathlib import Path

from huggingface_hub.utils import HFValidationError, validate_repo_id

from ser_peft.adapters import load_adapter
from ser_peft.adapters.folder import CONFIG, refuse_nonfinite, several
from ser_peft.errors import InputError
from ser_peft.heads import HEADS
from ser_peft.heads.fusion import FUSIONS
from ser_peft.inference.ensembles import (
    EnsembleModel,
    models_in,
    refuse_one_place,
)
from ser_peft.inference.model import FORMAT, EmotionModel, identities
from ser_peft.inference.onnx import is_onnx, load_onnx
from ser_peft.lobes import load_lobe, load_text
from ser_peft.lobes.configs import SCRATCH
from ser_peft.lobes.transformer import weights_of
from ser_peft.storage.checkpoints import load_tensors
from ser_peft.storage.closed import (
    MANIFEST,
    check_signature,
    hashes,
    origins_of,
)
from ser_peft.storage.closed import verify as verify_folder
from ser_peft.storage.model_files import EnsembleFile, ModelFile
from ser_peft.storage.released import (
    find,
    hub_name,
    is_name,
    is_registered,
)
from ser_peft.storage.schema import fit, read_json

__all__ = ["load_model", "read_model"]

logger = logging.getLogger(__name__)


def read_model(folder, save_path=""):
    """Read and check the description of a trained model.

    Arguments
    ---------
    folder : str or Path
        The ``model/`` folder of a run, the run's folder, or a name that
        `ser_peft.storage.released.find` knows.
    save_path : str
        Folder for downloads.

    Returns
    -------
    folder : Path
        The ``model/`` folder.
    about : dict
        ``model.json``, with the class as ``head``; ``encoders``, their
        sources and hashes in the manifest (None without one); ``proven``,
        whether manifest or registry have the hashes of all files;
        ``origins``, see `ser_peft.storage.closed.origins_of`. Of an ensemble
        ``members`` (path in the folder -> the same of a member), ``classes``
        and ``dimensions``, and the last three.

    Raises
    ------
    InputError
        If there is no model, its description is wrong, or a file differs
        from the manifest.
    """
    proven, hub = is_registered(folder), hub_name(folder)
    folder = Path(find(folder, save_path) if is_name(folder) else folder)
    if (folder / "model" / "model.json").exists():
        if (folder / "model").is_symlink():
            raise InputError(
                f"{folder / 'model'}: is a link; give the folder itself"
            )
        folder = folder / "model"
    encoders = verify_folder(folder)
    if hub and encoders is None:
        raise InputError(
            f"{hub[0]}: has no {MANIFEST}: nothing proves that its files are "
            "whole; ask its author to send it by `ser-peft push`"
        )
    path = folder / "model.json"
    how = "describes no model", "save it again"
    missing = "give a finished run or its model/ folder"
    written = read_json(path, dict[str, object], *how, missing)
    if isinstance(written.get("format"), int) and written["format"] != FORMAT:
        raise InputError(
            f"{path}: format {written['format']}, this ser_peft reads "
            f"{FORMAT}; install the one that wrote it"
        )
    proven = proven or encoders is not None
    if "members" in written:
        described = fit(path, written, EnsembleFile, *how)
        about = _read_members(path, described.members, proven)
    else:
        about = _read_one(path, written, *how)
    return folder, {
        **about,
        "encoders": encoders,
        "proven": proven,
        "origins": origins_of(folder),
    }


def _read_members(path, names, proven):
    """Read the members of an ensemble, whose files are in its manifest."""
    members = {}
    for name in names:
        _, one = read_model(path.parent / name)
        if "members" in one:
            raise InputError(
                f"{path}: members: {name}: is an ensemble itself; make one "
                "of its members and the others"
            )
        members[name] = {**one, "proven": proven or one["proven"]}
    first = next(iter(members.values()))
    told = {key: first[key] for key in ("classes", "dimensions")}
    return {"members": members, **told}


def _read_one(path, written, *how):
    """Read the description of a model that is no ensemble."""
    described = fit(path, written, ModelFile, *how)
    about = described.model_dump()
    if "text_backbone" not in described.model_fields_set:
        del about["text_backbone"], about["text_depth"]
    kind = about["head"]
    about["head"] = (HEADS | FUSIONS).get(kind)
    wrong = _wrong_head(about)
    if len({*about["classes"]}) < len(about["classes"]):
        wrong = f"classes: {about['classes']}: one is there twice"
    if not about["classes"] and not about["dimensions"]:
        wrong = "classes: []: neither classes nor dimensions"
    if wrong:
        raise InputError(f"{path}: {how[0]} ({wrong}); {how[1]}")
    return about


def _wrong_head(about):
    """Reason why a described head is wrong, if it is."""
    head = about["head"]
    if head is None:
        return f"head: unknown; it must be one of {', '.join(HEADS | FUSIONS)}"
    takes = set().union(
        *(inspect.signature(kind.__init__).parameters for kind in head.__mro__)
    )
    for key, value in about["head_settings"].items():
        if key not in takes:
            return f"head_settings.{key}: {value!r}: {head.__name__} has none"
    if (head.__name__ in FUSIONS) != ("text_backbone" in about):
        return f"head: {head.__name__}: fusions and a text_backbone go together"
    return None


def _encoder(folder, about, key, given, load, save_path, **how):
    """Load an encoder: the given one, or the one of the training."""
    identity = (about["encoders"] or {}).get(key, {})
    if given:
        lobe = load(given, save_path, **how)
        found = (lobe.identity or {}).get("sha256")
        if found and found != identity.get("sha256", found):
            logger.warning(
                "--%s %s: has other weights than the encoder that %s was "
                "trained in", key, given, folder,
            )  # fmt: skip
        return lobe
    path, place = folder / "model.json", about[key]
    if place is None:
        raise InputError(
            f"{path}: {key}: null: its encoder was a folder of the machine "
            f"that trained it; give it as --{key}"
        )
    advice = f"give --{key} if you know the right one"
    if Path(place).is_absolute():
        # Older models have no manifest; what was registered is vouched for.
        old = about["encoders"] is None and (
            about["proven"] or _adapter_names(folder, key, place)
        )
        if "sha256" not in identity and not old:
            raise InputError(
                f"{path}: {key}: {place}: is outside of the model's folder, "
                f"and nothing says what was in it; {advice}"
            )
        found = weights_of(place)
        if found and found != identity.get("sha256", found):
            raise InputError(
                f"{path}: {key}: {place}: has other weights than when the "
                f"model was trained ({MANIFEST} has their SHA-256); restore "
                f"them, or give --{key} to take others"
            )
    elif (folder / place).is_dir():
        place = str(folder / place)  # a merged one, proven with the rest
    elif place not in SCRATCH or key != "backbone":
        try:
            validate_repo_id(place)
        except HFValidationError as error:
            raise InputError(
                f"{path}: {key}: {place}: is neither a folder in the model's "
                f"own nor a Hugging Face id; {advice}"
            ) from error
        if Path(place).exists():
            raise InputError(
                f"{path}: {key}: {place}: means the one of the Hugging Face "
                f"hub, and a file or folder here has its name; {advice}, or "
                "go to another folder"
            )
    return load(place, save_path, revision=identity.get("commit"), **how)


def _adapter_names(folder, key, place):
    """Whether the adapter was trained in the encoder that is named."""
    adapter = folder / key.replace("backbone", "adapter")
    paths = [one / CONFIG for one in several(adapter)]
    wrong, advice = "is no adapter configuration", "export the adapter again"
    configs = [
        read_json(path, dict[str, object], wrong, advice) for path in paths
    ]
    return bool(configs) and all(
        config.get("base_model_name_or_path") == place for config in configs
    )


def load_model(
    folder,
    backbone=None,
    save_path="",
    device="cpu",
    text_backbone=None,
    verify=None,
    revision=None,
):
    """Load a trained model for inference.

    It computes in float32 whatever it was trained in, as the test of a
    training does (``eval_precision``): in bf16 a clip's scores would move by
    up to 0.01 from one kind of device to another, and by 0.001 with its batch
    mates.

    Arguments
    ---------
    folder : str or Path
        The ``model/`` folder of a run, the run's folder, the name of a
        released model (see `ser_peft.storage.released`), or of one on the
        Hugging Face hub: ``user/name``, or ``user/name@revision``. No code
        of it is run; its commit is named in what is made from it. A ``.onnx``
        file too, see `ser_peft.inference.onnx`.
    backbone : str, optional
        Place of the encoder now, if training found it elsewhere. Weights that
        differ from those of the training are taken too, with a warning.
    save_path : str
        Folder for downloads.
    device : str
        Device to put the model on.
    text_backbone : str, optional
        Place of the text encoder now, if the model has one.
    verify : str or Path, optional
        Public key (PEM) of the person who must have signed the folder, see
        `ser_peft.storage.closed.sign`.
    revision : str, optional
        Commit, branch or tag of a model on the hub; the newest commit of its
        main branch by default, which stays the same in a process.

    Returns
    -------
    EmotionModel
        In eval mode; of an ensemble an `EnsembleModel`, of a ``.onnx`` file
        an `OnnxModel`.

    Raises
    ------
    InputError
        If the folder is not a model, a file or the encoder differs from the
        manifest, the backbone does not fit, or a weight is NaN or infinite.

    Example
    -------
    >>> model = load_model("results/whisper_lora")  # doctest: +SKIP
    >>> model.predict(["clip.wav"])[0]["label"]  # doctest: +SKIP
    'happy'
    """
    if is_onnx(folder):
        places = {"backbone": backbone, "text_backbone": text_backbone}
        return load_onnx(folder, device=device, verify=verify, **places)
    named = f"{folder}@{revision}" if revision else folder
    if revision and not hub_name(named):
        raise InputError(
            f"revision {revision}: {folder} is no name on the Hugging Face "
            "hub; give user/name, or no revision"
        )
    folder, about = read_model(named, save_path)
    if verify:
        check_signature(folder, verify)
    elif not about["proven"]:
        logger.warning(
            "%s: has no %s, as older versions wrote none: nothing proves that "
            "its files are whole and as they were written", folder, MANIFEST,
        )  # fmt: skip
    models = models_in(folder, about)
    places = {"backbone": backbone, "text_backbone": text_backbone}
    refuse_one_place(models, **places)
    loaded = (
        _load_one(path, one, save_path, **places)
        for path, one in models.items()
    )
    model = EnsembleModel(loaded) if "members" in about else next(loaded)
    files = [hashes(folder), identities(model.encoders)]
    content = json.dumps(files, sort_keys=True).encode()
    model.origins = about["origins"]
    model.fingerprint = hashlib.sha256(content).hexdigest()
    return model.eval().to(device)


def _load_one(folder, about, save_path, backbone, text_backbone):
    """Load a model that is no ensemble."""
    lobe = _encoder(
        folder, about, "backbone", backbone, load_lobe, save_path,
        depth=about["depth"], frame_stride=about["frame_stride"],
    )  # fmt: skip
    encoder = load_adapter(lobe, folder / "adapter")
    text = {}
    if "text_backbone" in about:
        lobe = _encoder(
            folder, about, "text_backbone", text_backbone, load_text,
            save_path, depth=about["text_depth"],
        )  # fmt: skip
        text = {"text_encoder": load_adapter(lobe, folder / "text_adapter")}
    classes, dimensions = about["classes"], about["dimensions"]
    head = about["head"](
        encoder, len(classes), len(dimensions), **text, **about["head_settings"]
    )
    load_tensors(head, folder / "head.safetensors")
    refuse_nonfinite(head.state_dict(), folder / "head.safetensors")
    for one in (encoder, *text.values()):
        refuse_nonfinite(one.state_dict(), one.lobe.source)
    taken = ("temperature", "dimensions", "first_seconds", "unsure")
    settings = {key: about[key] for key in taken}
    return EmotionModel(encoder, head, classes, **settings, **text)
