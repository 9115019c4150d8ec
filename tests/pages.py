"""Read a report as a browser would."""

from html.parser import HTMLParser

HOSTILE = '"><script>alert(1)</script><img src=http://evil.example/x> $\\frac'
"""A name that wants to be code."""


class Page(HTMLParser):
    """Collects what a browser would fetch, run and show."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.images = [], [], []
        self.shown = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        names = ("src", "href", "xlink:href", "srcset", "action", "data")
        self.links += [attrs[name] for name in names if name in attrs]
        if tag == "svg":
            self.images.append(attrs)

    def handle_data(self, data):
        self.shown += f"{data} "
