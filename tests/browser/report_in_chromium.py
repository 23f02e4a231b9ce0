"""The report's controls in a real browser. Run by tests/browser/run."""

import base64
import io
import json
import os

import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

from detlite.config import load_config
from detlite.data import build_dataset
from detlite.engine.test import score
from detlite.evaluation.analysis import DetectionAnalysis
from detlite.inspection.report.gallery import MOST

IMAGES, CLASSES, SIZE = 5000, 20, (160, 120)
NASTY = ["<img src=x onerror=alert(1)>", "</script><script>alert(2)</script>", "'\"&amp; " + "long " * 30]
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars"
).split()


def random_results(draw, objects):
    """Return COCO results: most objects, moved a little, some of another class, and as many without an object."""
    chosen = draw.integers(0, len(objects), 2 * len(objects))
    labels = np.array([row["category_id"] for row in objects])[chosen]
    boxes = np.array([row["bbox"] for row in objects])[chosen] * draw.uniform(0.85, 1.15, (len(chosen), 4))
    labels = np.where(draw.random(len(chosen)) < 0.85, labels, draw.integers(1, CLASSES + 1, len(chosen)))
    scores = draw.beta(2, 1, len(chosen))
    images = np.array([row["image_id"] for row in objects])[chosen]
    nothing = draw.uniform(0, 50, (len(chosen), 4)) + 4
    images, labels, scores, boxes = (
        np.concatenate(pair)
        for pair in (
            (images, draw.integers(1, IMAGES + 1, len(chosen))),
            (labels, draw.integers(1, CLASSES + 1, len(chosen))),
            (scores, draw.beta(1, 4, len(chosen))),
            (boxes, nothing),
        )
    )
    rows = zip(images.tolist(), labels.tolist(), boxes.tolist(), scores.tolist(), strict=True)
    return [{"image_id": i, "category_id": k, "bbox": box, "score": s} for i, k, box, s in rows]


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Write reports of one run and of two on 5,000 images; return their folder and the expected numbers."""
    folder, draw = tmp_path_factory.mktemp("runs"), np.random.default_rng(0)
    picture = io.BytesIO()
    Image.fromarray(draw.integers(0, 255, (*SIZE[::-1], 3), np.uint8)).resize(SIZE).save(picture, "JPEG")
    (folder / "images").mkdir()
    for n in range(1, IMAGES + 1):
        (folder / f"images/{n} <b>.jpg").write_bytes(picture.getvalue())
    names = [*NASTY, *(f"class {k}" for k in range(len(NASTY) + 1, CLASSES + 1))]
    objects = [
        {
            "id": n,
            "image_id": int(draw.integers(1, IMAGES + 1)),
            "category_id": int(draw.integers(1, CLASSES + 1)),
            "bbox": [*draw.uniform(0, 60, 2).tolist(), *draw.uniform(10, 55, 2).tolist()],
        }
        for n in range(1, 35001)
    ]
    sizes = dict(zip(("width", "height"), SIZE, strict=True))
    truth = {
        "images": [{"id": n, "file_name": f"{n} <b>.jpg", **sizes} for n in range(1, IMAGES + 1)],
        "categories": [{"id": k, "name": name} for k, name in enumerate(names, 1)],
        "annotations": objects,
    }
    (folder / "truth.json").write_text(json.dumps(truth))
    for name in ("one", "two"):
        (folder / name).mkdir()
        (folder / name / "predictions.json").write_text(json.dumps(random_results(draw, objects)))
        lines = [json.dumps({"step": 20 * n, "loss": 3 / n, "lr": 0.01 / n}) for n in range(1, 501)]
        (folder / name / "metrics.jsonl").write_text("\n".join(lines))
    test = f"{{NAME: CocoDataset, ANNOTATIONS: {folder}/truth.json, IMAGES: {folder}/images}}"
    evaluators = "[{NAME: CocoEvaluator, BACKEND: faster_coco_eval}]"

    def config(name):
        return load_config(
            opts=["DATASETS.TEST", test, "EVALUATION.EVALUATORS", evaluators, "OUTPUT_DIR", str(folder / name)]
        )

    score(config("alone"), folder / "one", page=True)
    score(config("both"), folder / "one", compare=folder / "two")
    dataset = build_dataset(config("alone").DATASETS.TEST)
    predictions = json.loads((folder / "one/predictions.json").read_text())

    def analysis(threshold):
        evaluator = DetectionAnalysis(dataset, score_threshold=threshold)
        evaluator.load(predictions)
        return evaluator.evaluate()["analysis"]

    return {"folder": folder, "analysis": analysis, "names": names}


@pytest.fixture
def open_page(runs, tmp_path):
    """Return a function: (report, width, dark) -> a browser that shows it. Afterwards its console must be empty."""
    drivers = []

    def open_page(name="alone", width=1280, dark=False):
        options = webdriver.ChromeOptions()
        options.binary_location = "/usr/bin/chromium"
        for flag in (*FLAGS, f"--user-data-dir={tmp_path / f'profile{len(drivers)}'}", "--window-size=1280,900"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        driver = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
        drivers.append(driver)
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        driver.get((runs["folder"] / name / "report.html").as_uri())
        shoot(driver, f"{name}_{width}_{'dark' if dark else 'light'}")
        return driver

    yield open_page
    for driver in drivers:
        messages = driver.get_log("browser")
        driver.quit()
        assert messages == []


def shoot(driver, name):
    """Save a picture of the whole page, if DETLITE_SCREENSHOTS names a folder."""
    if os.environ.get("DETLITE_SCREENSHOTS"):
        shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": True})
        with open(os.path.join(os.environ["DETLITE_SCREENSHOTS"], f"{name}.png"), "wb") as file:
            file.write(base64.b64decode(shot["data"]))


def cards(driver, list_id):
    return [node.text.split("\n")[1:] for node in driver.find_elements(By.CSS_SELECTOR, f"#{list_id} > div")]


def column(driver, number):
    """Return a column of the table of classes, as shown."""
    rows = "[...document.querySelectorAll('#class-table tbody tr')]"
    return driver.execute_script(f"return {rows}.map((row) => row.cells[arguments[0]].textContent)", number)


def set_threshold(driver, value):
    driver.execute_script(
        "const slider = document.getElementById('threshold'); slider.value = arguments[0];"
        "for (const name of ['input', 'change']) slider.dispatchEvent(new Event(name, {bubbles: true}));",
        round(100 * value),
    )


def shown(value):
    return "n/a" if value is None else f"{value:.3f}"


def test_it_opens_quickly(open_page, runs):
    driver = open_page()
    milliseconds = driver.execute_script("return performance.getEntriesByType('navigation')[0].loadEventEnd")
    size = (runs["folder"] / "alone/report.html").stat().st_size
    print(f"\n{IMAGES} images: {size / 1e6:.1f} MB, open after {milliseconds / 1000:.2f} s")
    assert "5,000 images, 35,000 objects" in driver.find_element(By.ID, "about").text
    assert len(cards(driver, "scores")) == 12


def test_the_slider_moves_by_keys_and_changes_all_numbers_to_those_of_detection_analysis(open_page, runs):
    driver = open_page()
    slider = driver.find_element(By.ID, "threshold")
    before = driver.find_element(By.ID, "histogram").get_attribute("innerHTML")
    slider.send_keys(Keys.ARROW_RIGHT * 7)
    assert slider.get_attribute("aria-valuetext") == "0.57"
    assert driver.find_element(By.ID, "histogram").get_attribute("innerHTML") != before
    for threshold in (0.57, 0.05, 0.9):
        set_threshold(driver, threshold)
        expected = runs["analysis"](threshold)
        every = expected["all"]
        texts = [shown(every[key]) for key in ("precision", "recall", "f1")]
        texts += [str(every[key]) for key in ("right", "wrong", "missed")]
        assert [text for (text,) in cards(driver, "ratios")] == texts
        for number, key in ((4, "precision"), (5, "recall"), (6, "f1")):
            values = {name: shown(row[key]) for name, row in expected["per_class"].items()}
            assert dict(zip(column(driver, 0), column(driver, number), strict=True)) == values
    driver.find_element(By.ID, "best").click()
    best = float(driver.find_element(By.ID, "threshold-value").text)
    f1 = runs["analysis"](best)["all"]["f1"]
    assert all(f1 >= runs["analysis"](best + step)["all"]["f1"] for step in (-0.01, 0.01))


def test_a_heading_sorts_by_key_or_click_one_way_and_the_other(open_page):
    driver = open_page()
    heads = driver.find_elements(By.CSS_SELECTOR, "#class-table thead th")
    heads[2].find_element(By.TAG_NAME, "button").click()
    values = [float(text) for text in column(driver, 2)]
    assert heads[2].get_attribute("aria-sort") == "descending" and values == sorted(values, reverse=True)
    heads[2].find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)
    assert heads[2].get_attribute("aria-sort") == "ascending" and heads[0].get_attribute("aria-sort") == "none"
    assert [float(text) for text in column(driver, 2)] == sorted(values)


def test_the_class_filters_the_gallery_and_the_numbers(open_page, runs):
    driver = open_page()
    Select(driver.find_element(By.ID, "mistake-class")).select_by_index(5)
    captions = [node.text for node in driver.find_elements(By.CSS_SELECTOR, "#gallery figcaption")]
    assert captions and all("class 5" in caption for caption in captions)
    assert driver.find_element(By.ID, "shown").text == f"{len(captions)} of {MOST} shown"
    row = runs["analysis"](0.5)["per_class"]["class 5"]
    assert [text for (text,) in cards(driver, "ratios")][3:] == [str(row[k]) for k in ("right", "wrong", "missed")]
    Select(driver.find_element(By.ID, "kind")).select_by_visible_text("background")
    fewer = [node.text for node in driver.find_elements(By.CSS_SELECTOR, "#gallery figcaption")]
    assert 0 < len(fewer) < len(captions) and all("background" in caption for caption in fewer)
    images = driver.find_elements(By.CSS_SELECTOR, "#gallery image")
    assert len(images) == len(fewer)


def test_strangers_names_are_shown_as_they_are(open_page, runs):
    driver = open_page()
    assert sorted(column(driver, 0)) == sorted(runs["names"])
    assert "<b>.jpg" in driver.find_element(By.CSS_SELECTOR, "#gallery small").text
    assert not driver.find_elements(By.CSS_SELECTOR, "img, b, main script")


def test_the_theme_follows_the_system_until_it_is_chosen(open_page):
    ground = "return getComputedStyle(document.body).backgroundColor"
    driver = open_page(dark=True)
    dark = driver.execute_script(ground)
    button = driver.find_element(By.ID, "theme")
    assert button.get_attribute("aria-pressed") == "true"
    button.send_keys(Keys.SPACE)
    assert button.get_attribute("aria-pressed") == "false"
    light = driver.execute_script(ground)
    assert (dark, light) == ("rgb(20, 24, 29)", "rgb(255, 255, 255)")
    assert open_page().execute_script(ground) == light


@pytest.mark.parametrize("name", ["alone", "both"])
def test_on_a_phone_nothing_sticks_out_sideways(open_page, name):
    driver = open_page(name, width=390)
    assert driver.execute_script("return document.documentElement.scrollWidth") == 390
    assert driver.execute_script("return document.querySelector('#histogram svg').clientWidth") > 300


def test_two_runs_stand_side_by_side(open_page):
    driver = open_page("both")
    assert all(
        a.startswith("A ") and b.startswith("B ") and difference[0] in "+−0"
        for a, b, difference in (card for card in cards(driver, "scores") if card[0] != "A n/a")
    )
    assert len(driver.find_elements(By.CSS_SELECTOR, "#histogram svg")) == 2
    assert len(driver.find_elements(By.CSS_SELECTOR, "#matrices table")) == 2
    first = driver.find_element(By.ID, "gallery").text
    Select(driver.find_element(By.ID, "run")).select_by_index(1)
    assert driver.find_element(By.ID, "gallery").text != first
    assert len(driver.find_elements(By.CSS_SELECTOR, "#metrics .run-b")) == 2


def test_every_control_can_be_reached_by_the_tab_key_and_shows_it(open_page):
    driver = open_page()
    reached = []
    for _ in range(40):
        driver.switch_to.active_element.send_keys(Keys.TAB)
        node = driver.switch_to.active_element
        reached.append(node.get_attribute("id") or node.get_attribute("aria-label") or node.text)
        assert node.value_of_css_property("outline-style") == "solid"
        if reached[-1] == "kind":
            break
    assert {"theme", "threshold", "best", "class", "Table of classes", "mistake-class", "kind"} <= set(reached)
