"""Pages from the templates in ``templates/``, with their figures inside."""

from pathlib import Path

import jinja2
import numpy as np

from ser_peft.evaluation.metrics import over_classes
from ser_peft.evaluation.summary import short_name
from ser_peft.io import atomic_path
from ser_peft.report import drawing

__all__ = ["duration", "fixed", "number", "percent", "render", "write_page"]


def render(template, pictures, **values):
    """Render a page that needs nothing else: no script, no network.

    Arguments
    ---------
    template : str
        Name of a page without its ending: ``run``, ``summary``, ...
    pictures : dict
        Name -> `Figure` and a description for readers who cannot see it. The
        template finds it as ``svg.<name>``.
    **values
        Other variables of the template.

    Returns
    -------
    str
        HTML.
    """
    svg = {
        name: drawing.inline_svg(figure, name, description)
        for name, (figure, description) in pictures.items()
    }
    page = _ENVIRONMENT.get_template(f"{template}.html.j2")
    return page.render(svg=svg, **values)


def write_page(folder, page):
    """Write a page as the report of a run.

    Arguments
    ---------
    folder : str or Path
        Output folder of the run; created if absent.
    page : str
        HTML.
    """
    with atomic_path(Path(folder) / "report.html") as tmp:
        # A file name that is no valid text is shown escaped, not a reason to
        # lose the report of a finished training.
        tmp.write_text(page, encoding="utf-8", errors="backslashreplace")


def percent(fraction):
    """Fraction in % with one decimal; a dash for None.

    Example
    -------
    >>> percent(0.825), percent(None)
    ('82.5%', '–')
    """
    return "–" if fraction is None else f"{fraction:.1%}"


def fixed(value, decimals=3):
    """Number with a fixed count of decimals; a dash for None.

    Example
    -------
    >>> fixed(0.71), fixed(None)
    ('0.710', '–')
    """
    return "–" if value is None else f"{value:.{decimals}f}"


def number(value):
    """Whole number with a comma between thousands."""
    return f"{value:,.0f}"


def duration(seconds):
    """Duration in hours, minutes and seconds.

    Example
    -------
    >>> duration(3725)
    '1 h 2 min'
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("ser_peft.report"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters |= {
    "duration": duration,
    "fixed": fixed,
    "number": number,
    "over_classes": over_classes,
    "percent": percent,
    "short_name": short_name,
    "sum_all": np.sum,
}
