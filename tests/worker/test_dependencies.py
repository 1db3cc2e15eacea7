"""An app that needs what the image does not hold is told before any of it is imported."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest

from tests.worker.flower_apps import unpacked, write_app
from trusted.errors import AppError, Reason
from worker.dependencies import MAX_DEPENDENCIES, Standing, read_dependencies, require_dependencies

NUMPY = version("numpy")


def app_with(folder: Path, *dependencies: str, python: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    listed = ", ".join(f'"{text}"' for text in dependencies)
    requires = f'requires-python = "{python}"\n' if python else ""
    (folder / "pyproject.toml").write_text(f'[project]\nname = "a"\n{requires}dependencies = [{listed}]\n')
    return folder


@pytest.mark.parametrize(
    ("text", "standing"),
    [
        ("numpy", Standing.MET),
        ("NumPy>=2.1,<3", Standing.MET),
        (f"numpy=={NUMPY}", Standing.MET),
        ("numpy>=99", Standing.OTHER_VERSION),
        ("numpy<1", Standing.OTHER_VERSION),
        ("torch>=2.13", Standing.MET),  # installed as 2.13.0+cpu
        ("flwr[simulation]>=1.41", Standing.MET),  # what an extra brings is not looked at
        ("flwr-datasets[vision]>=0.6", Standing.MISSING),
        ("numpy @ https://example.org/numpy.whl", Standing.UNREADABLE),
        ("no version at all", Standing.UNREADABLE),
    ],
)
def test_a_requirement_stands_as_the_image_has_it(tmp_path: Path, text: str, standing: Standing) -> None:
    (found,) = read_dependencies(app_with(tmp_path, text))
    assert found.standing is standing
    if standing is Standing.MET:
        require_dependencies(tmp_path)
        return
    with pytest.raises(AppError) as error:
        require_dependencies(tmp_path)
    assert error.value.reason is Reason.APP_DEPENDENCY
    assert found.requirement in error.value.detail


def test_what_another_system_or_python_needs_is_left_out(tmp_path: Path) -> None:
    texts = ("pywin32; sys_platform == 'win32'", "tomli; python_version < '3.11'", "extra-one; extra == 'never'")
    assert read_dependencies(app_with(tmp_path, *texts)) == ()


@pytest.mark.parametrize(
    ("python", "standing"), [(">=3.11", Standing.MET), (">=4", Standing.OTHER_VERSION), ("three", Standing.UNREADABLE)]
)
def test_the_python_that_runs_counts_too(tmp_path: Path, python: str, standing: Standing) -> None:
    (found,) = read_dependencies(app_with(tmp_path, python=python))
    assert (found.name, found.standing) == ("python", standing)


@pytest.mark.parametrize(
    "text",
    [
        'name = "a"',
        *(f"[project]\n{wrong}" for wrong in ("dependencies = 3", "dependencies = [3]", "requires-python = 3")),
        f"[project]\ndependencies = {['numpy'] * (MAX_DEPENDENCIES + 1)}",
    ],
)
def test_another_form_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(AppError) as error:
        read_dependencies(tmp_path)
    assert error.value.reason is Reason.BUNDLE_MALFORMED


def test_nothing_in_a_requirement_steers_a_terminal_or_fills_a_log(tmp_path: Path) -> None:
    (found,) = read_dependencies(app_with(tmp_path, "\\u001b[2J" + "x" * 5000))
    assert len(found.requirement) <= 200
    assert found.requirement.isprintable()


def test_an_app_of_the_tests_needs_nothing_that_is_not_here(tmp_path: Path) -> None:
    require_dependencies(unpacked(tmp_path))
    require_dependencies(write_app(tmp_path / "again"))
    require_dependencies(Path(__file__).parents[2] / "examples" / "rand_hie")
