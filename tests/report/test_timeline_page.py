"""The page of a timeline: what it shows, what it plays, what it cannot do."""

import base64
import hashlib
import io
import re
import shutil

import numpy as np
import pytest
import soundfile
from pages import HOSTILE, Page

from ser_peft.inference.clips import Clip
from ser_peft.inference.streams import Window
from ser_peft.inference.timeline import Segment, Timeline
from ser_peft.report import timeline_page
from ser_peft.report.timeline_page import render_timeline

RATE = 16000


def timeline(seconds=12.0, classes=("neutral", HOSTILE), name=HOSTILE):
    """Speech of one class from 1 to 4 s, of the other, unsure, to 6 s."""
    scores = dict(zip(classes, (0.75, 0.25), strict=True))
    values = {"arousal": 3.25}
    segments = [
        Segment(1.0, 4.0, classes[0], scores, scores, values),
        Segment(4.0, 6.0, classes[1], scores, scores, values),
        Segment(7.0, 8.0, None, scores, scores, values, unsure=True),
    ]
    windows = [
        Window(float(at), at + 1.0, 1.0, dimensions={"arousal": at / 10})
        for at in range(int(seconds))
    ]
    return Timeline(
        name, seconds, list(classes), ["arousal"], 4.0, 1.0, windows, segments
    )


def clip(seconds=12.0):
    """A tone that sets in at 1 s."""
    at = np.arange(round(seconds * RATE)) / RATE
    return Clip((0.3 * np.sin(1000 * at) * (at > 1)).astype(np.float32))


def sound_of(page):
    """The sound in a page, [T], and its rate."""
    [text] = re.findall(r'src="data:audio/ogg;base64,([^"]*)"', page)
    wav, rate = soundfile.read(io.BytesIO(base64.b64decode(text)))
    return wav, rate


def test_what_is_shown():
    text = render_timeline(timeline(), clip(), model="A & B")
    page = Page(text)
    for shown in ("A & B", HOSTILE, "0:01.0", "75.0%", "3.25", "unsure"):
        assert shown in page.shown
    assert "img" not in page.tags and page.tags.count("script") == 1
    # Six seconds of speech: half, a third, a sixth.
    for share in ("50.0%", "33.3%", "16.7%"):
        assert share in page.shown
    assert [link[:22] for link in page.links] == ["data:audio/ogg;base64,"]


def test_the_sound_is_the_recording():
    wav, rate = sound_of(render_timeline(timeline(), clip()))
    assert len(wav) / rate == pytest.approx(12, abs=0.1)
    assert np.abs(wav[: int(0.9 * rate)]).max() < 0.02
    loud = np.sqrt(np.mean(wav[int(1.5 * rate) : 11 * rate] ** 2))
    assert loud == pytest.approx(0.3 / 2**0.5, rel=0.1)


def test_only_the_page_s_own_script_may_run():
    text = render_timeline(timeline(), clip())
    [script] = re.findall(r"<script>(.*?)</script>", text, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest())
    [policy] = re.findall(r'content="(default-src[^"]*)"', text)
    assert f"script-src 'sha256-{digest.decode()}'" in policy
    assert policy.startswith("default-src 'none'; ")
    assert "media-src data:;" in policy


def test_without_sound():
    page = Page(render_timeline(timeline(), clip(), audio=False))
    assert not {"script", "audio", "button"} & {*page.tags}
    assert page.links == [] and "Click" not in page.shown


def test_sound_that_is_too_large_is_cut_and_the_page_says_so(monkeypatch):
    monkeypatch.setattr(timeline_page, "AUDIO_BYTES", 5000)
    text = render_timeline(timeline(), clip())
    wav, rate = sound_of(text)
    assert 4 < len(wav) / rate < 7
    shown = " ".join(Page(text).shown.split())
    assert "The sound after 0:06 is left out" in shown
    # Long recordings have a lower rate first.
    assert timeline_page._Opus(60.0).kbit == 6
    monkeypatch.undo()
    assert timeline_page._Opus(60.0).kbit == 24
    assert 6 < timeline_page._Opus(3 * 3600.0).kbit < 12


@pytest.mark.parametrize(
    ("seconds", "rows"), [(0.5, 1), (12.0, 2), (200.0, 10), (3725.0, 13)]
)
def test_rows(seconds, rows):
    wav = np.zeros(round(seconds * RATE), np.float32)
    text = render_timeline(timeline(seconds), Clip(wav), audio=False)
    assert text.count('class="row"') == rows
    assert len(text) < 1_000_000


def test_the_envelope_is_that_of_the_samples():
    wav = clip()

    def draw(clip):
        return timeline_page._envelope(clip, 160.0, None, lambda _: None)

    envelope = draw(wav)
    assert envelope.shape == (1200, 2)
    assert envelope[:99].tolist() == [[0, 0]] * 99
    assert envelope[101:, 1].min() > 0.99 and envelope[101:, 0].max() < -0.99
    halves = Clip(next(wav.blocks()))
    samples = next(wav.blocks())
    halves.blocks = lambda: iter([samples[:7777], samples[7777:]])
    assert (draw(halves) == envelope).all()


def test_nobody_speaks():
    found = timeline()
    found.segments = []
    assert "Nobody speaks" in Page(render_timeline(found, clip())).shown


def test_dimensions_alone():
    found = timeline()
    found.classes = []
    for one in found.segments:
        one.label, one.scores, one.unsure = None, {}, False
    page = Page(render_timeline(found, clip()))
    assert "3.25" in page.shown and "Share of the speech" not in page.shown


def test_colours_differ():
    names = "angry happy sad neutral fearful disgusted surprised calm angst"
    colors = timeline_page._colors(names.split())
    assert len({*colors.values()}) == 9


def test_a_click_plays_there(tmp_path):
    browser = shutil.which("chromium")
    if not browser:
        pytest.skip("chromium is not installed")
    playwright = pytest.importorskip("playwright.sync_api")
    path = tmp_path / "Käse 1.html"
    path.write_text(render_timeline(timeline(), clip()), "utf-8")
    with playwright.sync_playwright() as start:
        chromium = start.chromium.launch(
            executable_path=browser, args=["--no-sandbox", "--disable-quic"]
        )
        page = chromium.new_page()
        problems = []
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda asked: problems.append(asked.url))
        page.goto(path.as_uri())
        sound = page.locator("audio")

        def reaches(done):
            """Whether it is `done` at some moment, and the time then."""
            for _ in range(100):
                now, paused = sound.evaluate("s => [s.currentTime, s.paused]")
                if done(now, paused):
                    return now
                page.wait_for_timeout(50)
            return None

        row = page.locator("svg.row").first
        width = row.bounding_box()["width"]
        row.click(position={"x": width * 0.55, "y": 30})
        assert reaches(lambda now, paused: not paused and 5.5 < now < 8)
        page.locator("tr[data-start] button").nth(2).click()
        assert reaches(lambda now, paused: not paused and 7.1 < now < 8)
        assert page.locator("tr.now").inner_text().startswith("▶0:07.0")
        # It stops where the segment does.
        assert 8 <= reaches(lambda now, paused: paused) < 8.5
        chromium.close()
    allowed = ("file://", "data:audio/ogg")
    assert [p[:200] for p in problems if not p.startswith(allowed)] == []
