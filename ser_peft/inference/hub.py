"""A model folder -> a repository of the Hugging Face hub, in one commit."""

from collections import namedtuple
from importlib.metadata import version
from itertools import product
from pathlib import Path

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    get_token,
)

from ser_peft.data.provenance import RECORD
from ser_peft.errors import InputError
from ser_peft.inference.card import CARD, read_card
from ser_peft.inference.ensembles import models_in
from ser_peft.inference.loading import read_model
from ser_peft.storage.closed import MANIFEST, files_of
from ser_peft.storage.released import HUB_ERRORS, is_hub_id

__all__ = ["Parcel", "pack", "push"]

Parcel = namedtuple("Parcel", "files card refused notes")
Parcel.__doc__ = """What would be pushed.

Arguments
---------
files : dict
    Path in the repository -> file.
card : huggingface_hub.ModelCard
    Model card, which loads the model by its name on the hub.
refused : list of str
    Reasons why it cannot be.
notes : list of str
    What others will see and not expect.
"""


def pack(model, name):
    """Collect what would be pushed; needs no network.

    Arguments
    ---------
    model : str or Path
        Finished run or model folder.
    name : str
        ``user/name`` on the hub.

    Returns
    -------
    Parcel

    Raises
    ------
    InputError
        If there is no such model, it has no card, or the hub has no such
        names.
    """
    if not is_hub_id(name):
        raise InputError(
            f"{name}: is no name of the Hugging Face hub; give user/name, of "
            "letters, digits, '-', '_' and '.'"
        )
    folder, about = read_model(model)
    card, files = read_card(folder, name), files_of(folder)
    refused = []
    if about["encoders"] is None:
        refused.append(
            f"{folder}: has no {MANIFEST}, as those of older versions: nobody "
            "would load it; export it first"
        )
    for (path, one), key in product(
        models_in(folder, about).items(), ("backbone", "text_backbone")
    ):
        place = one.get(key, "")
        if place is None or Path(place).is_absolute():
            refused.append(
                f"{path / 'model.json'}: {key}: {place or 'null'}: a folder "
                f"of this machine, which others do not have; export it first, "
                f"with --{key} and the encoder's Hugging Face id, or with "
                "--merge"
            )
    notes = []
    if RECORD in files:
        notes.append(
            f"{RECORD} names the speakers that it has heard, so that nobody "
            "tests it on them"
        )
    if card.data.get("license", "other") == "other":
        notes.append(
            f"{CARD} says which licences bind the model; its own is yours to "
            "choose: set `license` in its first lines"
        )
    return Parcel(files, card, refused, notes)


def push(model, name, private=False, revision=None):
    """Push a model to the Hugging Face hub, as one commit.

    The repository is made if it is not there. Files that it has and the model
    has not are deleted: a folder with files that its manifest does not list
    is refused by all who load it.

    Arguments
    ---------
    model : str or Path
        Finished run or model folder, with its card.
    name : str
        ``user/name`` on the hub.
    private : bool
        Make a private repository.
    revision : str, optional
        Branch, made if it is not there; the main one by default.

    Returns
    -------
    str
        The commit.

    Raises
    ------
    InputError
        If others could not load the model, nobody is logged in, or the hub
        refuses.
    """
    parcel = pack(model, name)
    if parcel.refused:
        raise InputError(parcel.refused[0])
    if not get_token():
        raise InputError(
            f"{name}: you are not logged in to the Hugging Face hub; run `hf "
            "auth login`, or set HF_TOKEN to a token that may write"
        )
    operations = [CommitOperationAdd(CARD, str(parcel.card).encode())]
    operations += [
        CommitOperationAdd(path, str(file))
        for path, file in parcel.files.items()
        if path != CARD
    ]
    try:
        return _commit(name, operations, private, revision)
    except InputError:
        raise
    except HUB_ERRORS as error:
        reason = " ".join(str(error).split()) or repr(error)
        response = getattr(error, "response", None)
        advice = "try again"
        if response is not None and response.status_code in (401, 403):
            advice = (
                "log in as somebody who may write there: `hf auth login`, or "
                "HF_TOKEN"
            )
        raise InputError(
            f"{name}: the Hugging Face hub did not take it ({reason:.300}); "
            f"{advice}"
        ) from error


def _commit(name, operations, private, revision):
    api = HfApi(library_name="ser_peft", library_version=version("ser_peft"))
    api.create_repo(name, private=private or None, exist_ok=True)
    if private and not api.model_info(name).private:
        raise InputError(
            f"--private: {name} is there already and public; make it private "
            "in its settings on the hub, or give another name"
        )
    if revision:
        api.create_branch(name, branch=revision, exist_ok=True)
    ours = {operation.path_in_repo for operation in operations}
    operations += [
        CommitOperationDelete(path)
        for path in api.list_repo_files(name, revision=revision)
        if path not in ours and not path.startswith(".") and path != "LICENSE"
    ]
    return api.create_commit(
        name,
        operations,
        commit_message=f"Model of ser_peft {version('ser_peft')}",
        revision=revision,
    ).oid
