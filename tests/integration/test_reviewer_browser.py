"""A reviewer's minute in a real browser: log in, look, press a key, submit; the next pull has the answer."""

import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Dialog, Page, Request, expect, sync_playwright
from pydantic import SecretStr
from sklearn.datasets import load_digits

from pipeline.label_studio import LabelStudio, LabelStudioConfig
from pipeline.queue import push, push_key
from pipeline.records import Project, ReviewTask
from pipeline.review_screen import review_config

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
SCREENSHOT = Path(__file__).parents[2] / "docs" / "reviewer.png"
HOSTILE = "<img src=x onerror=alert(1)>"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="no chromium here (Debian package: chromium)"),
]


class Server(Protocol):
    """What these tests need of the session's server."""

    @property
    def url(self) -> str: ...
    @property
    def token(self) -> str: ...


@pytest.fixture(scope="module")
def door(label_studio: Server) -> Iterator[LabelStudio]:
    with LabelStudio(LabelStudioConfig(url=label_studio.url, token=SecretStr(label_studio.token))) as opened:
        yield opened


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A fresh profile; whatever leaves the machine or pops up fails the test."""
    context = browser.new_context(viewport={"width": 1100, "height": 560})
    opened = context.new_page()
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
    context.close()
    assert surprises == []


def digit(number: int) -> bytes:
    """One of scikit-learn's digits, enlarged as the demonstration does it."""
    pixels = np.asarray(load_digits().images[number] * 255 / 16, dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((128, 128), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()


def queue(door: LabelStudio, title: str, classes: list[str], suggestions: list[str]) -> Project:
    """A review project in which question i shows digit i and suggests `suggestions[i]`, in this order."""
    project = door.create_project(
        title, review_config(classes), uncertainty_sampling=True, skipping=False, empty_answers=False
    )
    urls = door.upload_images(project.project_id, {f"{i}.png": digit(i) for i in range(len(suggestions))})
    tasks = [
        ReviewTask(
            push_key=push_key(1, f"s{i}"),
            sample_id=f"s{i}",
            image_url=urls[f"{i}.png"],
            current_label=classes[3],
            model_label=suggestion,
            confidence=0.97,
            reason="The model is confident (97%) that this is not “3”.",
            priority=0.9 - i / 10,
            model_version="1",
        )
        for i, suggestion in enumerate(suggestions)
    ]
    assert push(door, project, tasks).added == len(tasks)
    return project


def log_in(page: Page, door: LabelStudio, email: str) -> str:
    """Signs a reviewer up and in; returns who they are in annotations."""
    user = door.add_user(email, "reviewing-1")
    page.goto(f"{door.url}/user/login/")
    page.locator("input[name=email]").fill(email)
    page.locator("input[name=password]").fill("reviewing-1")
    page.locator("button[type=submit]").click()
    page.wait_for_url(lambda url: "/user/login" not in url)
    return f"user:{user.user_id}"


def open_queue(page: Page, door: LabelStudio, project: Project) -> None:
    page.goto(f"{door.url}/projects/{project.project_id}/data?labeling=1")
    expect(page.get_by_text("Current label: ")).to_be_visible(timeout=30_000)
    page.wait_for_function(
        "() => [...document.images].some(image => image.src.startsWith('blob:') && image.naturalWidth === 128)"
    )


def submit(page: Page, *keys: str) -> None:
    """Presses `keys` and submits; returns when the server has the answer and the next question is asked for."""
    for key in keys:
        page.keyboard.press(key)
    with page.expect_response(lambda answer: answer.request.method == "POST" and "/annotations" in answer.url) as sent:
        page.keyboard.press("Control+Enter")
    assert sent.value.status == 201


def test_a_reviewer_answers_by_hotkey_and_the_next_pull_has_it(page: Page, door: LabelStudio) -> None:
    project = queue(door, "Reviewed in a browser", [str(i) for i in range(10)], ["0", "7", "2"])
    reviewer = log_in(page, door, "browser@fasten.local")
    open_queue(page, door, project)
    expect(page.get_by_text("Current label: 3")).to_be_visible()
    expect(page.get_by_text("Model says: 0, almost certain (97 %)")).to_be_visible()
    expect(page.get_by_text("Why you see this: The model is confident (97%) that this is not “3”.")).to_be_visible()
    expect(page.locator("input[type=radio][name='0']")).to_be_checked()
    if os.environ.get("FASTEN_SCREENSHOTS"):
        page.screenshot(path=SCREENSHOT)
        assert SCREENSHOT.stat().st_size <= 150_000

    submit(page)  # agrees with the suggestion
    expect(page.locator("input[type=radio][name='7']")).to_be_checked()
    submit(page, "1")  # knows better
    expect(page.locator("input[type=radio][name='2']")).to_be_checked()
    submit(page, "x")  # neither: the suggestion stays selected beside the verdict

    tasks = list(door.iter_tasks(project, annotated_only=True))
    assert [(task.sample_id, a.kind, a.label) for task in tasks for a in task.annotations] == [
        ("s0", "class", "0"),
        ("s1", "class", "1"),
        ("s2", "unusable", None),
    ]
    for task in tasks:
        assert task.annotations[0].annotator == reviewer
        assert task.annotations[0].lead_time_s is not None


def test_a_hostile_class_name_is_shown_as_text(page: Page, door: LabelStudio) -> None:
    classes = ["a", 'b "quoted" & more', "c", HOSTILE]
    project = queue(door, "Hostile names in a browser", classes, [HOSTILE])
    log_in(page, door, "browser-2@fasten.local")
    open_queue(page, door, project)
    expect(page.get_by_text(f"Current label: {HOSTILE}")).to_be_visible()
    assert page.locator("img[src='x']").count() == 0
    submit(page)
    [task] = door.iter_tasks(project)
    assert task.annotations[0].label == HOSTILE
