"""What a finished pretraining leaves behind for people: one page."""

import numpy as np
import torch
from torchaudio.transforms import AmplitudeToDB, MelSpectrogram

from ser_peft.data.audio import SAMPLE_RATE
from ser_peft.report import figures
from ser_peft.report.page import template
from ser_peft.report.run_page import ENVIRONMENT, epoch_table, write_page

__all__ = ["write_pretraining_report"]

_SECONDS = 8  # of the pictured utterance: of more, labels are a blur

_BODY = """
<h1>{{ name }}: {{ r.method }} on {{ r.backbone }}</h1>
<ul class="facts">
<li>corpus <b>{{ r.corpus }}</b></li>
<li>protocol <b>{{ r.protocol }}</b></li>
<li>fold <b>{{ r.fold }}</b></li>
<li>seed <b>{{ r.seed }}</b></li>
<li>steps <b>{{ r.steps | number }}</b></li>
</ul>

<section class="card" aria-label="Headline">
<h2>Masked accuracy on unheard speakers</h2>
<div class="head">
{% for title, accuracy, rival in measures %}
<div>{% if title %}<div class="label">{{ title }}</div>{% endif %}
<div class="value ua">{{ accuracy | percent }}</div>
<div class="label">{{ "%.1f" | format(accuracy / (rival or 1)) }} ×
{{ baseline }} ({{ rival | percent }})</div></div>
{% if not title %}
<div><div class="label">codebook perplexity</div>
<div class="value">{{ "%.1f" | format(r.kept.valid_perplexity) }}</div>
{% if codes %}
<div class="label">of {{ codes | number }} at most</div>
{% endif %}</div>
{% endif %}
{% endfor %}
</div>
<p class="note">
{% if r.stage == "tapt" %}
How often the encoder tells the quantised features of a masked frame from
those of other masked frames of the same utterance. Chance is the share that
guessing would tell: it counts only the frames with another code, so it grows
as a codebook collapses.
{% else %}
How often the encoder names the cluster of a masked frame, beside always naming
the cluster that most of them belong to.
{% endif %}
Measured on the validation speakers, on whom nothing was trained, with the
same frames masked in every epoch; this is epoch {{ r.kept_epoch }} of
{{ r.epochs }}, the one kept.</p>
</section>

<div class="grid">
{{ card("Loss", svg.loss, "%s; mean over masked frames." | format(
 "Contrastive loss plus weighted diversity loss" if r.stage == "tapt" else
 "Cross-entropies of all clusterings, added up")) }}
{{ card("Masked accuracy", svg.accuracy, "On the validation speakers;
dotted, in the colour of its curve: %s." | format(
 "chance" if r.stage == "tapt" else "the largest cluster's share")) }}
{% if svg.perplexity is defined %}
{{ card("Codebook perplexity", svg.perplexity, "The number of codes that,
used evenly, would be as varied; all groups added up. A fall towards 1 a group
is a collapse.") }}
{% endif %}
{% if svg.usage is defined %}
{{ card("Use of codes" if r.stage == "tapt" else "Use of clusters", svg.usage,
"By the masked frames of the validation speakers. A curve that ends early has
left the others unused.") }}
{% endif %}
{% if r.get("clusters") %}
<section class="card"><h2>Clusters and emotions</h2>
{{ table(*clusters) }}
<p class="note">Purity: the share of frames whose emotion is the commonest of
their cluster; a single cluster would have that of the largest emotion. It
rises with K by chance alone, as the mutual information of cluster and emotion
does: compare at equal K, with random clusters. Frames count, so long
utterances count more.</p>
</section>
{% endif %}
</div>

{% if svg.utterance is defined %}
<section class="card"><h2>One utterance</h2>
<figure><div class="wide">{{ svg.utterance }}</div>
<figcaption>{{ example.id }}, {{ example.emotion }}
{%- if example.wave | length > longest * rate %}, the first {{ longest }} s
{%- endif %}. Log-mel spectrogram{% if example.get("labels") %}, and
under it the cluster of each frame, for each number of clusters K: where the
colour changes, so does the cluster; numbers name those that last{% endif %}.
</figcaption></figure>
</section>
{% endif %}

<section class="card"><details><summary>Every epoch in numbers</summary>
{{ table(*epochs) }}
</details></section>

<div class="grid">
<section class="card"><h2>How it was made</h2>
<dl>
{% for part, count in r.trainable_parameters.items() %}
<dt>{{ part }}</dt><dd>{{ count | number }} trainable parameters</dd>
{% endfor %}
<dt>training</dt><dd>{{ r.train_seconds | duration }},
{{ r.epochs | number }} epoch{{ "" if r.epochs == 1 else "s" }},
{{ r.steps | number }} steps</dd>
{% if r.get("peak_memory_mb") %}
<dt>peak memory</dt><dd>{{ r.peak_memory_mb | number }} MB</dd>
{% endif %}
<dt>kept</dt><dd>epoch {{ r.kept_epoch }}</dd>
<dt>test speakers</dt><dd>not touched</dd>
{% if r.get("protocol_sha") %}
<dt>protocol hash</dt><dd><code>{{ r.protocol_sha }}</code></dd>
{% endif %}
{% if r.get("command") %}
<dt>command</dt><dd><code>{{ r.command }}</code></dd>
{% endif %}
</dl>
</section>
<section class="card"><h2>Versions</h2>
{{ table(["package", "version"], r.versions.items() | list) }}
</section>
</div>
"""

_PAGE = template(
    "{{ r.corpus }}, fold {{ r.fold }}: {{ name }}, {{ r.method }}",
    _BODY,
    # As wide as the page; on a telephone it is scrolled, not shrunk.
    ".wide > svg { max-width: none; min-width: 760px; }",
)


def write_pretraining_report(
    folder, results, history, example=None, counts=None
):
    """Write ``report.html`` of a TAPT or P-TAPT run.

    Arguments
    ---------
    folder : str or Path
        Output folder of the run; created if absent.
    results : dict
        The content of ``pretraining.json``: stage ("tapt" or "ptapt"),
        corpus, protocol, fold, seed, backbone, method, trainable_parameters
        (name -> count), kept_epoch, kept (that epoch's entry of `history`),
        epochs, steps, train_seconds, versions and optionally protocol_sha,
        peak_memory_mb, command and, of P-TAPT, clusters: what
        `ser_peft.pretraining.pseudo_labels.describe` returned.
    history : list of dict
        One an epoch: `epoch`, `train_loss`, `valid_loss` (nats a masked
        frame), `lr_adapter`, `lr_head`, `seconds`; of TAPT
        `valid_accuracy`, `valid_chance` and `valid_perplexity`, of P-TAPT
        `valid_accuracy_K`, `valid_largest_K` and `valid_perplexity_K` of
        each number of clusters K. Accuracies are fractions.
    example : dict, optional
        An utterance to picture: id, emotion, wave (16 kHz, [samples]),
        labels (K -> cluster of each frame), seconds_per_frame.
    counts : list of array_like, optional
        How often the masked valid frames had each cluster, for every K in
        the order of `history`, or each code, for every group.

    Example
    -------
    >>> write_pretraining_report(folder, results, history)  # doctest: +SKIP
    """
    kept = results["kept"]
    tapt = results["stage"] == "tapt"
    # What accuracy has to beat: its key, its name.
    rival, baseline = "largest", "largest cluster"
    if tapt:
        rival = baseline = "chance"
    ends = [
        key.removeprefix("valid_accuracy")
        for key in kept
        if key.startswith("valid_accuracy")
    ]
    # TAPT's is "" and has no name, that of 64 clusters "_64".
    names = {end: end.replace("_", "K = ") for end in ends}
    pictures = _curves(history, results["kept_epoch"], names, rival, baseline)
    counts = [] if counts is None else [np.asarray(part) for part in counts]
    if counts:
        groups = [f"group {i + 1}" for i in range(len(counts))]
        of = groups if tapt else names.values()
        pictures["usage"] = _usage(dict(zip(of, counts, strict=True)))
    if example:
        pictures["utterance"] = _utterance(example)
    page = ENVIRONMENT.from_string(_PAGE).render(
        r=results,
        name="TAPT" if tapt else "P-TAPT",
        baseline=baseline,
        measures=[
            (name, *(kept[f"valid_{key}{end}"] for key in ("accuracy", rival)))
            for end, name in names.items()
        ],
        codes=sum(map(len, counts)),
        clusters=_cluster_table(results.get("clusters", ())),
        epochs=_epoch_table(history, names),
        svg={
            name: figures.inline_svg(figure, name, alt)
            for name, (figure, alt) in pictures.items()
        },
        example=example,
        longest=_SECONDS,
        rate=SAMPLE_RATE,
    )
    write_page(folder, page)


def _curves(history, kept, names, rival, baseline):
    """Name -> figure and description of what every epoch measured."""
    told = "{} by epoch; the table of epochs has the numbers".format
    losses = {"train_loss": "train", "valid_loss": "valid"}
    curves = {f"valid_accuracy{end}": names[end] or "valid" for end in names}
    rivals = {f"valid_accuracy{end}": f"valid_{rival}{end}" for end in names}
    pictures = {
        "loss": (
            figures.curve_figure(history, losses, "loss (nats)", kept),
            told("Training and validation loss"),
        ),
        "accuracy": (
            figures.curve_figure(
                history, curves, "masked accuracy", kept, 0, (baseline, rivals)
            ),
            told(f"Masked accuracy, beside {baseline},"),
        ),
    }
    if "" in names:  # the labels of P-TAPT stay as they are
        curve = {"valid_perplexity": "valid"}
        pictures["perplexity"] = (
            figures.curve_figure(history, curve, "perplexity (codes)", kept, 0),
            told("Codebook perplexity"),
        )
    return pictures


def _usage(counts):
    """Figure and description of how often each cluster or code occurs."""
    used = [
        f"{name}, {np.count_nonzero(count)} of {len(count)} used"
        for name, count in counts.items()
    ]
    alt = f"How often each occurs, most frequent first: {'; '.join(used)}"
    return figures.usage_figure(counts), alt


def _utterance(example):
    """Figure and description of an utterance and its labels."""
    step = example["seconds_per_frame"]
    wave = torch.as_tensor(example["wave"])[: _SECONDS * SAMPLE_RATE].float()
    seconds = len(wave) / SAMPLE_RATE
    labels = {
        size: [*map(int, clusters)][: round(seconds / step)]
        for size, clusters in example.get("labels", {}).items()
    }
    mel = MelSpectrogram(
        SAMPLE_RATE, n_fft=1024, win_length=400, hop_length=160, n_mels=80
    )
    decibel = AmplitudeToDB()(mel(wave)).numpy()
    used = [f"{len({*labels[size]})} of {size} clusters" for size in labels]
    return (
        figures.utterance_figure(decibel, labels, seconds, step),
        f"Spectrogram of {example['id']}, {seconds:.1f} s"
        + (f", and under it its frames' {', '.join(used)}" if used else ""),
    )


def _epoch_table(history, names):
    """Head and rows of what every epoch measured, as text."""
    measures = {
        f"valid_accuracy{end}": (f"accuracy {name}", "{:.1%}")
        for end, name in names.items()
    }
    if "" in names:  # of P-TAPT they are always the same
        measures["valid_chance"] = ("chance", "{:.1%}")
        measures["valid_perplexity"] = ("perplexity", "{:.1f}")
    return epoch_table(history, measures)


def _cluster_table(rows):
    """Head and rows of what `describe` found, a column a clustering."""
    measures = {
        "used": ("clusters with frames", "{:,}"),
        "perplexity": ("perplexity", "{:.1f}"),
        "largest": ("largest cluster", "{:.1%}"),
        "purity": ("purity", "{:.1%}"),
        "largest_class": ("largest emotion", "{:.1%}"),
        "mutual_information": ("mutual information in nats", "{:.3f}"),
    }
    return ["", *(f"K = {row['clusters']}" for row in rows)], [
        [title, *(form.format(row[key]) for row in rows)]
        for key, (title, form) in measures.items()
    ]
