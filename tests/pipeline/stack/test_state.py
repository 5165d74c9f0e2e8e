"""What a stack remembers: private, whole, and only about itself."""

import shutil
import stat
from pathlib import Path

import pytest

from pipeline.errors import StackError
from pipeline.stack import state


def stack_at(home: Path) -> state.StackConfig:
    config = state.StackConfig(home=home)
    with state.exclusive(config):
        return config


def memory_of(config: state.StackConfig) -> state.Memory:
    return state.Memory(
        home=str(config.home), stack_id="id", socket="/s", ports={"mlflow": 20003}, services=("mlflow",)
    )


def test_memory_survives_the_disk(tmp_path: Path) -> None:
    config = stack_at(tmp_path)
    assert state.load_memory(config) is None
    state.save_memory(config, memory_of(config))
    assert state.load_memory(config) == memory_of(config)


def test_copy_of_a_stack_knows_nothing_of_the_original_s_processes(tmp_path: Path) -> None:
    original = stack_at(tmp_path / "a")
    state.save_memory(original, memory_of(original))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert state.load_memory(stack_at(tmp_path / "b")) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"home": 1}'])
def test_unreadable_memory_is_one_clear_error(tmp_path: Path, text: str) -> None:
    config = stack_at(tmp_path)
    (config.folder / "state.json").write_text(text)
    with pytest.raises(StackError, match=r"state\.json cannot be read .* delete it and run `fasten up`"):
        state.load_memory(config)


def test_login_is_drawn_once_and_private(tmp_path: Path) -> None:
    config = stack_at(tmp_path)
    login = state.label_studio_login(config)
    assert state.label_studio_login(config) == login
    assert len(login.token.get_secret_value()) == 40
    assert login.token.get_secret_value() not in repr(login)
    assert stat.S_IMODE((config.folder / "secrets.json").stat().st_mode) == 0o600
    assert state.label_studio_login(stack_at(tmp_path / "other")) != login


def test_lost_secrets_are_not_drawn_anew_beside_an_existing_database(tmp_path: Path) -> None:
    config = stack_at(tmp_path)
    (config.folder / "secrets.json").write_text('{"label_studio_password": "x"}')
    with pytest.raises(StackError, match=r"secrets\.json cannot be read \(KeyError\)"):
        state.label_studio_login(config)


def test_stack_env_is_private_and_names_only_what_is_embedded(tmp_path: Path) -> None:
    config = stack_at(tmp_path)
    login = state.label_studio_login(config)
    state.write_stack_env(config, {"prefect": "http://127.0.0.1:2", "worker": "http://127.0.0.1:2/w"}, login)
    path = tmp_path / "stack.env"
    assert path.read_text() == "FASTEN_PREFECT_API_URL=http://127.0.0.1:2/api\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    urls = {"label-studio": "http://127.0.0.1:1", "mlflow": "http://127.0.0.1:3"}
    state.write_stack_env(config, urls, login)  # type: ignore[arg-type]
    assert dict(line.split("=", 1) for line in path.read_text().splitlines()) == {
        "FASTEN_LABEL_STUDIO_URL": "http://127.0.0.1:1",
        "FASTEN_LABEL_STUDIO_TOKEN": login.token.get_secret_value(),
        "FASTEN_LABEL_STUDIO_USERNAME": login.username,
        "FASTEN_LABEL_STUDIO_PASSWORD": login.password.get_secret_value(),
        "FASTEN_MLFLOW_TRACKING_URI": "http://127.0.0.1:3",
    }
