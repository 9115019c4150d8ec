"""What MkDocs needs to be told of this repository: a hook, an extension."""

import re

import griffe

TITLES = {"Arguments": "Parameters", "Example": "Examples"}


class SpeechBrainSections(griffe.Extension):
    """Docstrings' sections under the titles that griffe's parser knows."""

    def on_instance(self, *, obj, **kwargs):
        """Rename the sections of one docstring."""
        if obj.docstring:
            for title, known in TITLES.items():
                obj.docstring.value = re.sub(
                    rf"^{title}\n-+$",
                    f"{known}\n{'-' * len(known)}",
                    obj.docstring.value,
                    flags=re.MULTILINE,
                )

    def on_package(self, *, pkg, **kwargs):
        """Show a name once: where its room offers it, else in its module."""
        for room in pkg.modules.values():
            for module in room.modules.values():
                shown = {*(module.exports or ())} - {*(room.exports or ())}
                # An empty set would count as none at all.
                module.exports = shown or {"nothing"}


def on_page_markdown(markdown, **kwargs):
    """Keep only the text of links to files that the site does not have."""
    return re.sub(r"\[([^\]]+)\]\(\.\./[^)]*\)", r"\1", markdown)
