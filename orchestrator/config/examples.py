"""Configurations that ship, to start from: the files of `configs/`, in a checkout or as the wheel carries them."""

import shlex
from pathlib import Path

import yaml

from cluster.errors import ConfigError
from cluster.words import did_you_mean

BASE = "base"  # of a sweep: the configuration that its trials are


def folder() -> Path:
    """Where the examples are: in the wheel's package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    carried = package / "examples"
    return carried if carried.is_dir() else package.parent / "configs"


def examples() -> list[str]:
    """Their names: paths without suffix, as in sweeps/quickstart."""
    here = folder()
    return sorted(path.relative_to(here).with_suffix("").as_posix() for path in here.rglob("*.yaml"))


def example_files(name: str, path: Path | None = None) -> dict[Path, str]:
    """The files of an example, by where to write them: at `path`, by default NAME.yaml, with - for each /. A sweep
    comes with the configuration that it names, beside it.

    Raises:
        ConfigError: no example has that name.
    """
    known = examples()
    if name not in known:
        close = did_you_mean(name, known)
        raise ConfigError(f"--example {name!r}: {f'{close} ' if close else ''}there are {', '.join(known)}")
    target = path or Path(f"{name.replace('/', '-')}.yaml")
    source = folder() / f"{name}.yaml"
    text = source.read_text("utf-8")
    base = yaml.safe_load(text).get(BASE)
    if base is None:
        return {target: text}
    beside = target.with_name(Path(base).name)
    return {
        target: text.replace(f"{BASE}: {base}", f"{BASE}: {beside.name}"),
        beside: (source.parent / base).read_text("utf-8"),
    }


def next_command(files: dict[Path, str]) -> str:
    """What to type after the files are written."""
    verb = "plan" if len(files) == 1 else "sweep"
    return shlex.join(["orthoplex", verb, str(next(iter(files)))])
