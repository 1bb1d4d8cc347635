"""What users install is the wheel, not the checkout: it is built from the sdist, installed, and put to the tests.

Each environment here is a virtual environment outside the checkout that holds the wheel and *exactly* the packages that
its metadata asks for, linked from the environment of this run. So nothing is downloaded, and a dependency that the
code uses and the metadata does not name is missing here as it would be for a user.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = "ezthrottle-provider"

# The one line that a user adds, driven by hand: no server, no framework, no client.
BARE_APP = """
import asyncio
from ezthrottle_provider import ASGIFairQueue

async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})

app = ASGIFairQueue(app, identify="bearer", max_concurrent=32)
sent = []

async def receive():
    return {"type": "http.request", "body": b"", "more_body": False}

async def send(message):
    sent.append(message)

scope = {
    "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http", "path": "/",
    "raw_path": b"/", "query_string": b"", "root_path": "", "headers": [(b"authorization", b"Bearer of-a-key")],
    "client": ("127.0.0.1", 50000), "server": ("127.0.0.1", 8000),
}
asyncio.run(app(scope, receive, send))
print(sent[0]["status"], *(name.decode().lower() for name, _ in sent[0]["headers"]))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT], cwd=folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def core(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an environment with the wheel and its core dependencies only."""
    return make_environment(tmp_path_factory.mktemp("core"), wheel, extras=frozenset())


def run(command: Iterable[str | Path], *, cwd: Path) -> str:
    """Run a command that must succeed, without this run's PYTHONPATH; returns what it printed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def make_environment(folder: Path, wheel: Path, *, extras: frozenset[str]) -> Path:
    """A virtual environment with the wheel and the packages that it asks for, and no others."""
    venv.create(folder, with_pip=False, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python"]
    run([*pip, "install", "--quiet", "--no-index", "--no-deps", wheel], cwd=folder)
    (site,) = folder.glob("lib/python*/site-packages")
    (project,) = distributions(path=[str(site)])
    for needed in needed_by(project, extras):
        for top in {file.parts[0] for file in needed.files or ()} - {"..", "__pycache__"}:
            if not (site / top).exists():  # packages of one namespace share its folder
                (site / top).symlink_to(needed.locate_file(top))
    return folder


def needed_by(project: Distribution, extras: frozenset[str]) -> Iterator[Distribution]:
    """Everything that a distribution asks for, directly or not, as installed in the environment of this run."""
    pending, seen = [(project, extras)], set()
    while pending:
        asking, extras = pending.pop()
        if (asking.name, extras) in seen:
            continue
        seen.add((asking.name, extras))
        if asking is not project:
            yield asking
        for requirement in map(Requirement, asking.requires or ()):
            if requirement.marker is None or any(requirement.marker.evaluate({"extra": e}) for e in extras | {""}):
                itself = canonicalize_name(requirement.name) == PROJECT
                wanted = project if itself else distribution(requirement.name)
                pending.append((wanted, frozenset(requirement.extras)))


def packaged_folders() -> list[Path]:
    options = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return [ROOT / folder for folder in options["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]]


def test_the_wheel_holds_every_file_of_its_packages_and_nothing_else(wheel: Path) -> None:
    expected = {
        path.relative_to(folder.parent).as_posix()
        for folder in packaged_folders()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    metadata = {name for name in inside if ".dist-info/" in name}
    assert expected == inside - metadata
    assert any(name.endswith("/licenses/LICENSE") for name in metadata)
    assert {f"{folder.name}/py.typed" for folder in packaged_folders()} <= expected


def test_every_integration_is_in_the_wheel() -> None:
    integrations = {path.parent for path in (ROOT / "integrations").glob("*/__init__.py")}
    assert integrations == {folder for folder in packaged_folders() if folder.parent.name == "integrations"}


def test_the_core_needs_no_more_than_its_metadata_says(core: Path) -> None:
    printed = run([core / "bin" / "python", "-c", BARE_APP], cwd=core)
    status, *headers = printed.split()
    assert "200" == status
    assert "x-ezthrottle-rps" in headers


def test_the_command_is_installed_and_tells_the_version_of_the_wheel(core: Path, wheel: Path) -> None:
    version = wheel.name.split("-")[1]
    assert version in run([core / "bin" / "ezthrottle", "--version"], cwd=core)


def test_the_unit_tests_pass_against_the_wheel_with_the_source_gone(wheel: Path, tmp_path: Path) -> None:
    python = make_environment(tmp_path / "venv", wheel, extras=frozenset({"dev"})) / "bin" / "python"
    elsewhere = tmp_path / "elsewhere"
    for folder in ("tests", "loadtests"):
        shutil.copytree(ROOT / folder, elsewhere / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / file, elsewhere)
    where = "import sys, ezthrottle_provider as a, starlette_ezthrottle as b; print(a.__file__, b.__file__, *sys.path)"
    assert str(ROOT) not in run([python, "-c", where], cwd=elsewhere)
    run([python, "-m", "pytest", "-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", "tests/unit"], cwd=elsewhere)
