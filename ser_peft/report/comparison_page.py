"""A comparison of models for people: tables for a terminal, and one page."""

from ser_peft.errors import printable
from ser_peft.evaluation.summary import short_name
from ser_peft.report import comparison_figures, figures
from ser_peft.report.page import template
from ser_peft.report.run_page import ENVIRONMENT
from ser_peft.report.tables import ends, markdown, over, points, spread

__all__ = ["format_comparison", "render_comparison"]

_TITLE = "{{ c.corpus }}: {{ c.models | length }} models compared"

_BODY = """
<h1>{{ c.corpus }}: {{ c.reference }} and
{{ c.models[1:] | map(attribute="name") | join(", ") }}</h1>
<ul class="facts">
<li>protocol <b>{{ c.protocol }}</b></li>
<li>fold <b>{{ c.folds | join(", ") }}</b></li>
<li>classes <b>{{ c.classes | length }}</b></li>
<li>reference <b>{{ c.reference }}</b></li>
</ul>
<section class="card"><h2>Scores</h2>
{{ table(*tables.scores) }}
<p class="note">UA: balanced accuracy, the mean of per-class recalls. WA:
accuracy. Weighted F1 weighs classes by how often they occur, macro F1 does
not. Mean ± standard deviation over runs
{%- if spread_of_folds %}, in brackets over folds, seeds averaged first
{%- endif %}; the interval is of UA, all test sets pooled, over speakers.
{% if "text" in tables.scores[0] %}
Text: where the transcripts are from that a model reads.
{% endif %}</p>
</section>
<section class="card"><h2>Agreement with {{ c.reference }}</h2>
{{ table(*tables.agreement) }}
<p class="note">On the same test utterances: how often both predict the same
class, Cohen's kappa (0 is chance, 1 always), and how often the model is right
where {{ c.reference }} is right, and where it is wrong. UA points: the model's
UA minus that of {{ c.reference }}, with a 95% interval and p, paired over
speakers.</p>
</section>
<section class="card"><h2>Size</h2>
{{ table(*tables.size, left=4) }}
<p class="note">Parameters of the whole model; of these what training changes,
and of these the adapter's, without the head. Saved: the folder model/, for
who has the backbone. Whole: all tensors that inference holds, in 32-bit
floats, which is what <code>ser-peft export --merge</code> writes.</p>
</section>
<section class="card"><h2>Latency</h2>
{{ table(*tables.latency) }}
<p class="note">Median / 95th percentile in ms of the whole batch, and the
median over that of {{ c.reference }}. From waveform to scores on
{{ c.timing.processor }}, {{ c.timing.repeats }} repetitions after warm-up, the
models in turn. Every clip lasts {{ c.timing.seconds }} s: recordings of the
test set, repeated or cut to that length.
{% if unmerged %}
Adapters are folded into the encoder first; those of {{ unmerged | join(", ") }}
cannot be and run beside it.
{% else %}
Adapters are folded into the encoder first.
{% endif %}</p>
</section>
<div class="grid">
{{ card("UA and latency", svg.trade_off, "Up and to the left is better. The
diamond is the reference; bars: standard deviation over runs.") }}
{{ card("Latency", svg.latency, "Bars: median, and on to the 95th percentile.
Each setting has its own scale.") }}
{% for name, figure, count in confusions %}
{{ card("Confusion: " + name, figure, "%s test utterances, each counted once
a seed. Colour and %% by row, counts below." | format(count | number)) }}
{% endfor %}
{% for name, figure in maps %}
{{ card("Map: " + name, figure, "Every mark a test utterance, %s of fold %s: a
t-SNE of the vectors that the head scores%s. Axes have no unit; near ones are
alike, far distances mean little." | format(c.map.ids | length | number,
c.map.fold, "" if loop.first else ", turned towards that of the reference")) }}
{% endfor %}
</div>
{% if c.warnings %}
<section class="card"><h2>Warnings</h2>
{% for text in c.warnings %}<p>{{ text }}</p>{% endfor %}
</section>
{% endif %}
<section class="card"><h2>Versions</h2>
{{ table(["package", "version"], c.versions.items() | list) }}
</section>
"""

_PAGE = template(_TITLE, _BODY)


def format_comparison(comparison):
    """Lay a comparison out as markdown tables for a terminal.

    Arguments
    ---------
    comparison : dict
        What `ser_peft.evaluation.compare.compare` returned.

    Returns
    -------
    str
        Scores, agreement, size and latency, a row a model; the warnings.
    """
    folds = ", ".join(map(str, comparison["folds"]))
    lines = [
        f"## {comparison['corpus']}, {comparison['protocol']}, fold {folds}, "
        f"{len(comparison['classes'])} classes",
        "",
    ]
    for head, rows in _tables(comparison).values():
        lines += [*markdown(head, rows), ""]
    lines.append(
        f"Agreement and UA points: with {comparison['reference']}. Latency: "
        "median / 95th percentile of a batch, ratio of medians; clips of "
        f"{comparison['timing']['seconds']:g} s."
    )
    lines += [f"warning: {text}" for text in comparison["warnings"]]
    return "\n".join(map(printable, lines)) + "\n"


def render_comparison(comparison):
    """Render a comparison as one HTML page that needs nothing else.

    Arguments
    ---------
    comparison : dict
        What `ser_peft.evaluation.compare.compare` returned.

    Returns
    -------
    str
        The page: styles and figures inside, no script, no network.
    """
    models, classes = comparison["models"], comparison["classes"]
    places, labels = (comparison["map"][key] for key in ("points", "labels"))
    told = "; ".join(
        f"{m['name']}: {m['ua']['mean']:.1%}, "
        f"{m['latency'][0]['median_ms']:.3g} ms"
        for m in models
    )
    return ENVIRONMENT.from_string(_PAGE).render(
        c=comparison,
        tables=_tables(comparison),
        spread_of_folds=any(model["ua"]["std_folds"] for model in models),
        unmerged=[model["name"] for model in models if not model["merged"]],
        svg={
            "trade_off": figures.inline_svg(
                comparison_figures.trade_off_figure(models),
                "trade_off",
                f"UA and median latency. {told}",
            ),
            "latency": figures.inline_svg(
                comparison_figures.latency_figure(models),
                "latency",
                "Latency of each model in each setting; the table has the "
                "numbers",
            ),
        },
        confusions=[
            (
                model["name"],
                figures.inline_svg(
                    figures.confusion_figure(model["confusion"], classes),
                    f"confusion{i}",
                    f"Confusion matrix of {', '.join(classes)}, rows are the "
                    f"truth: {model['confusion']}",
                ),
                sum(map(sum, model["confusion"])),
            )
            for i, model in enumerate(models)
        ],
        maps=[
            (
                name,
                figures.inline_svg(
                    comparison_figures.map_figure(place, labels, classes),
                    f"map{i}",
                    f"Map of {len(labels)} test utterances by {name}, "
                    f"coloured by {', '.join(classes)}",
                ),
            )
            for i, (name, place) in enumerate(places.items())
        ],
    )


def _tables(comparison):
    """Head and rows of each table, as text."""
    models = comparison["models"]
    # Of models that read: where their transcripts are from.
    read = [", ".join((m["text"] or {}).get("sources", "–")) for m in models]
    texts = {*read} != {"–"}
    starts = any(model["start"] for model in models)
    classes = any(model["missing_classes"] for model in models)
    return {
        "scores": (
            "model|UA %|95 % interval|WA %|macro F1 %|weighted F1 %"
            f"|runs{'|start' * starts}{'|UA over' * classes}"
            f"{'|text' * texts}".split("|"),
            [
                _scores(model)
                + [spread(model["start"], 100, 1)] * starts
                + [over(model)] * classes
                + [told] * texts
                for model, told in zip(models, read, strict=True)
            ],
        ),
        "agreement": (
            "model|equal %|right where right %|right where wrong %|kappa"
            "|UA points|95 % interval|p".split("|"),
            [_agreement(m["name"], m["agreement"]) for m in models[1:]],
        ),
        "size": (
            "model|backbone|layers|method|parameters|trained|adapter|saved MB"
            "|whole MB".split("|"),
            [_size(model) for model in models],
        ),
        "latency": (
            [
                "model",
                *(
                    f"{t['batch']} clip{'s' * (t['batch'] > 1)}, "
                    f"{t['threads']} thread{'s' * (t['threads'] > 1)}"
                    for t in models[0]["latency"]
                ),
            ],
            [
                [model["name"], *map(_timing, model["latency"])]
                for model in models
            ],
        ),
    }


def _scores(model):
    rest = ("wa", "macro_f1", "weighted_f1")
    return [
        model["name"],
        spread(model["ua"], 100, 1),
        ends(model["ua"], "{:.1f}"),
        *(spread(model[key], 100, 1) for key in rest),
        str(model["runs"]),
    ]


def _agreement(name, found):
    return [
        name,
        *(
            "–" if found[key] is None else f"{100 * found[key]:.1f}"
            for key in ("equal", "right_where_right", "right_where_wrong")
        ),
        "–" if found["kappa"] is None else f"{found['kappa']:.2f}",
        *points(found),
    ]


def _size(model):
    counts, parts = model["parameters"], [model]
    if model["text"]:
        parts.append(model["text"])
    return [
        model["name"],
        " + ".join(short_name(part["backbone"]) for part in parts),
        " + ".join(map(str, model["layers"])),
        " + ".join(part["method"] for part in parts),
        *(f"{counts[key]:,}" for key in ("total", "trained", "adapter")),
        f"{model['model_bytes'] / 1e6:.2f}",
        f"{model['inference_bytes'] / 1e6:.1f}",
    ]


def _timing(timing):
    return (
        f"{timing['median_ms']:.1f} / {timing['p95_ms']:.1f} "
        f"({timing['ratio']:.2f}×)"
    )
