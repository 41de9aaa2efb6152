"""The page in a real browser, whose microphone plays a recording: the right words appear."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
from playwright.sync_api import ConsoleMessage, Page, expect, sync_playwright
from tests.samples import SMALL_MODEL
from tests.serving.harness import RATE, Running

CHROMIUM = os.environ.get("UNICHOIR_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = [
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-sync",
    "--no-first-run",
    "--no-sandbox",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]
PATIENCE_MS = 60_000

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (UNICHOIR_CHROMIUM names it)")
with_sound = pytest.mark.alone
"""A browser that lacks a processor loses sound of its microphone."""


@contextmanager
def browsing(url: str, microphone: Path | None = None, **options: object) -> Iterator[Page]:
    """Open a page in a fresh browser; errors in its console fail the test."""
    flags = [*FLAGS, f"--use-file-for-fake-audio-capture={microphone}%noloop"] if microphone else FLAGS
    problems: list[str] = []

    def note(message: ConsoleMessage) -> None:
        # That an answer was an error is also reported by the browser itself; the page has to explain it.
        if message.type == "error" and "Failed to load resource" not in message.text:
            problems.append(message.text)

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = browser.new_context(**options).new_page()  # type: ignore[arg-type]
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", note)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(url)
        yield page
        browser.close()
    assert problems == []


@pytest.fixture
def microphone(tmp_path: Path, clips) -> Path:
    """The audio of the microphone: a pause, the second clip, a pause.

    Pauses are of faint noise, as those of real microphones: where digital silence ends in a chunk, the small model
    mishears the first words in many ways.
    """
    pauses = np.random.default_rng(0).integers(-10, 11, 3 * RATE).astype(np.int16)
    soundfile.write(tmp_path / "spoken.wav", np.concatenate([pauses[:RATE], clips[1], pauses[RATE:]]), RATE)
    return tmp_path / "spoken.wav"


HEARD = "FOUR EIGHT"
"""Of the second clip, wherever chunks begin in it; its first word the small model may mishear."""


def words_on(page: Page) -> str:
    return " ".join(page.locator("#lines .text").all_inner_texts())


@with_sound
def test_speaking_to_the_page(server: Running, microphone: Path, expected) -> None:
    with browsing(server.url, microphone) as page:
        expect(page.locator("#model")).to_contain_text(SMALL_MODEL.name)
        page.locator("#listen").click()
        expect(page.locator("#listen")).to_have_attribute("aria-pressed", "true")
        expect(page.locator("#partial")).to_contain_text(HEARD, timeout=PATIENCE_MS)
        expect(page.locator("#lines .text").first).to_be_visible(timeout=PATIENCE_MS)
        page.locator("#listen").click()
        expect(page.locator("#listen")).to_have_attribute("aria-pressed", "false")
        # Chromium resamples what its microphone plays, so that a word may be heard in another way.
        found, spoken = words_on(page).split(), expected[1].split()
        assert len(set(spoken) - set(found)) <= 1
        assert abs(len(found) - len(spoken)) <= 1
        page.locator("#times").check()
        assert re.search(r"\d", page.locator("#lines").inner_text())


@with_sound
@pytest.mark.skipif("UNICHOIR_SCREENSHOT" not in os.environ, reason="UNICHOIR_SCREENSHOT names the picture to take")
def test_picture_of_the_page(server: Running, tmp_path: Path, clips) -> None:
    """docs/deploy/page.png: two sentences with times and confidence, the third being spoken."""
    pause = np.zeros(int(1.5 * RATE), np.int16)
    spoken = np.concatenate([part for place in (1, 2, 0) for part in (clips[place], pause)])
    soundfile.write(tmp_path / "spoken.wav", spoken, RATE)
    size = {"width": 900, "height": 740}
    with browsing(server.url, tmp_path / "spoken.wav", viewport=size) as page:
        page.locator("#times").check()
        page.locator("#listen").click()
        expect(page.locator("#lines .text")).to_have_count(2, timeout=PATIENCE_MS)
        expect(page.locator("#partial")).to_contain_text("FIVE", timeout=PATIENCE_MS)
        page.screenshot(path=os.environ["UNICHOIR_SCREENSHOT"])


@with_sound
def test_the_last_word_is_not_lost_when_listening_stops(server: Running, tmp_path: Path, clips, expected) -> None:
    """The button is pressed as soon as the last word's sound is over, before any silence could end the utterance."""
    soundfile.write(tmp_path / "spoken.wav", np.concatenate([clips[1], clips[1][:0]]), RATE)
    with browsing(server.url, tmp_path / "spoken.wav") as page:
        page.locator("#listen").click()
        expect(page.locator("#partial")).to_contain_text("SIX FOUR EIGHT", timeout=PATIENCE_MS)
        page.locator("#listen").click()
        expect(page.locator("#lines .text").first).to_be_visible(timeout=PATIENCE_MS)
        expect(page.locator("#listen")).to_have_attribute("aria-pressed", "false")
        assert words_on(page).startswith("SIX FOUR EIGHT")


def test_uploading_a_file_and_keeping_its_words(server: Running, included, clips, tmp_path: Path) -> None:
    recording = np.concatenate([part for clip in clips for part in (clip, np.zeros(3 * RATE, np.int16))])
    soundfile.write(tmp_path / "recording.wav", recording, RATE)
    transcript = included.recordings.recognize(recording.astype(np.float32) / 32768)
    with browsing(server.url, viewport={"width": 360, "height": 740}) as page:
        page.locator("#file").set_input_files(tmp_path / "recording.wav")
        expect(page.locator("#download-json")).to_be_visible(timeout=PATIENCE_MS)
        expect(page.locator("#upload-progress")).to_be_hidden(timeout=PATIENCE_MS)
        assert words_on(page).split() == transcript.text.split()
        # A phone: nothing to scroll sideways, everything large enough for a finger.
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        boxes = [page.locator(f"#{name}").bounding_box() for name in ("listen", "download-text", "download-json")]
        assert all(box and box["height"] >= 44 for box in boxes)
        saved = {kind: download(page, f"#download-{kind}") for kind in ("text", "srt", "vtt", "json")}
    assert saved["text"].split() == transcript.text.split()
    for kind, arrow_digits in (("srt", ","), ("vtt", ".")):
        times = re.findall(rf"(\d\d):(\d\d):(\d\d)\{arrow_digits}(\d\d\d)", saved[kind])
        seconds = [int(h) * 3600 + int(m) * 60 + int(s) + int(ms) / 1000 for h, m, s, ms in times]
        assert seconds == sorted(seconds)
        assert seconds[0] == pytest.approx(transcript.words[0].start_ms / 1000, abs=0.02)
        assert seconds[-1] == pytest.approx(transcript.words[-1].end_ms / 1000, abs=0.02)
        lines = [line for line in saved[kind].splitlines() if line and "-->" not in line and not line.isdigit()]
        assert " ".join(line for line in lines if line != "WEBVTT").split() == transcript.text.split()
    assert saved["vtt"].startswith("WEBVTT\n")
    assert transcript.text.split()[0] in json.dumps(json.loads(saved["json"]))


def download(page: Page, selector: str) -> str:
    """Return the text that the button saves."""
    with page.expect_download() as info:
        page.locator(selector).click()
    return Path(info.value.path()).read_text(encoding="utf-8")


def test_a_file_that_is_no_audio_is_explained(server: Running, tmp_path: Path) -> None:
    (tmp_path / "letter.wav").write_text("Dear Sir,")
    with browsing(server.url) as page:
        page.locator("#file").set_input_files(tmp_path / "letter.wav")
        expect(page.locator("#error")).to_contain_text("letter.wav", timeout=PATIENCE_MS)


def test_what_is_missing_in_a_recording_is_said(server: Running, clips, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "whole.wav", clips[0], RATE)
    (tmp_path / "cut.wav").write_bytes((tmp_path / "whole.wav").read_bytes()[: -len(clips[0])])
    with browsing(server.url) as page:
        page.locator("#file").set_input_files(tmp_path / "cut.wav")
        expect(page.locator("#status")).to_contain_text("Note: cut.wav: truncated", timeout=PATIENCE_MS)


@with_sound
def test_the_key_is_asked_for(serve: Callable[..., Running], microphone: Path) -> None:
    with browsing(serve(api_key="secret").url, microphone) as page:
        page.locator("#key").fill("wrong")
        page.locator("#key").press("Enter")
        expect(page.locator("#error")).to_be_visible(timeout=PATIENCE_MS)
        page.locator("#key").fill("secret")
        page.locator("#key").press("Enter")
        expect(page.locator("#model")).to_contain_text(SMALL_MODEL.name, timeout=PATIENCE_MS)
        page.locator("#listen").click()
        expect(page.locator("#partial")).to_contain_text(HEARD, timeout=PATIENCE_MS)


@with_sound
def test_everything_can_be_done_from_the_keyboard(server: Running, microphone: Path) -> None:
    with browsing(server.url, microphone) as page:
        for _ in range(20):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.id") == "listen":
                break
        page.keyboard.press("Enter")
        expect(page.locator("#listen")).to_have_attribute("aria-pressed", "true")
        expect(page.locator("#lines .text").first).to_be_visible(timeout=PATIENCE_MS)
        page.keyboard.press("Enter")
        expect(page.locator("#listen")).to_have_attribute("aria-pressed", "false", timeout=PATIENCE_MS)
