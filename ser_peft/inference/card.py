"""Model cards: README.md of a model folder, as the Hugging Face hub reads it.

The manifest does not list it, since no loader reads it: people may edit it.
"""

import re
from pathlib import Path

import jinja2
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from markupsafe import Markup

from ser_peft.corpora import about_corpus
from ser_peft.errors import InputError, printable
from ser_peft.inference.ensembles import models_in
from ser_peft.inference.loading import read_model
from ser_peft.io import atomic_path
from ser_peft.lobes.configs import SCRATCH
from ser_peft.storage.released import is_hub_id
from ser_peft.storage.schema import read_json

__all__ = ["CARD", "HPARAMS", "move_card", "read_card", "write_card"]

CARD, HPARAMS = "README.md", "hyperparams.yaml"
NOBODY = "user/name"
"""Name in the examples until the model has one."""
LOADING = "How to load"
"""Title of the section that depends on where encoder and folder are."""
SPECIAL = re.compile(r"[\\`*_\[\]|~$@]|:(?=//)|(?<=www)\.")
"""What markdown takes for more than text, other than in the beginning of a
line; colon and dot are those of addresses."""
HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def write_card(folder, results):
    """Write the card of a model whose test results are there.

    Arguments
    ---------
    folder : str or Path
        ``model/`` of the run.
    results : dict
        Content of ``results.json``.

    Raises
    ------
    InputError
        If the folder holds no model.
    """
    folder, about = read_model(folder)
    _write(folder, _placed(_render(results, about), folder, about))


def move_card(folder, out):
    """Copy the card of a model to an export of it.

    Arguments
    ---------
    folder : str or Path
        Model folder; one without a card has none to copy, unless it is that
        of a run, whose ``results.json`` is beside it.
    out : str or Path
        Export of it, whose encoder may be elsewhere.
    """
    if text := _text(*read_model(folder)):
        out, about = read_model(out)
        _write(out, _placed(text, out, about))


def read_card(folder, name=None):
    """Read the card of a model folder.

    Arguments
    ---------
    folder : str or Path
        Model folder.
    name : str, optional
        Name that the card's examples shall load the model by.

    Returns
    -------
    huggingface_hub.ModelCard

    Raises
    ------
    InputError
        If there is none, or its front matter cannot be read.
    """
    folder, about = read_model(folder)
    text = _text(folder, about)
    if text is None:
        raise InputError(
            f"{folder / CARD}: is missing; write a model card, or give the "
            "run, whose results make one"
        )
    return _placed(text, folder, about, name)


def _text(folder, about):
    """Content of a model's card, if it has one or can have."""
    path = folder.parent / "results.json"
    try:
        if (folder / CARD).is_file():
            return (folder / CARD).read_text("utf-8")
        if folder.name == "model" and path.is_file():
            wrong = "is no table of results"
            results = read_json(path, dict[str, object], wrong, "test it again")
            return _render(results, about)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{folder / CARD}: is not UTF-8 ({error.reason}); save it as UTF-8"
        ) from error
    except (KeyError, jinja2.UndefinedError) as error:
        raise InputError(
            f"{path}: an older version's, without all that a card says "
            f"({error}); test the run again (--test_only=True)"
        ) from error
    return None


def plain(value):
    """Text as markdown shows it, whoever wrote it: one line, no markup.

    Example
    -------
    >>> print(plain("[a](http://b)<c>"))
    \\[a\\](http\\://b)&lt;c&gt;
    """
    if isinstance(value, Markup):
        return value
    text = printable(" ".join(str(value).split()))
    text = re.sub("[&<>]", lambda found: HTML[found[0]], text)
    return Markup(SPECIAL.sub(r"\\\g<0>", text))


def link(address):
    """Address that markdown makes a link of, if it is one."""
    whole = re.fullmatch(r"https?://[\w./~%?&=#:-]+", address)
    return Markup(f"<{address}>") if whole else address


def line(text):
    """Text in one line, so that no name is at the beginning of any."""
    return Markup(" ".join(text.split()))


def slug(text):
    """Text as a tag or name of the hub.

    Example
    -------
    >>> slug("CC BY-NC-SA 4.0")
    'cc-by-nc-sa-4.0'
    """
    return re.sub("[^a-z0-9.]+", "-", str(text).lower()).strip("-.") or "-"


_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("ser_peft.inference"),
    autoescape=True,
    finalize=plain,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_ENVIRONMENT.filters |= {"line": line, "link": link}


def _render(results, about):
    """Card of a tested model, without what `_placed` adds."""
    heard = results.get("heard", {})
    corpora = {
        name: about_corpus(name)
        for name in [*heard.get("speakers", {})] or [results["corpus"]]
    }
    data = ModelCardData(
        library_name="ser_peft",
        pipeline_tag="audio-classification",
        tags=_tags(results, corpora),
        datasets=[slug(name) for name in corpora],
        language=sorted({a.language for a in corpora.values() if a.language}),
        license="other",
        **_license(corpora),
        metrics=_metrics(results),
        model_name=_title(results),
        eval_results=_figures(results),
    )
    text = _ENVIRONMENT.get_template("card.md.j2").render(
        r=results,
        about=about,
        corpora=corpora,
        heard=heard,
        title=_title(results),
        encoder=_short(results["backbone"]),
        text_encoder=_short(results.get("text", {}).get("backbone", "-")),
        loading=LOADING,
    )
    return f"---\n{data.to_yaml()}\n---\n\n{text}"


def _short(place):
    """Name of an encoder: no path of the machine that trained."""
    return Path(place).name if Path(place).is_absolute() else place


def _title(results):
    name = f"{_short(results['backbone'])} {results['method']}"
    return printable(f"{name.rpartition('/')[2]} {results['corpus']}")


def _tags(results, corpora):
    tags = ["speech-emotion-recognition", "speechbrain", "peft"]
    tags += [slug(results["method"])]
    if any(about.commercial is False for about in corpora.values()):
        tags += ["non-commercial"]
    return tags


def _license(corpora):
    """Name and link of the corpora's licences; the encoder has its own."""
    names = {slug(about.licence or "unknown") for about in corpora.values()}
    link = next(iter(corpora.values())).link if len(corpora) == 1 else None
    return {
        "license_name": f"corpus-{'-and-'.join(sorted(names))}",
        "license_link": link,
    }


def _metrics(results):
    metrics = ["recall", "accuracy", "f1"] if results["classes"] else []
    return metrics + ["ccc"] * ("ccc" in results)


def _figures(results):
    """Scores for the card's model-index: of the scored set, of each corpus."""
    split = f"{results['protocol']}, fold {results['fold']}"
    found = []
    for corpus, scores in (
        (results["corpus"], results),
        *results.get("by_corpus", {}).items(),
    ):
        rows = []
        if results["classes"]:
            rows += [
                ("recall", "UA (mean of per-class recalls)", scores["ua"]),
                ("accuracy", "WA (accuracy)", scores["wa"]),
                ("f1", "macro F1", scores["macro_f1"]),
            ]
        rows += [
            ("ccc", f"CCC of {name}", value)
            for name, value in scores.get("ccc", {}).items()
        ]
        found += [
            EvalResult(
                task_type="audio-classification",
                task_name="Speech emotion recognition",
                dataset_type=slug(corpus),
                dataset_name=printable(corpus),
                dataset_config=printable(split),
                dataset_split=results.get("scored_on", "test"),
                metric_type=kind,
                metric_name=printable(name),
                metric_value=round(value, 4),
            )
            for kind, name, value in rows
            if value is not None
        ]
    return found


def _placed(text, folder, about, name=None):
    """Card that says where this folder's encoders are, and how to load it."""
    try:
        card = ModelCard(text)
    except (ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{folder / CARD}: its front matter cannot be read ({reason}); "
            "correct it"
        ) from error
    encoders = []
    for path, one in models_in(folder, about).items():
        for key in ("backbone", "text_backbone"):
            if (
                key in one
                and (found := _encoder(path, one, key)) not in encoders
            ):
                encoders.append(found)
    if ids := [one["name"] for one in encoders if one["hub"]]:
        card.data.base_model = ids
    section = _ENVIRONMENT.get_template("loading.md.j2").render(
        title=LOADING,
        encoders=encoders,
        name=Markup(name or NOBODY),
        speechbrain=(folder / HPARAMS).is_file(),
    )
    card.text = re.sub(
        rf"^## {LOADING}\n.*?(?=^## |\Z)",
        lambda _: section,
        card.text,
        count=1,
        flags=re.M | re.S,
    )
    return card


def _encoder(folder, about, key):
    """Name of an encoder and kind of its place."""
    place = about[key]
    identity = (about["encoders"] or {}).get(key, {})
    inside = bool(place) and not Path(place).is_absolute()
    inside = inside and (place in SCRATCH or (folder / place).is_dir())
    hub = bool(place) and not inside and is_hub_id(place)
    return {
        "key": key,
        "name": _short(place or ""),
        "inside": inside,
        "hub": hub,
        "commit": identity.get("commit"),
    }


def _write(folder, card):
    with atomic_path(folder / CARD) as tmp:
        tmp.write_text(str(card), encoding="utf-8", errors="backslashreplace")
