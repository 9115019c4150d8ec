"""What the cards of models say of the corpora."""

import re

import pytest
from scripts import RECIPES

from ser_peft.corpora import CORPORA, About, about_corpus

READMES = {
    path.parent.name.lower(): path.read_text("utf-8")
    for path in RECIPES.glob("*/README.md")
}


@pytest.mark.parametrize("name", sorted({*CORPORA} - {"custom"}))
def test_readme_and_reader_agree(name):
    about = about_corpus(name)
    readme = " ".join(READMES[name].split())
    assert re.fullmatch("[a-z]{2}", about.language)
    assert re.match("(acted|natural|synthetic): ", about.speech)
    if about.link:
        assert f"({about.link})" in readme
    # What forbids commercial use says so, and nothing else is claimed to.
    restricted = re.search("(?i)research|non-commercial|BY-NC", readme)
    assert (about.commercial is False) == bool(restricted)
    assert about.licence or about.commercial is None


def test_nothing_is_claimed_of_others():
    assert about_corpus("custom") == About()
    # Nor are recordings passed on that nobody has allowed to.
    for name in ("never heard of", "emobox:savee"):
        assert about_corpus(name) == About(restricted=True)
