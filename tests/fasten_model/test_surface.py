"""What `fasten_model` offers by name, and that its guide runs as it is printed."""

import contextlib
import importlib
import inspect
import io
import pkgutil
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

import fasten_model

GUIDE = Path(__file__).parents[2] / "docs" / "library.md"


@pytest.mark.parametrize("name", fasten_model.__all__)
def test_every_name_is_there_and_documented(name: str) -> None:
    thing = getattr(fasten_model, name)
    if inspect.isclass(thing) or inspect.isfunction(thing):
        assert thing.__module__.startswith("fasten_model.")
        documented = inspect.getdoc(thing)
        # A dataclass without a docstring of its own gets its signature for one.
        assert documented
        assert not documented.startswith(f"{name}(")


def test_nothing_else_is_public() -> None:
    submodules = {module.name for module in pkgutil.iter_modules(fasten_model.__path__)}
    public = {name for name in vars(fasten_model) if not name.startswith("_")} - submodules - {"TYPE_CHECKING"}
    assert public <= set(fasten_model.__all__)
    assert set(dir(fasten_model)) == set(fasten_model.__all__)
    # A submodule takes the place of a lazy name of the same spelling as soon as it is imported.
    assert set(fasten_model.__all__) & submodules == set()


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'fasten_model' has no attribute 'nothing'"):
        importlib.import_module("fasten_model").nothing  # noqa: B018


def test_the_package_and_its_errors_import_no_torch() -> None:
    code = (
        "import sys, fasten_model, fasten_model.errors; assert fasten_model.DataError; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_guide_names_what_there_is() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    assert [name for name in fasten_model.__all__ if not re.search(rf"\b{name}\b", text)] == []


def test_the_guide_runs_and_prints_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```(python|text)\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) > 8
    namespace: dict[str, object] = {"__name__": "guide"}
    for (language, text), (following, shown) in pairwise([*blocks, ("end", "")]):
        if language == "python":
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                exec(compile(text, str(GUIDE), "exec"), namespace)  # noqa: S102  our own page
            assert output.getvalue() == (shown if following == "text" else "")
