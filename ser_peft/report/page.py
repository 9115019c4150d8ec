"""The report's page: a Jinja template with its styles inside."""

__all__ = ["PAGE", "template"]

_CSS = """
:root { color-scheme: light dark; --page: #f5f6f8; --card: #fff;
  --ink: #1b2430; --muted: #5b6675; --line: #dde2e9; --blue: #0072b2;
  --orange: #d55e00; --green: #00805d; }
@media (prefers-color-scheme: dark) { :root { --page: #0e1116;
  --card: #161a21; --ink: #e7eaef; --muted: #9ba6b5; --line: #2a313c;
  --blue: #56b4e9; --orange: #f0894a; --green: #2fbf95; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, Arial,
  sans-serif; overflow-wrap: anywhere; }
main { max-width: 1080px; margin: 0 auto; padding: 40px 24px 56px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 10px; }
h2 { font-size: 17px; margin: 0 0 14px; }
* + h2 { margin-top: 24px; }
p { margin: 10px 0 0; }
.note, .label, figcaption, summary { color: var(--muted);
  font-size: 13.5px; }
.facts { display: flex; flex-wrap: wrap; gap: 4px 20px; margin: 0 0 26px;
  padding: 0; list-style: none; color: var(--muted); }
.facts b { color: var(--ink); font-weight: 600; }
.grid { display: grid; gap: 18px; margin-bottom: 18px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); }
.card { background: var(--card); border: 1px solid var(--line);
  border-radius: 12px; padding: 22px 24px; margin-bottom: 18px;
  min-width: 0; break-inside: avoid; }
.grid > .card { margin: 0; }
figure { margin: 0; }
figcaption, summary { margin-top: 10px; }
summary { cursor: pointer; }
svg { display: block; width: 100%; max-width: 600px; height: auto;
  margin: 0 auto; }
svg text { font-family: inherit !important; }
.head { display: flex; flex-wrap: wrap; gap: 16px 44px;
  align-items: flex-end; }
* + .head { margin-top: 22px; }
.value { font-size: 27px; font-weight: 650; line-height: 1.15; }
.ua { font-size: 52px; color: var(--blue); letter-spacing: -.02em; }
.ua small { font-size: 15px; font-weight: 500; color: var(--muted);
  letter-spacing: 0; white-space: nowrap; }
.scale { position: relative; height: 58px; margin-top: 22px;
  font-size: 12.5px; color: var(--muted); white-space: nowrap; }
.scale * { position: absolute; }
.scale i { top: 14px; height: 12px; border-radius: 6px; }
.scale .track { width: 100%; background: var(--line); }
.scale .band { background: var(--blue); opacity: .38; }
.scale .tick { width: 3px; margin-left: -1.5px; top: 8px; height: 24px;
  background: currentColor; }
.scale span { top: 35px; transform: translateX(-50%); }
.scale .end { transform: none; }
.wide { overflow-x: auto; }
.wide + .wide { margin-top: 16px; }
table { border-collapse: collapse; width: 100%; font-size: 14px;
  font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { text-align: left; padding: 7px 14px 7px 0; vertical-align: top;
  border-bottom: 1px solid var(--line); font-weight: 400; }
thead th { color: var(--muted); font-size: 13px; }
tbody tr:last-child > * { border-bottom: 0; }
tbody th { overflow-wrap: anywhere; min-width: 6em; }
.n { text-align: right; white-space: nowrap; }
tr > :last-child { padding-right: 0; }
dl { display: grid; grid-template-columns: minmax(96px, max-content) 1fr;
  gap: 7px 20px; margin: 0; }
dt { color: var(--muted); }
dd { margin: 0; max-height: 20em; overflow-y: auto; }
code { font: 13px/1.5 ui-monospace, Menlo, Consolas, monospace;
  white-space: pre-wrap; }
@media (max-width: 560px) { main { padding: 24px 12px 40px; }
  .card { padding: 18px 16px; } h1 { font-size: 24px; }
  .ua { font-size: 44px; } .head { gap: 14px 30px; }
  table { font-size: 13px; } th, td { padding-right: 8px; } }
"""

_MACROS = """
{% macro table(head, rows, left=1) %}
<div class="wide"><table>
<thead><tr>{% for cell in head %}
<th scope="col"{% if loop.index > left %} class="n"{% endif %}>{{ cell }}</th>
{% endfor %}</tr></thead>
<tbody>
{% for row in rows %}<tr><th scope="row">{{ row[0] }}</th>
{% for cell in row[1:] %}
<td{% if loop.index >= left %} class="n"{% endif %}>{{ cell }}</td>
{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% endmacro %}
{% macro mark(at, name, color) %}
<i class="tick" style="left: {{ 100 * at }}%; color: var({{ color }})"></i>
<span style="left: {{ 100 * at }}%; color: var({{ color }})">{{ name }}</span>
{% endmacro %}
{% macro beside(other, name) %}
{{ "%.1f" | format(100 * (r.ua - other) | abs) }} points
{{ "above" if r.ua >= other else "below" }} {{ name }}
({{ other | percent }}){% if r.ua_ci95 and low <= other <= high %}, which lies
inside the interval{% endif %}.
{%- endmacro %}
{% macro audit(column, groups, differences, reason) %}
{{ table([column, "UA", "utterances", "speakers"], groups) }}
{% if differences %}
{{ table(["difference in", "largest for", "points"], differences, 2) }}
{% else %}
<p class="note">Not compared: {{ reason }}.</p>
{% endif %}
{% endmacro %}
{% macro card(title, figure, caption) %}
<section class="card"><h2>{{ title }}</h2>
<figure>{{ figure }}<figcaption>{{ caption }}</figcaption></figure>
{% if caller is defined %}{{ caller() }}{% endif %}
</section>
{% endmacro %}
"""

_BODY = """
<h1>{{ r.method }} on {{ r.backbone }}</h1>
<ul class="facts">
<li>corpus <b>{{ r.corpus }}</b></li>
<li>protocol <b>{{ r.protocol }}</b></li>
<li>fold <b>{{ r.fold }} of {{ r.folds_total }}</b></li>
{% if r.classes %}
<li>classes <b>{{ r.classes | length }}</b></li>
{% endif %}
{% if dimensions %}
<li>dimensions <b>{{ dimensions | join(", ") }}</b></li>
{% endif %}
<li>seed <b>{{ r.seed }}</b></li>
</ul>

<section class="card" aria-label="Headline">
{% if r.classes %}
<div class="head">
<div><div class="label">UA{{ over }}, mean of per-class recalls</div>
<div class="value ua">{{ r.ua | percent }}
<small>{{ intervals.ua }}</small></div></div>
<div><div class="label">WA, accuracy</div>
<div class="value">{{ r.wa | percent }}</div></div>
<div><div class="label">macro F1</div>
<div class="value">{{ r.macro_f1 | percent }}</div></div>
<div><div class="label">weighted F1</div>
<div class="value">{{ r.weighted_f1 | percent }}</div></div>
</div>
<div class="scale" aria-hidden="true">
<i class="track"></i><span class="end">0%</span>
<span class="end" style="right: 0">100%</span>
{% if r.ua_ci95 %}
<i class="band" style="left: {{ 100 * low }}%;
 width: {{ 100 * (high - low) }}%"></i>
{% endif %}
{{ mark(chance, "chance", "--muted") }}
{% if start %}
{{ mark(start.ua, start.from, "--orange") }}
{% endif %}
{{ mark(r.ua, "", "--blue") }}
</div>
<p>{{ beside(chance, "chance") }}
{% if start and r.classes %}{{ beside(start.ua, "its start, the " ~
start.from) }}
{% endif %}</p>
{% endif %}
{% if below %}
<p><b>Below its start:</b> {{ below }}.</p>
{% endif %}
{% if dimensions %}
<div class="head">
<div><div class="label">mean CCC, concordance</div>
<div class="value{{ "" if r.classes else " ua" }}">
{{ "%.3f" | format(r.ccc_mean) }}
<small>{{ intervals.ccc }}</small></div></div>
{% for name in dimensions %}
<div><div class="label">{{ name }}</div>
<div class="value">{{ "%.3f" | format(r.ccc[name]) }}</div></div>
{% endfor %}
</div>
{% endif %}
<p class="note">{{ r.test_utterances | number }} utterances of
{{ n_speakers }} test speaker{{ "s" if n_speakers > 1 }}.
{% if r.ua_ci95 or r.get("ccc_ci95") %}
The interval is over speakers.
{% endif %}</p>
{% if r.get("text") %}
<p>Reads transcripts too, by {{ r.text.backbone }} ({{ r.text.method }});
those of the test set are
{% for source, count in r.text.sources.items() %}
{{ source }} ({{ count }}){{- ", " if not loop.last else "." }}
{% endfor %}
</p>
{% endif %}
{% if r.get("shares_speakers") %}
<p><b>Training heard test speakers</b>: these are not scores of unheard ones.
{% if r.get("leaks") %}
The test set shares with train
{% for kind, share in r.leaks.items() %}
{{ share | percent }} of its {{ kind | replace("_", " ") }}
{{- ", " if not loop.last else "." }}
{% endfor %}
{% endif %}</p>
{% endif %}
{% for start in r.get("heard", {}).get("trust_start", []) %}
<p><b>{{ start }}</b> has no record of whom it has heard. It was trusted:
it may have heard test speakers.</p>
{% endfor %}
</section>

<div class="grid">
{% for name in dimensions %}
{{ card(name | capitalize, svg["dimension%d" % loop.index0], "Predicted against
true on the corpus's own scale; on the diagonal they agree. CCC %.3f."
 | format(r.ccc[name])) }}
{% endfor %}
{% if r.classes %}
{% if corpus_rows | length > 1 %}
<section class="card">
<h2>Corpora</h2>
{{ table(["corpus", "UA", "WA", "macro F1", "weighted F1", "95% CI of UA",
 "UA over", "utterances"], corpus_rows) }}
</section>
{% endif %}
<section class="card">
<h2>Classes</h2>
{{ table(["class", "recall", "precision", "support"], class_rows) }}
{% if fairness or r.get("worst_speaker") %}
<h2>Fairness</h2>
{% if fairness %}{{ audit(*fairness[0]) }}{% endif %}
{% if r.get("worst_speaker") %}
<p>Worst speaker: {{ r.worst_speaker.speaker }}, UA
{{ r.worst_speaker.ua | percent }} of
{{ r.worst_speaker.utterances | number }} utterances.</p>
{% endif %}
<details><summary>Definitions</summary>
<p class="note">Statistical parity: how often a class is predicted. Equal
opportunity: its recall. Between the two groups, and for the class, where they
differ most. Groups of one speaker are not compared, nor groups and speakers
without an utterance of some class, which have no UA.</p>
</details>
{% endif %}
</section>
{{ card("Confusion", svg.confusion, "Colour and % by row (the diagonal is
recall), counts below.") }}
{% for column in fairness[1:] %}
<section class="card"><h2>Fairness by {{ column[0] }}</h2>
{{ audit(*column) }}</section>
{% endfor %}
{{ card("Speakers", svg.speakers, "UA of each test speaker, over the classes
they have.") }}
{% if svg.reliability is defined %}
{% set fitted = "" if r.calibration.temperature_fitted is not defined else
" The valid set's likelihood has its maximum at %.2f; the fewer speakers it has
(%s), the nearer to 1 is what is used." | format(
 r.calibration.temperature_fitted, r.calibration.valid_speakers) %}
{{ card("Calibration", svg.reliability, "Accuracy by confidence, in 15 bins;
on the diagonal a probability is what it says. Expected calibration error %s,
and %s with the temperature %.2f, which the saved model uses.%s In
predictions.csv, the columns that end in _calibrated are with the temperature,
the others without."
 | format(r.calibration.ece | percent, r.calibration.ece_scaled | percent,
 r.calibration.temperature, fitted)) }}
{% endif %}
{% if robustness %}
{% call card("Robustness", svg.robustness, "UA of the same test set under
babble of training speakers, and over the telephone (300 to 3400 Hz, 8 kHz,
mu-law)." ~ (" Transcripts are those of the clean clips." if r.get("text") else
"")) %}
<details><summary>Numbers</summary>
{{ table(["test set", "UA", "change in points"], robustness) }}
</details>
{% endcall %}
{% endif %}
{% endif %}
{% if history %}
{% call card("Learning", svg.learning, "Kept after %s epochs: %s, valid %s
%s." | format(r.epochs, r.kept, *valid)) %}
<details><summary>Every epoch</summary>
{{ table(epoch_head, epoch_rows) }}
</details>
{% endcall %}
{% endif %}
{% if svg.layers is defined %}
{{ card("Layers", svg.layers, "Weight of each hidden state in the head's
mix.") }}
{% endif %}
<section class="card">
<h2>Model and cost</h2>
<dl>
<dt>adapter</dt>
<dd>{{ r.trainable_parameters.adapter | number }} parameters</dd>
<dt>head</dt>
<dd>{{ r.trainable_parameters.head | number }} parameters</dd>
<dt>whole model</dt>
<dd>{{ r.total_parameters | number }} parameters,
{{ "%.2f" | format(100 * trainable / r.total_parameters) }}% trainable</dd>
<dt>training</dt><dd>{{ r.train_seconds | duration }}</dd>
{% if r.peak_memory_mb is not none %}
<dt>peak memory</dt><dd>{{ r.peak_memory_mb | number }} MB</dd>
{% endif %}
</dl>
<h2>Versions</h2>
{{ table(["package", "version"], r.versions.items() | list) }}
</section>
</div>

{% if r.classes %}
<section class="card">
<h2>Most confident mistakes</h2>
{% if mistakes %}
{{ table(["utterance", "speaker", "truth", "predicted", "probability"],
 mistakes, 4) }}
<p class="note">{{ mistakes | length }} of {{ wrong | number }} mistakes.
Listen to these first: the label may be the doubtful one.</p>
{% else %}
<p>None.</p>
{% endif %}
</section>
{% endif %}

<section class="card">
<h2>Honesty</h2>
<dl>
<dt>tested on</dt><dd>{{ r.test_speakers | join(", ") }}</dd>
<dt>kept</dt><dd>{{ r.kept }}
{% if valid[1] != "–" %}({{ valid[1] }}){% endif %}</dd>
<dt>test set</dt><dd>run once, after every choice had been made</dd>
<dt>interval</dt><dd>
{% if r.ua_ci95 or r.get("ccc_ci95") %}
95%, Student's t of the jackknife over speakers
{% else %}
none: {{ r.ua_ci95_reason or r.get("ccc_ci95_reason") }}
{% endif %}</dd>
<dt>protocol</dt><dd>{{ r.protocol }}, fold {{ r.fold }} of
{{ r.folds_total }}</dd>
<dt>protocol hash</dt><dd><code>{{ r.protocol_sha }}</code></dd>
<dt>seed</dt><dd>{{ r.seed }}</dd>
{% if command %}
<dt>command</dt><dd><code>{{ command }}</code></dd>
{% endif %}
</dl>
</section>
"""

_SETTINGS = """{% set low, high = r.ua_ci95 or (0, 0) %}
{% set start = r.get("start") %}"""


def template(title, body, css=""):
    """Put a page around its content.

    Arguments
    ---------
    title, body : str
        Jinja templates of the text of ``<title>`` and the inside of
        ``<main>``; they may call the macros.
    css : str
        Styles beside the shared ones.

    Returns
    -------
    str
        Jinja template of a page that loads nothing from anywhere.
    """
    return f"""{_MACROS}\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>{title}</title>
<style>{_CSS}{css}</style>
</head>
<body><main>
{body}
</main></body>
</html>
"""


PAGE = _SETTINGS + template(
    "{{ r.corpus }}, fold {{ r.fold }}: {{ r.method }}", _BODY
)
