"""README and docs/ say what the code does: names, defaults, columns, paths and error lines are those of the code."""

import ast
import importlib
import importlib.util
import re
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pyarrow as pa
import pytest
import typer

from fasten_model.train.command import training_parser
from pipeline import schema
from pipeline.cli.app import app
from pipeline.settings import Settings

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
OTHER_VARIABLES = {"FASTEN_SCREENSHOTS"}
"""Variables that are no settings: read by a test."""
OTHER_OPTIONS = {"--dataset", "--upgrade"}
PACKAGES = ("pipeline", "fasten_model", "flows", "benchmarks")


@dataclass(frozen=True, kw_only=True)
class Page:
    """One page, taken apart."""

    path: Path
    prose: str
    """Everything outside fenced blocks."""
    blocks: tuple[tuple[str, str], ...]
    """(language, text) of each fenced block."""

    @property
    def spans(self) -> list[str]:
        """Inline code."""
        return re.findall(r"`([^`\n]+)`", self.prose)

    @property
    def anchors(self) -> set[str]:
        """What a link may name after `#`, as GitHub makes it from headings."""
        headings = re.findall(r"^#+ +(.+)$", self.prose, flags=re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}

    def commands(self) -> Iterator[str]:
        """Inline code, and the lines of shell blocks without their comments."""
        yield from self.spans
        for language, text in self.blocks:
            if language == "bash":
                yield from (re.sub(r"(^|\s)#.*", "", line) for line in text.replace("\\\n", " ").splitlines())

    def section(self, heading: str) -> str:
        """Prose below `heading`, up to the next heading of any level."""
        found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", self.prose, flags=re.MULTILINE | re.DOTALL)
        assert found is not None, f"{self.path.name} has no section {heading!r}"
        return found[1]


@cache
def page(path: Path) -> Page:
    text = path.read_text(encoding="utf-8")
    fence = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
    return Page(path=path, prose=fence.sub("", text), blocks=tuple(fence.findall(text)))


def rows(text: str) -> list[list[str]]:
    """Cells of every table row of Markdown `text`, headings and rules left out."""
    tables = re.findall(r"(?:^\|.*\|\n)+", text + "\n", flags=re.MULTILINE)
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for table in tables for line in table.splitlines()[2:]
    ]


def cli() -> dict[str, set[str]]:
    """Command → its options."""
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return {
        name: {"--help"} | {option for parameter in command.params for option in parameter.opts}
        for name, command in commands.items()
    }


every_page = pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


@every_page
def test_every_command_and_option_exists(path: Path) -> None:
    known = cli()
    anywhere = set().union(*known.values()) | OTHER_OPTIONS | set(training_parser()._option_string_actions)
    called = re.compile(r"(?<![\w/.-])(?:\.venv/bin/)?fasten ([a-z][\w-]*)((?: +[^\s\"')|;&]+)*)")
    for line in page(path).commands():
        for command, rest in called.findall(line):
            assert command in known, f"{path.name}: there is no `fasten {command}`"
            for option in re.findall(r"--[\w-]+", rest):
                assert option in known[command], f"{path.name}: `fasten {command}` has no {option}"
        for arguments in re.findall(r"make demo ARGS=\"([^\"]*)", line):
            for option in re.findall(r"--[\w-]+", arguments):
                assert option in known["demo"], f"{path.name}: `fasten demo` has no {option}"
        if line.startswith("--"):
            assert line.split()[0] in anywhere, f"{path.name}: no command has {line}"


def test_the_readme_lists_every_command() -> None:
    mentioned = set(re.findall(r"`fasten ([a-z]+)`", page(ROOT / "README.md").section("Commands")))
    assert mentioned == set(cli())


@every_page
def test_every_variable_is_a_setting(path: Path) -> None:
    settings = {f"FASTEN_{name.upper()}" for name in Settings.model_fields}
    mentioned = set(re.findall(r"FASTEN_[A-Z0-9_]*[A-Z]", path.read_text(encoding="utf-8")))
    assert mentioned - settings - OTHER_VARIABLES == set()
    keys = {key for span in page(path).spans for key in re.findall(r"^([a-z_]+) = (?:\"|true|false|\d+$)", span)}
    for language, text in page(path).blocks:
        keys |= set(tomllib.loads(text)) if language == "toml" else set()
    assert keys - set(Settings.model_fields) == set()


def test_every_setting_is_in_the_table_with_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTEN_HOME", raising=False)

    def shown(default: Any) -> str:
        if default is None:
            return "–"
        text = str(default).lower() if isinstance(default, bool) else "[]" if default == () else str(default)
        return f"`{text}`"

    expected = {
        f"`FASTEN_{name.upper()}`": shown(field.get_default(call_default_factory=True, validated_data={}))
        for name, field in Settings.model_fields.items()
    }
    table = rows(page(ROOT / "docs" / "operate.md").section("Settings"))
    assert {row[0]: row[1] for row in table} == expected


@every_page
def test_every_make_target_exists(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    named = {target for line in page(path).commands() for target in re.findall(r"^\s*make ([a-z-]+)", line)}
    assert named - targets == set()


@every_page
def test_every_link_and_image_exists(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page(path).prose):
        assert not target.startswith("/"), f"{path.name}: {target} is no relative link"
        if re.match(r"https?://", target):
            continue
        file, _, anchor = target.partition("#")
        linked = (path.parent / file).resolve() if file else path
        assert linked.is_file(), f"{path.name}: {target} is not there"
        if anchor:
            assert anchor in page(linked).anchors, f"{path.name}: {target} has no such heading"


@every_page
def test_every_path_and_module_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for name in re.findall(rf"(?<![\w/.])(?:{'|'.join(PACKAGES)}|tests|docs)/[\w./-]*\w", text):
        assert (ROOT / name).exists(), f"{path.name}: there is no {name}"
    for name in re.findall(rf"(?<![\w/.])(?:{'|'.join(PACKAGES)})(?:\.\w+)+", text):
        assert importlib.util.find_spec(name), f"{path.name}: there is no module {name}"


@pytest.mark.parametrize("package", ["fasten_model", "pipeline"])
def test_the_module_map_is_complete(package: str) -> None:
    section = page(ROOT / "docs" / "extend.md").section("Module map")
    table = next(part for part in section.split("\n\n") if part.startswith(f"| `{package}/`"))
    mapped = {name.rstrip("/") for row in rows(table) for name in re.findall(r"`([^`]+)`", row[0])}
    there = {path.name for path in (ROOT / package).glob("*.py")}
    there |= {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
    assert mapped == there - {"__init__.py"}


@pytest.mark.parametrize(
    ("heading", "table"),
    [
        ("labels.parquet", schema.LABELS),
        ("noisy.parquet", schema.NOISY),
        ("clean.parquet", schema.CLEAN),
        ("undecided.parquet", schema.UNDECIDED),
        ("images", schema.IMAGES),
        ("scores.parquet", schema.SCORES),
    ],
)
def test_columns_are_those_of_the_schema(heading: str, table: pa.Schema) -> None:
    def shown(field: pa.Field) -> str:
        nested = {pa.types.is_list: "list", pa.types.is_struct: "struct"}
        kind = next((name for holds, name in nested.items() if holds(field.type)), str(field.type))
        return kind + (", null" if field.nullable else "")

    found = [tuple(row[:2]) for row in rows(page(ROOT / "docs" / "concepts.md").section(heading))]
    assert found == [(f"`{field.name}`", shown(field)) for field in table]


@every_page
def test_snippets_are_sound(path: Path) -> None:
    for language, text in page(path).blocks:
        match language:
            case "python":
                for node in ast.walk(compile(text, str(path), "exec", ast.PyCF_ONLY_AST)):
                    if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in PACKAGES:
                        module = importlib.import_module(str(node.module))
                        assert [name.name for name in node.names if not hasattr(module, name.name)] == []
            case "bash":
                checked = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
                assert checked.returncode == 0, checked.stderr
            case "toml":
                tomllib.loads(text)
            case "xml":
                ElementTree.fromstring(text)  # noqa: S314  written by us
            case _:
                assert language == "text", f"{path.name}: a block without a language, or in {language!r}"


def texts_of_the_code() -> str:
    """Every string in the code, one a line, with … for what is filled in."""
    found = []
    for package in ("pipeline", "fasten_model"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
                elif isinstance(node, ast.JoinedStr):
                    parts = (str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
                    found.append("".join(parts))
    return "\n".join(" ".join(text.split()) for text in found)


def test_every_error_line_and_reason_is_one_of_the_code() -> None:
    said = texts_of_the_code()
    operate, concepts = page(ROOT / "docs" / "operate.md"), page(ROOT / "docs" / "concepts.md")
    lines = [row[0] for row in rows(operate.section("When something is wrong"))]
    lines += [row[0] for row in rows(concepts.section("What is skipped, and why"))]
    quoted = [span for line in lines for span in re.findall(r"`([^`]+)`", line)]
    assert len(quoted) > 80
    assert [(part, line) for line in quoted for part in re.split(r"\s*…\s*", line) if part not in said] == []


def test_versions_and_schedule_are_those_of_the_project() -> None:
    pinned = re.search(r"label-studio==(\S+)", (ROOT / "pipeline/stack/label-studio.in").read_text(encoding="utf-8"))
    assert pinned is not None
    for path in PAGES:
        assert set(re.findall(r"\b1\.2\d\.\d+\b", path.read_text(encoding="utf-8"))) <= {pinned[1]}
    prefect = (ROOT / "prefect.yaml").read_text(encoding="utf-8")
    shown = re.findall(r"`((?:[\d*/,-]+ ){4}[\d*/,-]+)`", page(ROOT / "docs" / "operate.md").prose)
    assert shown == re.findall(r'cron: "(.+)"', prefect)


@every_page
def test_headings_go_down_one_level_at_a_time(path: Path) -> None:
    levels = [len(marks) for marks in re.findall(r"^(#+) ", page(path).prose, flags=re.MULTILINE)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
