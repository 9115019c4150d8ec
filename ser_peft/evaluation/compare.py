"""Models beside a reference: scores, agreement, size, latency, a map."""

import itertools
import platform

import numpy as np
import torch
from scipy.spatial import procrustes
from sklearn.manifold import TSNE
from sklearn.metrics import cohen_kappa_score
from tqdm import tqdm

from ser_peft.corpora.transcripts import clean_text
from ser_peft.data.audio import SAMPLE_RATE, read_audio
from ser_peft.data.manifests import path_of
from ser_peft.errors import InputError
from ser_peft.evaluation.latency import latency
from ser_peft.evaluation.metrics import METRICS, speaker_interval
from ser_peft.evaluation.paired import paired_difference
from ser_peft.evaluation.results import versions
from ser_peft.evaluation.runs import (
    folder_of,
    manifests_of,
    names_of,
    paired_predictions,
    pooled_predictions,
    read_runs,
)
from ser_peft.evaluation.summary import lacks, level, summarize
from ser_peft.inference import load_model

__all__ = ["METRICS", "agreement", "compare"]

SECONDS = 4.0
"""Length of the clips that are timed, as usual emotional utterances."""
BATCHES = (1, 16)
MAPPED = 300
"""Most utterances on the map; with more it is a blur, and slow."""


def compare(paths, repeats=20):
    """Compare models on the same test sets: the first, and each other with it.

    Arguments
    ---------
    paths : list of str or Path
        Finished runs, each a model; or folders of the runs of one model on
        several folds or with several seeds, which are averaged. Of those one
        is timed and mapped.
    repeats : int
        Repetitions of each timing.

    Returns
    -------
    dict
        Content of `compare.json`: ``reference`` (a name), ``corpus``,
        ``protocol``, ``scored_on`` (test, or valid of inner folds),
        ``folds``, ``classes``, ``warnings``, ``versions``;
        ``models``, one dict each: ``name`` (what its path does not share with
        the others'), ``backbone``, ``method``, ``runs``, ``folds``,
        ``seeds``, ``n_classes``, ``missing_classes``, ``start`` (as
        `summarize` has them), ``text`` (of a model that reads: its backbone,
        method and sources; else None), for each of `METRICS` a dict
        (``mean``, ``std`` and ``std_folds`` as `summarize` has them; of all
        test sets pooled ``ci95`` over speakers, and ``reason``, why there is
        none),
        ``confusion`` (pooled counts), ``layers`` (of each encoder),
        ``parameters`` (``total``; ``trained`` and, of that,
        ``adapter``), ``model_bytes`` (of the folder ``model/``),
        ``inference_bytes`` (of all tensors that inference holds, the
        backbone's too), ``merged`` (whether the adapter was folded in before
        that and before it was timed), ``latency`` (see
        `ser_peft.evaluation.latency.latency`) and ``agreement`` (see
        `agreement`; None of the reference). ``timing`` says how: ``seconds``
        of a clip, ``repeats``, ``processor``. ``map`` has ``ids``,
        ``labels`` (indices of classes) and ``points``: name -> [N, 2], a
        t-SNE of what the head's last layers score, turned towards that of
        the reference.

    Raises
    ------
    InputError
        If the models were not tested on the same utterances, or something
        that a finished run has is not there.

    Example
    -------
    >>> found = compare(["results/teacher", "results/kd"])  # doctest: +SKIP
    >>> found["models"][1]["agreement"]["kappa"]  # doctest: +SKIP
    0.83
    """
    groups, warnings = _read(paths)
    reference, (first, reference_runs) = next(iter(groups.items()))
    taken = (
        "backbone method runs folds seeds n_classes missing_classes start "
        "model_bytes"
    ).split()
    models = [
        {
            "name": name,
            **{key: group[key] for key in taken},
            "text": runs[0].get("text"),
            **_scores(group, runs),
            "confusion": group["pooled"]["confusion"],
            "agreement": None
            if name == reference
            else agreement(reference_runs, runs),
        }
        for name, (group, runs) in groups.items()
    ]
    ones = {name: runs[0] for name, (_, runs) in groups.items()}
    test = _utterances([*ones.values()])
    networks = {
        name: load_model(folder_of(run["file"])) for name, run in ones.items()
    }
    for model in models:
        name = model["name"]
        model |= _merge(networks[name], ones[name])
    timed = [*itertools.islice(itertools.cycle(test), max(BATCHES))]
    wavs = torch.stack([_lasting(u["wav"], SECONDS) for u in timed])
    texts = [u["text"] for u in timed]
    times = latency(networks, wavs, texts, BATCHES, repeats)
    for model in models:
        model["latency"] = times[model["name"]]
    return {
        "reference": reference,
        **{
            key: first[key]
            for key in "corpus protocol scored_on folds classes".split()
        },
        "models": models,
        "timing": {
            "seconds": SECONDS,
            "repeats": repeats,
            "processor": platform.processor() or platform.machine(),
        },
        "map": {
            "fold": reference_runs[0]["fold"],
            "ids": [u["id"] for u in test],
            "labels": [first["classes"].index(u["emotion"]) for u in test],
            "points": _map(networks, test),
        },
        "warnings": warnings,
        "versions": versions(),
    }


def agreement(reference, runs):
    """Agreement of two models on the same utterances.

    Arguments
    ---------
    reference, runs : list of dict
        From `ser_peft.evaluation.runs.read_runs`. Every run is paired with
        every run of the reference on the same fold; all pairs are pooled.

    Returns
    -------
    dict
        ``equal``, the share of equal predictions; ``kappa``, agreement
        beyond chance (Cohen, 1960; None where both always say the same one
        class); ``right_where_right`` and ``right_where_wrong``, the share of
        right predictions where the reference is right, and where it is not
        (None where there is no such); ``difference``, ``ci95``, ``p`` and
        ``reason`` of the UA minus that of the reference, from
        `ser_peft.evaluation.paired.paired_difference`; ``pairs``, how
        many.

    Raises
    ------
    InputError
        If runs of one fold did not predict the same utterances.
    """
    rows, pairs = [], 0
    for one, other in itertools.product(reference, runs):
        if one["protocol_sha"] != other["protocol_sha"]:
            continue
        if one["predictions"].keys() != other["predictions"].keys():
            raise InputError(
                f"{one['file']} and {other['file']}: predictions.csv beside "
                "them are not of the same utterances; copy both again"
            )
        rows += paired_predictions(one, other)
        pairs += 1
    speakers, *columns = zip(*rows, strict=True)
    labels, theirs, ours = map(np.array, columns)
    right = labels == theirs
    varied = len({*theirs, *ours}) > 1
    compared = paired_difference(
        labels, ours, theirs, speakers, reference[0]["classes"]
    )
    return {
        "equal": _share(theirs == ours),
        "kappa": float(cohen_kappa_score(theirs, ours)) if varied else None,
        "right_where_right": _share((labels == ours)[right]),
        "right_where_wrong": _share((labels == ours)[~right]),
        **{key: compared[key] for key in ("difference", "ci95", "p", "reason")},
        "pairs": pairs,
    }


def _share(flags):
    return float(flags.mean()) if len(flags) else None


def _read(paths):
    """Name -> group and its runs, all on the same test sets; and warnings."""
    groups, warnings = {}, []
    for path, name in zip(paths, names_of(paths), strict=True):
        summary = summarize([path])
        warnings += summary["warnings"]
        if len(summary["groups"]) > 1:
            found = ", ".join(group["name"] for group in summary["groups"])
            raise InputError(
                f"{path}: holds runs of several models ({found}); give a "
                "folder for each"
            )
        runs = sorted(
            read_runs([path]), key=lambda r: (str(r["fold"]), str(r["seed"]))
        )
        for run in runs:
            if not run["classes"] or not run["predictions"]:
                raise InputError(
                    f"{run['file']}: no predictions of classes beside it; "
                    "compare needs predictions.csv of a model with classes"
                )
        groups[name] = summary["groups"][0], runs
    level([group for group, _ in groups.values()])
    warnings += [
        f"{name}: incomplete, its means lack {lacks(group)}"
        for name, (group, _) in groups.items()
        if group["missing"]
    ]
    tests = {name: _tested_on(*member) for name, member in groups.items()}
    (first, theirs), *others = tests.items()
    for name, ours in others:
        if ours != theirs:
            raise InputError(
                f"{name}: tested on {ours}; {first}: on {theirs}; give runs "
                "of the same test sets"
            )
    return groups, warnings


def _tested_on(group, runs):
    """Test sets of runs, as text."""
    tests = {str(run["fold"]): run["protocol_sha"] for run in runs}
    return (
        f"{group['corpus']}, {group['protocol']}, {group['n_classes']} classes "
        f"({', '.join(group['classes'])}), fold "
        + ", ".join(f"{fold} ({sha})" for fold, sha in tests.items())
    )


def _scores(group, runs):
    """Each metric's mean and spread over runs, and its interval."""
    judged = pooled_predictions(runs)
    found = {}
    for metric in METRICS:
        ends, reason = speaker_interval(*judged, group["classes"], metric)
        found[metric] = {**group[metric], "ci95": ends, "reason": reason}
    return found


def _utterances(runs):
    """Up to `MAPPED` utterances of the runs' test set, with their audio."""
    about, manifests = manifests_of(runs)
    test = manifests[about.get("scored_on", "test")]
    ids = np.random.default_rng(0).permutation(sorted(test))[:MAPPED]
    chosen = []
    for id_ in tqdm(sorted(ids.tolist()), desc="audio", unit="clip"):
        path = path_of(test[id_], about)
        chosen.append(
            {
                "id": id_,
                "wav": read_audio(path),
                "emotion": test[id_]["emotion"],
                "text": clean_text(test[id_].get("text", "")),
            }
        )
    return chosen


def _merge(network, run):
    """Merge adapters where they can be; sizes before and after."""
    total = sum(p.numel() for p in network.parameters())
    trained = run["trainable_parameters"]
    merged = network.merge()  # the page tells if not
    return {
        "parameters": {
            "total": total,
            "trained": sum(trained.values()),
            "adapter": sum(trained.values()) - trained["head"],
        },
        "layers": [one.num_layers for one in network.encoders.values()],
        "merged": merged,
        "inference_bytes": sum(_sizes(network).values()),
    }


def _sizes(network):
    """Place in memory -> bytes of each tensor: shared ones are there once."""
    return {
        tensor.data_ptr(): tensor.nbytes
        for tensor in network.state_dict().values()
    }


def _lasting(wav, seconds):
    """A clip repeated or cut to so many seconds, [T]."""
    samples = round(seconds * SAMPLE_RATE)
    return wav.repeat(-(-samples // len(wav)))[:samples]


@torch.no_grad()
def _map(networks, test):
    """Name -> place of every utterance on the map, [N, 2]."""
    points = {}
    with tqdm(total=len(networks) * len(test), desc="map", unit="clip") as bar:
        for name, network in networks.items():
            vectors = []
            for u in test:
                length = torch.tensor([len(u["wav"])])
                vector = network.embed(u["wav"][None], length, [u["text"]])
                vectors.append(vector[0].numpy())
                bar.update()
            points[name] = TSNE(
                perplexity=min(30, (len(test) - 1) / 3), random_state=0
            ).fit_transform(np.stack(vectors))
    target, *_ = points.values()
    # Turned, shifted and scaled only: neighbours stay neighbours.
    return {
        name: procrustes(target, own)[1].round(5).tolist()
        for name, own in points.items()
    }
