"""A reviewer's minutes in a real browser: log in, look, press a key, submit; the next pull has each answer once."""

import base64
import io
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import BrowserContext, Dialog, Page, Request, expect, sync_playwright
from sklearn.datasets import load_digits

from pipeline.label_studio import LabelStudio
from pipeline.queue import push, push_key
from pipeline.records import NOT_SURE, UNSHOWN, UNUSABLE, Project, ReviewTask
from pipeline.review_screen import NEUTRAL_REASON, is_earlier, review_config

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
EMAIL, PASSWORD = "browser@fasten.local", "reviewing-1"
DOCS = Path(__file__).parents[2] / "docs"
DIGITS = [str(i) for i in range(10)]
HOSTILE = "<img src=x onerror=alert(1)>"
ENLARGED = 128
EARLIER_SCREEN = """<View style="display: flex"><Image name="image" value="$image" maxWidth="320px"/><View>
<Header value="Current label: $current_label"/><Header value="Model says: $suggestion"/>
<Choices name="label" toName="image" choice="single-radio"><Choice value="cat"/><Choice value="dog"/></Choices>
<Choices name="verdict" toName="image" choice="single-radio"><Choice value="not sure"/></Choices>
</View></View>"""

CONTRASTS = """() => {
  const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = channels => channels.slice(0, 3).map(value => value / 255)
    .map(value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
    .reduce((sum, value, i) => sum + value * [0.2126, 0.7152, 0.0722][i], 0);
  const over = (top, bottom, alpha) => top.slice(0, 3).map((value, i) => alpha * value + (1 - alpha) * bottom[i]);
  const texts = [...document.querySelectorAll('.fasten-side *')].filter(element => element.checkVisibility()
    && [...element.childNodes].some(node => node.nodeType === Node.TEXT_NODE && node.data.trim()));
  return texts.map(element => {
    let alpha = 1, ground = null;
    for (let at = element; at; at = at.parentElement) {
      const style = getComputedStyle(at), colour = numbers(style.backgroundColor);
      if (!ground) alpha *= style.opacity;
      if (!ground && (colour[3] ?? 1) === 1) ground = colour;
    }
    const text = over(numbers(getComputedStyle(element).color), ground, alpha);
    const [dark, bright] = [light(text), light(ground)].sort((a, b) => a - b);
    return [element.textContent, (bright + 0.05) / (dark + 0.05)];
  });
}"""
"""WCAG 2.2 contrast of every visible text on the right of the screen with what is behind it."""
LOADED_EXAMPLES = """() => Promise.all([...document.querySelectorAll('.fasten-example')].map(async element => {
  const image = new Image();
  image.src = getComputedStyle(element).backgroundImage.slice(5, -2);
  await image.decode().catch(() => null);
  return [image.naturalWidth, element.clientWidth];
}))"""
"""Width in pixels of each example, 0 where it cannot be loaded, and the width it is shown at."""

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="no chromium here (Debian package: chromium)"),
]


@pytest.fixture(scope="module")
def reviewer(door: LabelStudio) -> str:
    """Signs a reviewer up; who they are in annotations."""
    return f"user:{door.add_user(EMAIL, PASSWORD).user_id}"


@pytest.fixture(scope="module")
def browser(door: LabelStudio, reviewer: str) -> Iterator[BrowserContext]:
    """A fresh profile in which that reviewer is signed in, on a small laptop's screen."""
    assert reviewer
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        context = launched.new_context(viewport={"width": 1200, "height": 600})
        page = context.new_page()
        page.goto(f"{door.url}/user/login/")
        page.locator("input[name=email]").fill(EMAIL)
        page.locator("input[name=password]").fill(PASSWORD)
        page.locator("button[type=submit]").click()
        page.wait_for_url(lambda url: "/user/login" not in url)
        page.close()
        yield context
        launched.close()


@pytest.fixture
def page(browser: BrowserContext) -> Iterator[Page]:
    """The reviewer's tab; whatever leaves the machine or pops up fails the test."""
    opened = browser.new_page()
    surprises: list[str] = []

    def on_dialog(dialog: Dialog) -> None:
        surprises.append(dialog.message)
        dialog.dismiss()

    def on_request(sent: Request) -> None:
        if not sent.url.startswith(("http://127.0.0.1:", "blob:", "data:")):
            surprises.append(sent.url)

    opened.on("dialog", on_dialog)
    opened.on("request", on_request)
    yield opened
    opened.close()
    assert surprises == []


def digit(number: int, side: int = ENLARGED) -> bytes:
    """One of scikit-learn's digits, enlarged as the demonstration does it."""
    pixels = np.asarray(load_digits().images[number] * 255 / 16, dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def images(door: LabelStudio) -> list[str]:
    """URLs of the first thirty-one digits, uploaded to a project of labels as the demonstration does it."""
    labels = door.create_project(
        "Digits seen in a browser",
        '<View><Image name="image" value="$image"/><Choices name="label" toName="image"><Choice value="0"/>'
        '<Choice value="1"/></Choices></View>',
    )
    urls = door.upload_images(labels.project_id, {f"{i}.png": digit(i) for i in range(31)})
    return [urls[f"{i}.png"] for i in range(31)]


def question(number: int, **changes: Any) -> ReviewTask:
    """Question `number` of a queue, about a sample that is labelled “3”, where the model is sure of “0”."""
    fields: dict[str, Any] = {
        "push_key": push_key(1, f"s{number}"),
        "sample_id": f"s{number}",
        "current_label": "3",
        "model_label": "0",
        "confidence": 0.97,
        "reason": "The model disagrees with “3”.",
        "priority": 0.5,
        "rank": number / 100,
        "model_version": "1",
    }
    return ReviewTask(**fields | changes)


def queue(door: LabelStudio, title: str, classes: Sequence[str], questions: Sequence[ReviewTask]) -> Project:
    project = door.create_project(
        title, review_config(classes), uncertainty_sampling=True, skipping=False, empty_answers=False
    )
    assert push(door, project, questions).added == len(questions)
    return project


def open_queue(page: Page, door: LabelStudio, project: Project) -> None:
    page.goto(f"{door.url}/projects/{project.project_id}/data?labeling=1")
    expect(page.get_by_text("No single right answer?")).to_be_visible(timeout=30_000)
    page.wait_for_function(
        f"[...document.images].some(image => image.src.startsWith('blob:') && image.naturalWidth === {ENLARGED})"
    )


def unreadable(page: Page, *, texts: int) -> dict[str, float]:
    """Those of the texts on the right of the screen, of which there are at least `texts`, that contrast too little."""
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) >= texts
    return {text: ratio for text, ratio in contrasts if ratio < 4.5}


def selected(page: Page) -> list[str]:
    names: list[str] = page.locator("input[type=radio]:checked").evaluate_all("radios => radios.map(({name}) => name)")
    return names


def press(page: Page, key: str, chosen: str) -> None:
    """Presses `key`, after which `chosen` is selected."""
    page.keyboard.press(key)
    expect(page.locator(f"input[type=radio][name='{chosen}']")).to_be_checked()


def submit(page: Page) -> None:
    """Submits; returns when the server has the answer and the next question is asked for."""
    with page.expect_response(lambda answer: answer.request.method == "POST" and "/annotations" in answer.url) as sent:
        page.keyboard.press("Control+Enter")
    assert sent.value.status == 201


def screenshot(page: Page, name: str) -> None:
    if os.environ.get("FASTEN_SCREENSHOTS"):
        page.screenshot(path=DOCS / name)
        assert (DOCS / name).stat().st_size <= 150_000


def test_ten_questions_of_every_kind_by_keyboard_alone(
    page: Page, door: LabelStudio, images: Sequence[str], reviewer: str
) -> None:
    inline = f"data:image/png;base64,{base64.b64encode(digit(10)).decode()}"
    tie = {"asked_as": "tie_break", "model_label": "", "confidence": 0.0, "reason": "Two people disagree: “4” or “6”."}
    kinds: list[dict[str, Any]] = [
        {"references": (images[10], inline, "/data/upload/1/gone.png")},
        {"model_label": "7"},
        {"asked_as": "audit", "references": (images[10],)},
        {"model_label": "3", "confidence": 0.5, "current_label": "3"},
        {"asked_as": "check"},
        {},
        tie,
        {"asked_as": "audit"},
        {"asked_as": "recheck", "model_label": "8", "reason": "Somebody decided “3”; the model disagrees."},
        {"asked_as": "audit"},
    ]
    questions = [question(i, image_url=images[i], **kind) for i, kind in enumerate(kinds)]
    pressed: list[list[tuple[str, str]]] = [
        [],  # agrees with the suggestion
        [("1", "1")],  # knows better
        [("2", "2")],
        [],
        [("4", "4")],
        [("x", UNUSABLE)],  # the suggestion stays selected beside the verdict
        [("6", "6")],
        [("n", NOT_SURE)],
        [("n", NOT_SURE)],
        [("5", "5"), ("9", "9")],  # thinks better of it
    ]
    project = queue(door, "Reviewed in a browser", DIGITS, questions)
    numbers = {task.sample_id: task.task_id for task in door.iter_tasks(project)}
    open_queue(page, door, project)
    sent: list[str] = []
    page.on("request", lambda r: sent.append(r.url) if r.method == "POST" and "/annotations" in r.url else None)
    for place, (asked, keys) in enumerate(zip(questions, pressed, strict=True), start=1):
        expect(page.locator(".lsf-current-task__task-id")).to_have_text(f"{numbers[asked.sample_id]}{place} of {place}")
        reason = NEUTRAL_REASON if asked.asked_as in UNSHOWN else asked.reason
        expect(page.get_by_text(reason, exact=True)).to_be_visible()
        if asked.asked_as in UNSHOWN:
            expect(page.get_by_text("Current label")).to_be_hidden()
            expect(page.get_by_text("The model says")).to_be_hidden()
            expect(page.get_by_text("Checked examples")).to_be_hidden()
        if asked.asked_as in UNSHOWN or not asked.model_label:
            expect(page.get_by_text("Nothing is selected yet.")).to_be_visible()
            assert selected(page) == []
            page.keyboard.press("Control+Enter")  # sends nothing, as counted below
        else:
            expect(page.get_by_text("Ctrl+Enter sends what is selected.")).to_be_visible()
            assert selected(page) == [asked.model_label]
        if asked is questions[0]:
            suggestion = page.get_by_text("0, almost certain (97 %)", exact=True)
            expect(suggestion).to_be_visible()
            assert page.evaluate(LOADED_EXAMPLES) == [[128, 72], [128, 72], [0, 72]]
        for key, chosen in keys:
            press(page, key, chosen)
        submit(page)

    tasks = {task.sample_id: task for task in door.iter_tasks(project)}
    answers = [[(a.kind, a.label, a.annotator) for a in tasks[f"s{i}"].annotations] for i in range(10)]
    given = ["0", "1", "2", "3", "4", None, "6", None, None, "9"]
    said = ["class"] * 5 + ["unusable", "class", "not_sure", "not_sure", "class"]
    assert answers == [[(kind, label, reviewer)] for kind, label in zip(said, given, strict=True)]
    assert len(tasks) == len(sent) == 10
    assert all(task.annotations[0].lead_time_s is not None for task in tasks.values())


@pytest.mark.parametrize("theme", ["Light", "Dark"])
def test_everything_is_readable_in_either_theme(
    page: Page, door: LabelStudio, images: Sequence[str], theme: str
) -> None:
    page.add_init_script(f"localStorage.setItem('preferred-color-scheme', '{theme}')")
    shown = question(0, image_url=images[0], references=(images[10], images[20], images[30]))
    unshown = question(1, image_url=images[1], asked_as="audit")
    project = queue(door, "Digits, review", DIGITS, [shown, unshown])
    open_queue(page, door, project)
    expect(page.locator("html")).to_have_attribute("data-color-scheme", theme.lower())
    assert unreadable(page, texts=21) == {}
    if theme == "Light":
        screenshot(page, "reviewer.png")
    submit(page)
    open_queue(page, door, project)
    expect(page.get_by_text(NEUTRAL_REASON)).to_be_visible()
    assert unreadable(page, texts=16) == {}
    if theme == "Light":
        screenshot(page, "reviewer-audit.png")


def test_any_of_a_hundred_classes_is_found_by_typing(page: Page, door: LabelStudio, images: Sequence[str]) -> None:
    classes = [f"class {i}" for i in range(100)]
    asked = question(0, image_url=images[0], current_label=classes[3], model_label=classes[90])
    project = queue(door, "A hundred classes in a browser", classes, [asked])
    open_queue(page, door, project)
    assert selected(page) == ["class 90"]
    page.keyboard.press("/")
    expect(page.get_by_placeholder("Part of a name")).to_be_focused()
    page.keyboard.type("s 77")
    expect(page.locator("input[type=radio][name='class 76']")).to_be_hidden()
    page.keyboard.press("Tab")
    press(page, "Space", "class 77")
    submit(page)
    [task] = door.iter_tasks(project)
    assert [a.label for a in task.annotations] == ["class 77"]


def test_a_hostile_class_name_is_shown_as_text(page: Page, door: LabelStudio, images: Sequence[str]) -> None:
    classes = ["a", 'b "quoted" & more', "c", HOSTILE]
    asked = question(
        0,
        image_url=images[0],
        current_label=HOSTILE,
        model_label=HOSTILE,
        reason=HOSTILE,
        references=("'); } <img src=x>", '"><img src=x>'),
    )
    project = queue(door, "Hostile names in a browser", classes, [asked])
    open_queue(page, door, project)
    expect(page.get_by_text(HOSTILE, exact=True).first).to_be_visible()
    assert page.get_by_text(HOSTILE).count() == 4  # current label, suggestion, reason, choice
    assert page.locator("img[src='x']").count() == 0
    submit(page)
    [task] = door.iter_tasks(project)
    assert task.annotations[0].label == HOSTILE


def test_questions_of_an_earlier_version_are_asked_on_the_new_screen(
    page: Page, door: LabelStudio, images: Sequence[str]
) -> None:
    """Their tasks have no examples and no kind; their answers stay."""
    project = door.create_project("An earlier queue", EARLIER_SCREEN, uncertainty_sampling=True, skipping=False)
    region = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": ["dog"]}}
    said = {"current_label": "cat", "suggestion": "dog, unsure (50 %)", "reason": "The model doubts “cat”."}
    for i in range(2):
        data = {"image": images[i], "sample_id": f"s{i}", "push_key": push_key(1, f"s{i}"), **said}
        prediction = {"model_version": "fasten", "score": i / 10, "result": [region]}
        door.import_tasks(project.project_id, [{"data": data, "predictions": [prediction]}])
    first = next(iter(door.iter_tasks(project)))
    door.submit(project, first, label="cat")

    assert is_earlier(door.label_config(project))
    project = door.update_label_config(project, review_config(["cat", "dog"]))
    assert push(door, project, [question(2, image_url=images[2], current_label="cat", model_label="dog")]).added == 1
    open_queue(page, door, project)
    for text in said.values():
        expect(page.get_by_text(text, exact=True).first).to_be_visible()
    expect(page.get_by_text("Checked examples")).to_be_hidden()
    assert "undefined" not in page.locator(".fasten").inner_text()
    assert selected(page) == ["dog"]
    submit(page)
    tasks = {task.sample_id: task for task in door.iter_tasks(project)}
    assert [[a.label for a in tasks[f"s{i}"].annotations] for i in range(3)] == [["cat"], ["dog"], []]
