"""The page in a real browser, where there is one: Chromium, headless."""

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dino_jax.search.desk import Desk
from dino_jax.search.index import open_index
from dino_jax.search.photos import Photos
from dino_jax.search.server import Server
from dino_jax.weights.model import load
from tests.saved_model import save_tiny_vit
from tests.search.browser import BROWSER, Browser
from tests.search.photos import run, save_photo, save_photos, save_table

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
HOSTILE = "<img src=x onerror=alert(1)>.png"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    names = save_photos(folder / "photos")
    shutil.copy(folder / "photos" / names[0], folder / "photos" / HOSTILE)
    table = save_table(folder / "table.csv", [*names])
    model = save_tiny_vit(tmp_path_factory.mktemp("run"))
    options = (f"--metadata={table}", "--batch-size=8")
    assert run("build", folder / "i", model, folder / "photos", *options) == 0
    index = open_index(folder / "i")
    with Server(
        "127.0.0.1", 0, Desk(index, load(model), Photos(index.manifest.photos), 10**8)
    ) as page:
        thread = threading.Thread(target=page.serve_forever)
        thread.start()
        yield folder, page
        page.shutdown()
        thread.join()


@pytest.fixture(params=[(1280, 900, False), (390, 844, True)], ids=["desktop", "phone"])
def browser(request, place):
    found = Browser(*request.param)
    found.open(place[1].link)
    yield found
    errors = found.errors
    found.close()
    assert not errors


def names_of(browser) -> list[str]:
    return browser.run("[...document.querySelectorAll('.name')].map(x => x.textContent)")


def choose(browser, path: Path) -> list[str]:
    number = browser.run("state.number")
    browser.choose("#file", path)
    browser.wait(f"state.number > {number} && document.querySelectorAll('.hit').length > 0")
    browser.wait("document.getElementById('status').textContent.includes('exact')")
    return names_of(browser)


def overflow(browser) -> int:
    return browser.run(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )


def test_choosing_a_photo_shows_its_likes_without_overflow(browser, place):
    names = choose(browser, place[0] / "photos/p3-1.png")
    assert names[0] == "p3-1.png" and len(names) == 19 and HOSTILE in names
    assert overflow(browser) <= 0
    browser.wait(
        "[...document.querySelectorAll('.hit img')].slice(0, 2).every(x => x.naturalWidth)"
    )


def test_more_like_this_why_and_back(browser, place):
    choose(browser, place[0] / "photos/p3-1.png")
    browser.run("document.querySelectorAll('.acts button')[5].click()")  # why, of the second
    browser.wait("document.getElementById('why').naturalWidth > 300")
    assert overflow(browser) <= 0
    browser.run("document.getElementById('close').click()")
    second = names_of(browser)[1]
    browser.run("document.querySelectorAll('.acts button')[3].click()")
    browser.wait(f"state.name === {second!r} && document.querySelectorAll('.hit').length === 18")
    assert second not in names_of(browser)
    browser.run("document.activeElement.blur()")
    browser.key("Escape")
    browser.wait("state.name === 'p3-1.png' && document.querySelectorAll('.hit').length === 19")


def test_photos_of_the_same_thing_are_added_and_taken_away(browser, place):
    choose(browser, place[0] / "photos/p3-1.png")
    number = browser.run("state.number")
    browser.choose("#more", place[0] / "photos/p4-0.png")
    browser.wait(f"state.number > {number} && state.others.length === 1")
    browser.wait("document.getElementById('status').textContent.includes('exact')")
    with_file = browser.run("document.querySelector('.score').textContent")
    assert float(with_file) < 1
    browser.run("document.querySelectorAll('.acts button')[7].click()")  # same thing, of the third
    third = names_of(browser)[2]
    browser.wait(f"state.others.length === 2 && !document.body.innerText.includes({third!r})")
    browser.wait("[...document.querySelectorAll('#others img')].every(x => x.naturalWidth)")
    assert overflow(browser) <= 0
    for left in (1, 0):
        browser.run("document.querySelector('#others button').click()")
        browser.wait(f"document.querySelectorAll('#others li').length === {left}")
    browser.wait("document.querySelector('.score').textContent === '1.000'")


def test_filters_and_groups(browser, place):
    choose(browser, place[0] / "photos/p3-1.png")
    browser.key("/")
    browser.wait("document.activeElement.id === 'where'")
    browser.run("document.getElementById('where').value = 'price<30'")
    browser.key("Enter")
    browser.wait("document.querySelectorAll('.hit').length === 9")
    browser.run(
        "const g = document.getElementById('group'); g.value = 'sku';"
        "g.dispatchEvent(new Event('change'))"
    )
    browser.wait("document.querySelectorAll('.hit').length === 3")
    browser.run("document.getElementById('where').value = 'no=1'; search()")
    browser.wait("document.getElementById('status').textContent.includes('has no column')")
    # The browser itself names each request that failed.
    browser.errors[:] = [text for text in browser.errors if "400 (Bad Request)" not in text]


def test_a_box_is_drawn_with_the_mouse_in_pixels_of_the_file(browser, place):
    save_photo(place[0] / "large.png", 2, 0, size=400)
    choose(browser, place[0] / "large.png")
    browser.wait("document.getElementById('preview').naturalWidth === 400")
    browser.run("scrollTo(0, 0)")
    browser.wait("scrollY === 0")
    left, top, width = browser.run(
        "(r => [r.left, r.top, r.width])"
        "(document.getElementById('preview').getBoundingClientRect())"
    )
    scale = 400 / width
    browser.drag(
        (left + 0.25 * width, top + 0.25 * width), (left + 0.75 * width, top + 0.6 * width)
    )
    browser.wait("state.box !== null")
    box = browser.run("state.box")
    np.testing.assert_allclose(box, [100, 100, 300, 240], atol=2 * scale)
    assert browser.run("!document.getElementById('box').hidden")
    browser.key("Escape")
    browser.wait("state.box === null")


def test_dropping_and_pasting(browser, place):
    photo = (
        "fetch('/photo?row=5').then(r => r.blob())"
        ".then(b => new File([b], 'x.jpg', {type: b.type}))"
    )
    for event, holder in (("drop", "DragEvent"), ("paste", "ClipboardEvent")):
        data = "dataTransfer" if event == "drop" else "clipboardData"
        browser.run("document.getElementById('hits').replaceChildren()")
        browser.run(
            f"{photo}.then(f => {{const d = new DataTransfer(); d.items.add(f);"
            f"document.dispatchEvent(new {holder}('{event}', {{{data}: d, bubbles: true}}))}})"
        )
        browser.wait("document.querySelectorAll('.hit').length === 19")


def test_the_keyboard_goes_through_the_answers(browser, place):
    choose(browser, place[0] / "photos/p3-1.png")
    browser.run("document.activeElement.blur()")
    browser.key("ArrowRight")
    browser.key("ArrowRight")
    browser.key("w")
    browser.wait("document.getElementById('dialog').open")
    browser.run("document.getElementById('dialog').close()")
    second = names_of(browser)[1]
    browser.key("Enter")
    browser.wait(f"state.name === {second!r}")


def test_what_is_wrong_is_said_on_the_page(browser, place):
    bad = place[0] / "broken.png"
    bad.write_bytes(b"no image")
    browser.choose("#file", bad)
    browser.wait("document.getElementById('status').textContent.includes('not an image that can')")
    large = place[0] / "large.bmp"
    large.write_bytes(b"BM" + bytes(20_000_001))
    browser.choose("#file", large)
    browser.wait("document.getElementById('status').textContent.includes('larger than 20 MB')")
    (place[0] / "notes.txt").write_text("text")
    browser.choose("#file", place[0] / "notes.txt")
    browser.wait("document.getElementById('status').textContent.includes('is not an image')")
    browser.errors[:] = [text for text in browser.errors if "400 (Bad Request)" not in text]


def test_dark_and_light_are_told_apart(browser, tmp_path):
    browser.picture(tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as image:
        corner = image.convert("L").getpixel((2, 2))
        assert corner < 60 if image.width == 390 else corner > 200
