"""Label Studio's environment: pinned, whole or not there, and a template without secrets."""

import importlib.resources
import re
import sys
from pathlib import Path

import pytest
import uv

from pipeline.errors import StackError
from pipeline.stack import install

REPOSITORY = Path(__file__).parents[3]


@pytest.mark.parametrize("lock", ["requirements.txt", "pipeline/stack/label-studio.txt"])
def test_locks_pin_and_hash_every_package_and_name_no_index(lock: str) -> None:
    text = (REPOSITORY / lock).read_text(encoding="utf-8")
    assert "://" not in text
    assert "--index" not in text
    assert "--find-links" not in text
    entries = re.split(r"\n(?=[a-z])", re.sub(r"(?m)^\s*#.*\n?", "", text))
    assert len(entries) > 100
    for entry in entries:
        assert re.match(r"[a-z0-9._-]+(\[[a-z,-]+\])?==", entry), entry[:80]
        assert "--hash=sha256:" in entry, entry[:80]


def test_lock_of_label_studio_is_part_of_the_package() -> None:
    lock = importlib.resources.files("pipeline.stack").joinpath("label-studio.txt").read_text(encoding="utf-8")
    assert install._locked_version(lock) == "1.23.2"


def test_failed_install_names_its_reason_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_uv = tmp_path / "uv"
    no_uv.write_text("#!/bin/sh\necho 'no such index' >&2\nexit 2\n")
    no_uv.chmod(0o755)
    monkeypatch.setattr(uv, "find_uv_bin", lambda: str(no_uv))
    with pytest.raises(StackError, match=r"uv venv failed with exit code 2 .*: no such index; check that"):
        install.ensure_label_studio(tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_half_made_install_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []

    def make(home: Path, *, lock: str, version: str) -> None:
        del lock, version
        made.append(home)
        home.mkdir()

    monkeypatch.setattr(install, "_make", make)
    first = install.ensure_label_studio(tmp_path)
    (made[0].parent / f"{made[0].name}.making-xyz").mkdir()
    assert install.ensure_label_studio(tmp_path) == first
    made[0].rmdir()
    assert install.ensure_label_studio(tmp_path) == first
    assert len(made) == 2


def test_copied_template_is_whole_and_is_never_copied_over(tmp_path: Path) -> None:
    template = tmp_path / "template"
    (template / "media").mkdir(parents=True)
    (template / "media" / "a").write_text("a")
    (template / "label_studio.sqlite3").write_text("migrated")
    made = install.LabelStudioInstall(python=Path(sys.executable), template=template)
    data = tmp_path / "data"
    data.mkdir()
    (data / "label_studio.sqlite3.staged").write_text("half a cop")
    install.copy_template(made, data)
    assert (data / "label_studio.sqlite3").read_text() == "migrated"
    assert (data / "media" / "a").read_text() == "a"
    (data / "label_studio.sqlite3").write_text("in use")
    install.copy_template(made, data)
    assert (data / "label_studio.sqlite3").read_text() == "in use"


def test_servers_inherit_nothing_that_changes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOST", "PORT", "USERNAME", "DATABASE_NAME", "SECRET_KEY", "PREFECT_API_KEY", "MLFLOW_TRACKING_TOKEN"):
        monkeypatch.setenv(name, "from the shell")
    monkeypatch.setenv("PATH", "/bin")
    kept = install.clean_environment()
    assert "from the shell" not in kept.values()
    assert kept["PATH"] == "/bin"
