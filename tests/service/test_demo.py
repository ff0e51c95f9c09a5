"""The page on which people write poems: what it is made of, and what people do on it in a browser."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny import poem_model, sentence_model

from textdiff.core.errors import AskedError
from textdiff.pipeline.text import TextPipeline

pytest.importorskip("prometheus_client")
pytest.importorskip("uvicorn")
testclient = pytest.importorskip("starlette.testclient")

from textdiff.pipeline.service.app import application  # noqa: E402
from textdiff.pipeline.service.demo import FILES, FOLDER, page_of  # noqa: E402

CHROMIUM = Path("/usr/bin/chromium")
HTML, SCRIPT = ((FOLDER / name).read_text(encoding="utf-8") for name in ("index.html", "page.js"))


def test_the_page_and_its_files_are_served_and_nothing_else_is_asked_for():
    pipe = TextPipeline.of(poem_model(form="wuyan-jueju"))
    with testclient.TestClient(application(pipe, more=page_of(pipe))) as client:
        for path, name in FILES.items():
            answer = client.get(path)
            assert answer.status_code == 200 and answer.text == (FOLDER / name).read_text(encoding="utf-8")
            assert "default-src 'none'" in answer.headers["content-security-policy"]
        settings = client.get("/settings").json()
        assert client.get("/page/../app.py").status_code == 404
    assert settings["form"] == "wuyan-jueju" and "title" in settings["told"] and len(settings["forms"]) == 4
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", HTML + SCRIPT), "no other host is named"


def test_both_languages_have_every_word():
    english, chinese = (
        re.findall(r"(\w+): \"", part)
        for part in re.split(r"\n  zh: \{", SCRIPT.partition("};")[0].partition("en: {")[2])
    )
    said = set(re.findall(r"data-say=\"(\w+)\"", HTML)) | set(re.findall(r"say\(\"(\w+)\"\)", SCRIPT))
    assert english == chinese and said | {"freeze", "thaw"} == set(english)


def test_a_model_that_writes_no_verse_has_no_page():
    with pytest.raises(AskedError, match="writes no verse, for which the page is; use 'textdiff serve'"):
        page_of(TextPipeline.of(sentence_model()))


# -- in a browser ---------------------------------------------------------------------------------------------------------

Open = Callable[..., Any]


@pytest.fixture
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM}")
    with playwright.sync_playwright() as p:
        found = p.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def opened(browser, start) -> Iterator[tuple[Open, str]]:
    """Opens the page, and where it is."""
    _, (host, port) = start("--texts", 10**7, verb="demo")
    url, errors = f"http://{host}:{port}/", list[Any]()

    def call(width: int = 1100, locale: str = "en-US") -> Any:
        page = browser.new_context(viewport={"width": width, "height": 800}, locale=locale).new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", errors.append)
        page.goto(url)
        page.wait_for_selector("#form option", state="attached")
        return page

    yield call, url
    assert errors == []


def poem(page: Any) -> str:
    page.wait_for_selector("#stop", state="hidden")
    return "".join(page.locator("#poem button").all_inner_texts())


def written(page: Any, **wishes: str) -> str:
    for name, value in wishes.items():
        (page.select_option if name in ("form", "prosody") else page.fill)(f"#{name}", value)
    page.click("#write")
    page.wait_for_selector("#again:not([disabled])")
    return poem(page)


@pytest.mark.slow
def test_a_poem_is_written_frozen_and_drawn_again(opened):
    page = opened[0]()
    first = written(page, acrostic="春明月光", title="月")
    assert len(first) == 20 and first[::5] == "春明月光" and "□" not in first
    assert page.locator("#poem .frozen").count() == 4, "what was given is frozen"
    page.locator("#poem button").nth(7).click()
    page.click("#freeze")
    page.click("#again")
    second = poem(page)
    assert second != first and second[::5] == first[::5] and second[7] == first[7]
    page.locator("#poem button").nth(9).click()
    page.click("#redraw")
    third = poem(page)
    assert third[:9] + third[10:] == second[:9] + second[10:]
    page.wait_for_selector("#alternatives button:not([disabled])")
    other = page.locator("#alternatives button:not([disabled])").first
    letter = other.inner_text()[0]
    other.click()
    page.wait_for_selector(f"#which:text-is('{letter}')")
    assert poem(page) == third[:9] + letter + third[10:]
    page.click("#back")
    assert poem(page) == third


@pytest.mark.slow
def test_scores_are_colours_and_the_poem_is_saved(opened):
    page = opened[0]()
    text = written(page)
    page.check("#heat")
    page.wait_for_selector("#poem .heated")
    assert page.locator("#poem .heated").count() == 20 and "nats a character" in page.inner_text("#status")
    for button, name in (("#text", "poem.txt"), ("#svg", "poem.svg")):
        with page.expect_download() as waiting:
            page.click(button)
        assert waiting.value.suggested_filename == name
        saved = waiting.value.path().read_text(encoding="utf-8")
        assert [c for c in re.sub(r"<title>.*?</title>", "", saved, flags=re.S) if c in text] == list(text)


@pytest.mark.slow
def test_the_page_serves_a_phone_in_chinese_and_the_keyboard(opened):
    page = opened[0](360, "zh-CN")
    assert page.inner_text("#write") == "写一首"
    first = written(page, form="qiyan-lushi")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing stands beside the screen"
    page.keyboard.press("Tab")
    while page.evaluate("document.activeElement.parentElement.className") != "line":
        page.keyboard.press("Tab")
    for key in ("ArrowRight", "ArrowDown", "f"):
        page.keyboard.press(key)
    assert page.locator("#poem button").nth(8).get_attribute("aria-pressed") == "true"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("r")
    second = poem(page)
    assert second[:9] + second[10:] == first[:9] + first[10:]
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").endswith("第2行第3字")
    page.keyboard.press("Enter")
    page.wait_for_selector("#alternatives button")
    page.click("#language")
    assert page.inner_text("#write") == "Write a poem"


@pytest.mark.slow
def test_a_wrong_wish_is_answered_with_its_message(opened):
    page = opened[0]()
    page.fill("#acrostic", "春夏")
    page.click("#write")
    page.wait_for_selector("#trouble", state="visible")
    assert "acrostic has 2 characters" in page.inner_text("#trouble")
    assert len(written(page, acrostic="")) == 20 and page.locator("#trouble").is_hidden()


@pytest.mark.slow
def test_two_people_write_at_once(opened):
    pages = [opened[0]() for _ in range(2)]
    for page, form in zip(pages, ("wuyan-jueju", "qiyan-lushi"), strict=True):
        page.select_option("#form", form)
        page.click("#write")
    assert [(page.wait_for_selector("#again:not([disabled])"), len(poem(page)))[1] for page in pages] == [20, 56]


@pytest.mark.slow
@pytest.mark.parametrize("leaves", ["tab", "stop"])
def test_who_leaves_stops_the_work(opened, leaves):
    """The poem would take hours: the request of the page is changed on its way."""
    call, url = opened
    page = call()
    endless = '{"form": "wuyan-jueju", "steps": 1, "sampler": "gibbs", "sampler_options": {"sweeps": 1e6}}'
    page.route("**/generate", lambda route: route.continue_(post_data=endless))
    page.click("#write")
    page.wait_for_selector("#poem button")
    if leaves == "tab":
        page.close()
    else:
        page.click("#stop")
        page.wait_for_selector("#stop", state="hidden")
    assert len(written(call())) == 20, "the one thread that works is free again"
    with urllib.request.urlopen(url + "metrics") as answer:
        assert 'textdiff_requests_total{status="499",verb="generate"} 1.0' in answer.read().decode()
