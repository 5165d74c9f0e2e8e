"""Tasks that nobody means well with: what strangers may put before a pull, as Label Studio takes it in.

Each has a name that says what is wrong with it, and one thing wrong; its answer is sound where that is not it.
"""

import base64
import io
import random
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from tests.integration.faults.world import CLASSES, answer, picture

MOST_BYTES = 60_000
"""What the pull is told to take of an image."""
SEED = 7
POLYGLOT = picture(5) + b"PK\3\4" + b"\0" * 50
"""A PNG with the beginning of a zip behind it: a picture all the same."""

Entry = tuple[str, dict[str, Any]]
"""Name, and the task as it is imported."""


def good(count: int) -> Iterator[Entry]:
    for number in range(count):
        yield f"good {number}", _task(inline(picture(number)), CLASSES[number % 3], f"good-{number}")


def bad_images(files: Path) -> Iterator[Entry]:
    """Addresses and bytes that give no image; what is needed of files is made below `files`."""
    (files / "folder.png").mkdir(exist_ok=True)
    link = files / "link.png"
    link.unlink(missing_ok=True)
    link.symlink_to("/etc/hostname")
    addresses = [
        "", " ", ".", "/", "//", "///etc/passwd", "\\\\host\\share\\x.png", "C:\\x.png", "x.png", "../x.png",
        "file:///etc/passwd", "file:/etc/passwd", "FILE:///etc/passwd", "javascript:alert(1)", "ftp://127.0.0.1/x.png",
        "gopher://127.0.0.1:70/", "http://", "http:///x.png", "http://[::1", "http://[::1]:1/x.png", "http://127.0.0.1:1/",
        "http://localhost:22/x.png", "http://0.0.0.0/x.png", "http://2130706433/x.png", "http://0x7f.1/x.png",
        "http://169.254.169.254/latest/meta-data/", "http://[fd00:ec2::254]/", "http://metadata.google.internal/",
        "http://user:secret@127.0.0.1/x.png", "http://images.invalid:99999/x.png", "http://images.invalid:x/",
        "http://" + "a" * 300 + ".invalid/x.png", "http://xn--a.invalid/", "http://\u2603.invalid/x.png",
        "http://images.invalid/\r\nHost: evil/x.png", "http://images.invalid/" + "x" * 100_000,
        "https://\u0430pple.invalid/",
        "s3://bucket/x.png", "s3://", "gs://bucket/x.png", "azure-blob://c/x.png", "data:", "data:,",
        "data:image/png;base64",
        "data:image/png;base64,", "data:image/png;base64,####", "data:image/png;base64,AAAA",
        "data:image/svg+xml,<svg/>",
        "data:text/html;base64,PHNjcmlwdD4=", "data:image/png;base64," + "A" * 200_000, "data:," + "%00" * 1_000,
        "/data/local-files/", "/data/local-files/?d=", "/data/local-files/?d=../../etc/passwd",
        "/data/local-files/?d=/etc/passwd", "/data/local-files/?d=%2e%2e%2fx", "/data/local-files/?d=nobody.png",
        "/data/local-files/?d=hostile/folder.png", "/data/local-files/?d=hostile/link.png",
        "/data/local-files/?d=x%00.png",
        "/data/upload/../../etc/passwd", "/data/upload/1/gone.png", "/api/current-user/token", "/user/logout",
        "/api/projects/?x=/data/", "/tasks/1/resolve/?fileuri=x", "/data/local-files/?d=" + "x" * 5_000,
        "=HYPERLINK(\"http://evil\")", "<script>alert(1)</script>", "{{7*7}}", "%00", "\u202egnp.x", "\ufffe",
    ]  # fmt: skip
    for number, address in enumerate(addresses):
        yield f"address {address[:40]!r}", _task(address, CLASSES[0], f"address-{number}")
    for number, (name, data) in enumerate(_bad_bytes()):
        yield f"bytes: {name}", _task(inline(data), CLASSES[0], f"bytes-{number}")


def _bad_bytes() -> Iterator[tuple[str, bytes]]:
    sound = picture(0)
    for share in (1, 8, 20, 33, len(sound) // 2, len(sound) - 30):
        yield f"PNG cut after {share}", sound[:share]
    yield "a decompression bomb of many pixels", png_of(30_000, 30_000, b"")
    yield "a decompression bomb of few bytes", png_of(20_000, 20_000, zlib.compress(b"\0" * 1_000_000))
    yield "a PNG without a pixel", png_of(0, 0, b"")
    yield "a PNG that is larger than it says it is", png_of(2**31 - 1, 1, zlib.compress(b"\0"))
    yield "a GIF", b"GIF89a" + b"\1\0\1\0\0\0\0;"
    yield "GIF and JavaScript in one", b"GIF89a/*\1\0*/=1;alert(1)"
    yield "a BMP", b"BM" + b"\0" * 60
    yield "an SVG", b'<svg xmlns="http://www.w3.org/2000/svg"><script/></svg>'
    yield "HTML", b"<!doctype html><script>alert(1)</script>"
    yield "a PDF", b"%PDF-1.7\n"
    yield "a zip", b"PK\3\4" + b"\0" * 40
    yield "an ELF", b"\x7fELF" + b"\0" * 60
    yield "PostScript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n"
    yield "JPEG's first bytes", b"\xff\xd8\xff\xe0" + b"\0" * 50
    yield "WebP's first bytes", b"RIFF\xff\xff\xff\x7fWEBPVP8 " + b"\0" * 50
    yield "an icon", b"\0\0\1\0\1\0" + b"\0" * 60
    yield "a TIFF", b"II*\0\x08\0\0\0" + b"\0" * 60
    yield "more bytes than are allowed", sound + b"\0" * MOST_BYTES
    still = Image.new("RGB", (8, 8))
    buffer = io.BytesIO()
    still.save(buffer, "PNG", save_all=True, append_images=[Image.new("RGB", (8, 8), "red")])
    yield "an animated PNG", buffer.getvalue()


def odd_answers() -> Iterator[Entry]:
    """Sound images with answers that say nothing that can be used."""
    region = answer(CLASSES[0])["result"][0]
    results: list[tuple[str, Any]] = [
        ("nothing", []),
        ("numbers", [1, 2, 3]),
        ("nulls", [None]),
        ("lists", [[[[]]]]),
        ("an empty region", [{}]),
        ("no value", [{**region, "value": None}]),
        ("a text for choices", [{**region, "value": {"choices": CLASSES[0]}}]),
        ("numbers for choices", [{**region, "value": {"choices": [1]}}]),
        ("choices in choices", [{**region, "value": {"choices": [[CLASSES[0]]]}}]),
        ("two classes", [{**region, "value": {"choices": list(CLASSES[:2])}}]),
        ("no such class", [{**region, "value": {"choices": ["=cmd|'/c calc'!A0"]}}]),
        ("a class of a megabyte", [{**region, "value": {"choices": ["x" * 1_000_000]}}]),
        ("HTML for a class", [{**region, "value": {"choices": ["<img src=x onerror=alert(1)>"]}}]),
        ("another control", [{**region, "from_name": "other"}]),
        ("a rectangle", [{**region, "type": "rectanglelabels"}]),
        ("a list for a control", [{**region, "from_name": ["label"]}]),
    ]
    for number, (name, result) in enumerate(results):
        entry = {"result": result, "ground_truth": False}
        yield f"answer with {name}", _task(inline(picture(1)), "", f"answer-{number}", [entry])


def odd_ids() -> Iterator[Entry]:
    """Sample ids of every kind; the image and the answer are sound."""
    ids: list[Any] = [
        {"a": 1}, [1], ["x", ["y"]], "x" * 5_000, "a\ud800b", "x" * 1_000_000,
    ]  # fmt: skip
    for number, sample_id in enumerate(ids):
        yield f"id {str(sample_id)[:20]!r}", _task(inline(picture(2)), CLASSES[2], sample_id, number=number)


def odd_but_sound() -> Iterator[Entry]:
    """What looks hostile and is of no harm: it must arrive."""
    deep: Any = "x"
    for _ in range(50):
        deep = {"x": [deep]}
    extra: list[tuple[str, Any]] = [
        ("deep", deep),
        ("a megabyte", "x" * 1_000_000),
        ("a billion laughs", '<!DOCTYPE x [<!ENTITY a "&a;&a;">]>&a;'),
        ("a formula", "=1+1"),
        ("a long number", 10**30),
        ("infinity", 1e308),
        ("every key", {chr(code): code for code in range(32, 1_000)}),
        ("null", None),
    ]
    for number, (name, value) in enumerate(extra):
        entry = _task(inline(picture(3)), CLASSES[0], f"sound-{number}")
        entry["data"][f"extra {name}"] = value
        yield f"sound with {name}", entry
    for number, sample_id in enumerate(
        ("☃", "../../etc/passwd", "<b>x</b>", "'; DROP TABLE task; --", "=1+1", "\u202eabc")
    ):
        yield f"sound with id {sample_id!r}", _task(inline(picture(4)), CLASSES[1], f"{sample_id}", number=number)
    yield "PNG with a zip behind it", _task(inline(POLYGLOT), CLASSES[2], "polyglot")


def random_tasks(count: int) -> Iterator[Entry]:
    """JSON of any shape where there should be an image, an id, an answer; whether it can be used is anybody's guess."""
    random_ = random.Random(SEED)
    for number in range(count):
        entry = _task(inline(picture(6)), CLASSES[0], f"random-{number}")
        for _ in range(random_.randint(1, 3)):
            where = random_.choice(("image", "sample_id", "extra", "result", "region", "value", "annotation"))
            value = _anything(random_, 3)
            [annotation] = entry["annotations"]
            if where in ("sample_id", "extra"):
                entry["data"][where] = value
            elif where == "image":  # Label Studio takes nothing else for one
                entry["data"]["image"] = value if isinstance(value, str | list) else _text(random_)
            elif where == "result":
                annotation["result"] = value if isinstance(value, list) else [value]
            elif where == "annotation":
                annotation["lead_time"] = random_.choice((0, -1, 1e308, 2.5))
            elif isinstance(annotation["result"], list) and annotation["result"]:
                if where == "region":
                    annotation["result"].append(value)
                else:
                    annotation["result"] = [{**answer(CLASSES[0])["result"][0], "value": value}]
        yield f"random {number}", entry


def _anything(random_: random.Random, depth: int) -> Any:
    kind = random_.randrange(9 if depth else 7)
    if kind == 7:
        return [_anything(random_, depth - 1) for _ in range(random_.randrange(4))]
    if kind == 8:
        return {_text(random_): _anything(random_, depth - 1) for _ in range(random_.randrange(4))}
    return [
        None, True, random_.randint(-(2**40), 2**40), random_.uniform(-1e9, 1e9), _text(random_), "", "choices",
    ][kind]  # fmt: skip


def _text(random_: random.Random) -> str:
    letters = "ab<>&\"'=/\\%{}$ \n\t\u00e9\u4e2d\U0001f600\u202e"
    return "".join(random_.choice(letters) for _ in range(random_.randrange(30)))


def _task(
    image: Any, label: str, sample_id: Any, annotations: Any = None, *, number: int | None = None
) -> dict[str, Any]:
    given = f"{sample_id}-{number}" if isinstance(sample_id, str) and number is not None else sample_id
    return {
        "data": {"image": image, "sample_id": given},
        "annotations": [answer(label)] if annotations is None else annotations,
    }


def inline(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def png_of(width: int, height: int, pixels: bytes) -> bytes:
    """A PNG that says it has this size, whatever it holds."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
