"""The summary of many runs as one page, in the report's style."""

import itertools

from ser_peft.evaluation.summary import title_of
from ser_peft.report import figures
from ser_peft.report.page import template
from ser_peft.report.run_page import ENVIRONMENT
from ser_peft.report.tables import comparison_table, group_table

__all__ = ["render_summary"]

_TITLE = """{{ sections | map(attribute="corpus") | unique | join(", ") }}:
 summary of {{ runs }} runs"""

_BODY = """
{% for s in sections %}
<h1>{{ s.corpus }}</h1>
<ul class="facts">
<li>protocol <b>{{ s.protocol }}</b></li>
<li>classes <b>{{ s.n_classes }}</b></li>
{% if s.backbone %}<li>backbone <b>{{ s.backbone }}</b></li>{% endif %}
<li>runs <b>{{ s.groups | sum(attribute="runs") }}</b></li>
</ul>
<section class="card"><h2>Methods</h2>
{{ table(s.head, s.rows, 1 if s.backbone else 2) }}
<p class="note">UA is the mean of per-class recalls, WA accuracy, CCC the
concordance correlation coefficient, mean of the dimensions. Mean ±
standard deviation over runs{% if s.spread_of_folds %}, in brackets over folds,
seeds averaged first{% endif %}. Adapter and head: trained parameters. MB: the
saved model. s/step: training time, validation included, by optimizer
steps.{% if "common" in s.head %} Common: the mean {{ s.score }} on the folds
and seeds that all rows have; by it they are ranked.{% endif %}
{% if "UA over" in s.head %} UA over: where a test set lacks a class, UA is the
mean of the recalls of the others.{% endif %}</p>
</section>
{% if s.comparisons %}
<section class="card"><h2>Paired comparison</h2>
{{ table(s.comparison_head, s.comparisons, 2) }}
<p class="note">Difference of UA on the folds and seeds that both have, test
sets pooled, each speaker with what both methods said of all its utterances.
The interval is Student's t of the jackknife over speakers, p that of its test.
{% if s.comparisons | length > 1 %}
p is for one comparison: divide 0.05 by {{ s.comparisons | length }} before you
call a difference found. The best method was found on these very test sets.
{% endif %}</p>
</section>
{% endif %}
<div class="grid">
{{ card(s.score + " of every run", s.figure, s.caption) }}
{% for name, figure, count in s.confusions %}
{{ card("Confusion: " + name, figure, "%s test utterances, each counted once
a seed. Colour and %% by row, counts below." | format(count | number)) }}
{% endfor %}
</div>
{% endfor %}
{% if warnings %}
<section class="card"><h2>Warnings</h2>
{% for text in warnings %}<p>{{ text }}</p>{% endfor %}
</section>
{% endif %}
"""

_PAGE = template(_TITLE, _BODY, ".grid + h1 { margin-top: 48px; }")


def render_summary(summary):
    """Render a summary as one HTML page that needs nothing else.

    Arguments
    ---------
    summary : dict
        What `ser_peft.evaluation.summary.summarize` returned.

    Returns
    -------
    str
        The page: styles and figures inside, no script, no network.
    """
    sections = [
        _section(number, [*groups], comparison_table(summary, title))
        for number, (title, groups) in enumerate(
            itertools.groupby(summary["groups"], title_of)
        )
    ]
    return ENVIRONMENT.from_string(_PAGE).render(
        sections=sections,
        runs=sum(group["runs"] for group in summary["groups"]),
        warnings=summary["warnings"],
    )


def _section(number, groups, comparisons):
    """What the page shows of one corpus, protocol and number of classes."""
    head, rows = group_table(groups)
    backbones = {row[1] for row in rows}
    if len(backbones) == 1:  # it is said above the table
        head, *rows = (row[:1] + row[2:] for row in (head, *rows))
    n_classes = groups[0]["n_classes"]
    score = "UA" if n_classes else "CCC"
    caption = "And their mean."
    if n_classes:
        caption = (
            "Pooled: over the utterances of all test sets together; the "
            "interval is over speakers."
        )
        without = [
            f"{group['name']} ({group['pooled']['ua_ci95_reason']})"
            for group in groups
            if group["pooled"]["ua_ci95"] is None
        ]
        if without:
            caption += f" There is none of {', '.join(without)}."
    return {
        "corpus": groups[0]["corpus"],
        "protocol": groups[0]["protocol"],
        "n_classes": n_classes,
        "groups": groups,
        "backbone": backbones.pop() if len(backbones) == 1 else None,
        "head": head,
        "rows": rows,
        "spread_of_folds": any(len(group["seeds"]) > 1 for group in groups),
        "score": score,
        "caption": caption,
        "figure": figures.inline_svg(
            figures.runs_figure(groups),
            f"runs{number}",
            f"{score} of every run, by method; the table has the means",
        ),
        "comparison_head": comparisons[0],
        "comparisons": comparisons[1],
        "confusions": [
            (
                group["name"],
                figures.inline_svg(
                    figures.confusion_figure(
                        group["pooled"]["confusion"], group["classes"]
                    ),
                    f"confusion{number}_{i}",
                    f"Confusion matrix of {', '.join(group['classes'])}, rows "
                    f"are the truth: {group['pooled']['confusion']}",
                ),
                sum(map(sum, group["pooled"]["confusion"])),
            )
            for i, group in enumerate(groups)
            if group["pooled"]
        ],
    }
