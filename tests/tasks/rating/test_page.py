"""The page in a real browser: everything that a rater does, with servers that go away and come back."""

import shutil
import time
from contextlib import contextmanager

import pytest

from storage.records import EditType
from tests.tasks.rating.served import NASTY, make_item, make_items, served

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome on the PATH")
READY = ".scores button[aria-disabled=false]"


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        launched = driver.chromium.launch(executable_path=BROWSER)
        yield launched
        launched.close()


@pytest.fixture
def site(tmp_path):
    with served(make_items(7), tmp_path / "ratings.jsonl") as site:
        yield site


class Rater:
    """Somebody at the page; what the browser asked for and complained of is kept."""

    def __init__(self, context):
        context.set_default_timeout(8000)
        self.asked, self.complaints = [], []
        context.on("request", lambda request: self.asked.append(request.url))
        self.page = context.new_page()
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def open(self, site, name="Ann"):
        self.page.goto(f"{site.url}/?rater={name}")
        self.wait()

    def wait(self):
        self.page.wait_for_selector(READY)

    def press(self, *keys):
        """Press keys as somebody does who waits for the pictures."""
        for key in keys:
            self.wait()
            self.page.keyboard.press(key)

    def text(self, selector):
        return self.page.locator(selector).inner_text()

    def shown(self):
        """The edit that is shown."""
        return self.page.locator("img.edited").get_attribute("src").split("/")[2]


@contextmanager
def rater(browser, **options):
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 720}, **options})
    try:
        yield Rater(context)
    finally:
        context.close()


@pytest.fixture
def ann(browser):
    with rater(browser) as ann:
        yield ann


def until(condition, seconds=8.0):
    """Wait for what the browser does by itself."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def test_from_the_name_to_the_end_by_keys_alone(ann, site):
    ann.page.goto(site.url)
    ann.page.keyboard.type("Ann")
    ann.page.keyboard.press("Enter")
    order = []
    for number in range(7):
        ann.wait()
        assert ann.text("#counts").startswith(f"{number} of 7 · {7 - number} left")
        order.append(ann.shown())
        ann.press(str(number % 6))
    ann.page.wait_for_selector("#finished")
    assert "all 7 edits" in ann.text("#finished")
    assert "python -m flows.collect_labels x" in ann.text("#finished")
    assert site.scores() == {("Ann", edit_id): number % 6 for number, edit_id in enumerate(order)}
    ann.page.keyboard.press("Backspace")
    ann.wait()
    assert ann.shown() == order[-1]
    ann.press("5")
    ann.page.wait_for_selector("#finished")
    assert site.scores()["Ann", order[-1]] == 5
    assert {url.split("/")[2] for url in ann.asked} == {f"127.0.0.1:{site.port}"}
    assert ann.complaints == []


def test_undo_reaches_back_behind_a_reload(ann, site):
    ann.open(site)
    first = ann.shown()
    ann.press("1")
    second = ann.shown()
    ann.press("2", "u")
    assert ann.shown() == second
    until(lambda: site.scores() == {("Ann", first): 1})
    ann.page.reload()
    ann.press("u")
    until(lambda: site.scores() == {})
    assert ann.shown() == first
    ann.press("u")
    assert "nothing to take back" in ann.text("#said")


def test_flip_and_zoom_keep_both_pictures_aligned(ann, site):
    ann.open(site)
    page = ann.page

    def boxes():
        return page.locator(".view img").evaluate_all(
            "images => images.map((image) => [image.style.left, image.style.top, image.style.width])"
        )

    def visible():
        return page.locator("img.edited").is_visible(), page.locator("img.over").is_visible()

    assert visible() == (True, False)
    page.keyboard.down(" ")
    assert visible() == (False, True)
    page.keyboard.up(" ")
    assert visible() == (True, False)
    page.keyboard.press("f")
    assert visible() == (False, True)
    assert page.locator("#flip").get_attribute("aria-pressed") == "true"
    page.keyboard.press("f")
    before = boxes()
    assert before[0][2] == "384px", "a small picture is enlarged by a whole factor"
    box = page.locator(".view").nth(1).bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + box["height"] * 0.3)
    page.mouse.wheel(0, -300)
    until(lambda: boxes() != before)
    page.mouse.down()
    page.mouse.move(box["x"] + 20, box["y"] + 20)
    page.mouse.up()
    assert len({tuple(each) for each in boxes()}) == 1
    assert page.locator("img.edited").evaluate("image => getComputedStyle(image).imageRendering") == "pixelated"
    page.keyboard.press("z")
    assert boxes() == before
    ann.press("3", "f", "4")
    ann.wait()
    assert visible() == (True, False), "the next edit begins with itself"


def test_two_raters_at_once(browser, ann, site):
    with rater(browser) as ben:
        ann.open(site, "Ann")
        ben.open(site, "Ben")
        for number in range(4):
            ann.press(str(number))
            ben.press(str(5 - number))
        until(lambda: len(site.scores()) == 8)
    scores = site.scores()
    assert sorted(score for (name, _), score in scores.items() if name == "Ann") == [0, 1, 2, 3]
    assert sorted(score for (name, _), score in scores.items() if name == "Ben") == [2, 3, 4, 5]
    assert ann.complaints == ben.complaints == []


def test_going_on_after_a_reload_and_on_another_day(ann, site):
    ann.open(site)
    ann.press("1", "2")
    ann.wait()
    third = ann.shown()
    until(lambda: len(site.scores()) == 2)
    ann.page.reload()
    ann.wait()
    assert ann.shown() == third
    site.stop()
    site.start()
    ann.page.goto(site.url)
    assert ann.page.locator("#name").input_value() == "Ann"
    ann.page.keyboard.press("Enter")
    ann.wait()
    assert ann.shown() == third
    assert ann.text("#counts").startswith("2 of 7")


def test_a_server_that_goes_away_for_two_seconds_loses_nothing(ann, site):
    ann.open(site)
    ann.press("1")
    until(lambda: len(site.scores()) == 1)
    ann.page.wait_for_load_state("networkidle")
    site.stop()
    went = time.monotonic()
    ann.press("2", "3", "4", "u", "5")
    ann.page.wait_for_selector("#lost")
    until(lambda: "ratings are kept in this browser" in ann.text("#lost"))
    assert len(site.scores()) == 1
    time.sleep(max(0.0, went + 2 - time.monotonic()))
    site.start()
    until(lambda: sorted(site.scores().values()) == [1, 2, 3, 5])
    until(lambda: not ann.page.locator("#lost").is_visible())
    assert ann.text("#counts").startswith("4 of 7")


def test_ratings_that_wait_outlive_the_page(ann, site):
    ann.open(site)
    ann.page.wait_for_load_state("networkidle")
    site.stop()
    ann.press("4")
    ann.page.wait_for_selector("#lost")
    ann.page.goto("about:blank")
    site.start()
    ann.open(site)
    until(lambda: list(site.scores().values()) == [4])


def test_what_is_skipped_comes_again_at_the_end(ann, site):
    ann.open(site)
    skipped = ann.shown()
    ann.press("s")
    for _ in range(3):
        ann.press("3")
    ann.page.reload()
    for _ in range(3):
        ann.wait()
        assert ann.shown() != skipped
        ann.press("3")
    ann.wait()
    assert ann.shown() == skipped
    ann.press("s")
    assert "only one left" in ann.text("#said")
    ann.press("0")
    ann.page.wait_for_selector("#finished")


def test_an_instruction_is_text(ann, tmp_path):
    with served([make_item(1, instruction=NASTY)], tmp_path / "ratings.jsonl") as site:
        ann.open(site)
        assert ann.text("#instruction") == NASTY
        assert ann.page.title() == "Rate edits"
        assert ann.page.locator("#instruction *").count() == 0
        assert all("/x" not in url for url in ann.asked)


def test_keys_held_or_pressed_twice_rate_once_and_shortcuts_of_the_browser_do_not(ann, site):
    ann.open(site)
    ann.page.keyboard.down("3")
    for _ in range(5):
        ann.page.keyboard.down("3")
        ann.wait()
    ann.page.keyboard.up("3")
    ann.press("Control+1", "Alt+2")
    until(lambda: list(site.scores().values()) == [3])
    ann.page.reload()
    ann.press("3")
    ann.page.keyboard.press("3")  # at once: by mistake, and nobody has looked
    ann.wait()
    assert ann.text("#counts").startswith("2 of 7")
    until(lambda: list(site.scores().values()) == [3, 3])


def test_buttons_do_what_keys_do(ann, site):
    ann.open(site)
    ann.page.get_by_role("button", name="4", exact=True).click()
    ann.wait()
    ann.page.keyboard.down(" ")
    assert ann.page.locator("#stage.flipped").is_visible(), "a clicked button does not keep the space bar"
    ann.page.keyboard.up(" ")
    until(lambda: list(site.scores().values()) == [4])
    ann.page.get_by_role("button", name="Undo").click()
    until(lambda: site.scores() == {})
    ann.wait()
    ann.page.get_by_role("button", name="2", exact=True).focus()
    ann.page.keyboard.press("Space")
    until(lambda: list(site.scores().values()) == [2])
    for button in ann.page.get_by_role("button").all():
        assert button.evaluate("b => (b.ariaLabel || b.innerText).trim().length && b.tabIndex === 0")


@pytest.mark.parametrize("size", [(1280, 720), (420, 800), (360, 640)])
def test_it_fits_without_scrolling(browser, tmp_path, size):
    items = [make_item(1, EditType.BACKGROUND, "replace the background with a quiet beach at sunset, " * 3, side=300)]
    viewport = dict(zip(("width", "height"), size, strict=True))
    with served(items, tmp_path / "ratings.jsonl") as site, rater(browser, viewport=viewport) as ann:
        ann.open(site)
        page = "document.documentElement"
        assert ann.page.evaluate(f"[{page}.scrollWidth, {page}.scrollHeight]") == list(size)
        for selector in (".scores button", "#undo", "#flip", ".at-5", "#instruction"):
            box = ann.page.locator(selector).last.bounding_box()
            assert box["x"] + box["width"] <= size[0]
            assert box["y"] + box["height"] <= size[1]
        assert ann.page.locator("img.source:not(.over)").bounding_box()["width"] >= 80
