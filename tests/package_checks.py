"""The built wheel and sdist as a user meets them: `make test-package` and `make test-standalone`.

Each is installed alone into a fresh environment, which finds all other packages where this interpreter has them. There,
in an empty folder, `init`, `plan` and a `run` of two steps are done by the console script.

With `--standalone` the folder that such a run exports is then answered by its own `predict.py`, in an environment with
transformers, peft, torch and safetensors alone, and its labels are compared with those of `orthoplex predict`.

Usage: python -m tests.package_checks [--standalone]
"""

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
LONE = Path(os.environ.get("ORTHOPLEX_STANDALONE_ROOT") or Path.home() / ".cache/orthoplex/standalone")
NEEDED = ("torch", "transformers", "peft", "safetensors")
TINY = (
    "train.max_steps=2", "train.warmup_steps=0", "cluster.num_workers=1", "data.max_train_rows=64",
    "data.max_validation_rows=8", "data.max_test_rows=8",
)  # fmt: skip
TEXTS = (
    "Return the mean of the values over the requested axis.", "Applies dropout to the input tensor during training.",
    "Compute the arithmetic mean along the specified axis.", "Write a table to Parquet format.", "Open a file.", "x",
    "  Überprüft, ob ein Wert fehlt.  ", "word " * 200,
)  # fmt: skip


def run(*command: object, cwd: Path = ROOT) -> str:
    """The standard output of a command. Raises SystemExit with all that it said if it fails."""
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    words = [*map(str, command)]
    done = subprocess.run(words, check=False, cwd=cwd, env=clean, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def built(folder: Path) -> tuple[Path, Path]:
    """The wheel and the sdist of this checkout. The wheel has the examples, and both the licence."""
    run(sys.executable, "-m", "hatchling", "build", "-d", folder)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    names = zipfile.ZipFile(wheel).namelist()
    with tarfile.open(sdist) as archive:
        carried = {name.partition("/")[2] for name in archive.getnames()}
    for name in (
        "orchestrator/examples/quickstart.yaml",
        "orthoplex/py.typed",
        "cluster/constraints.txt",
        "orchestrator/templates/report.html",
    ):
        assert name in names, name
    assert any(name.endswith("licenses/LICENSE") for name in names) and {"LICENSE", "README.md"} <= carried
    top = {name.partition("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {
        "orthoplex", "orchestrator", "trainers", "cluster",
    }, top  # fmt: skip
    return wheel, sdist


def environment(folder: Path, package: Path) -> Path:
    """A fresh environment with the package, which finds others where this interpreter has them; its folder of
    commands."""
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (site / "others.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    options = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check")
    run(sys.executable, "-m", "pip", "--python", python, "install", *options, package)
    found = run(python, "-c", "import orchestrator; print(orchestrator.__file__)", cwd=folder).strip()
    assert found.startswith(str(site)), found  # the checkout is not what is imported
    return folder / "bin"


def first_steps(bin_folder: Path, folder: Path) -> Path:
    """What a new user types, in an empty folder; returns the configuration that was run."""
    folder.mkdir()
    orthoplex = bin_folder / "orthoplex"
    version = run(orthoplex, "--version", cwd=folder).split()[1]
    assert (
        run(bin_folder / "python", "-c", "import orthoplex; print(orthoplex.__version__)", cwd=folder) == f"{version}\n"
    )
    assert "next: orthoplex plan orthoplex.yaml" in run(orthoplex, "init", cwd=folder)
    run(orthoplex, "init", "--example", "quickstart", cwd=folder)
    run(orthoplex, "init", "--example", "sweeps/quickstart", cwd=folder)
    settings = [word for value in TINY for word in ("--set", value)]
    planned = json.loads(run(orthoplex, "plan", "quickstart.yaml", *settings, "--json", cwd=folder))
    assert planned["state"] == "absent" and planned["steps"] == [2, 2, 2, 2]
    run(orthoplex, "run", "quickstart.yaml", *settings, cwd=folder)
    assert json.loads(run(orthoplex, "status", "quickstart", "--json", cwd=folder))["state"] == "finished"
    assert "</html>" in run(orthoplex, "report", "quickstart", "-o", "-", cwd=folder)
    return folder / "quickstart.yaml"


def alone() -> Path:
    """The interpreter of an environment with NEEDED and what these need, in the versions of constraints.txt."""
    python = LONE / "bin" / "python"
    if not python.is_file():
        run(sys.executable, "-m", "venv", "--without-pip", LONE)
    options = ("--quiet", "--disable-pip-version-check", "-c", ROOT / "constraints.txt")
    run(sys.executable, "-m", "pip", "--python", python, "install", *options, *NEEDED)
    for name in ("orthoplex", "ray", "deepspeed", "datasets"):
        code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({name!r}) is not None)"
        run(python, "-c", code, cwd=LONE)
    return python


def standing_alone(bin_folder: Path, folder: Path, tasks: Sequence[str]) -> int:
    """Compares labels of exported folders with those of `orthoplex predict`; how many were compared."""
    python, orthoplex, compared = alone(), bin_folder / "orthoplex", 0
    exports = {form: folder / form for form in ("peft", "merged")}
    for form, export in exports.items():
        run(orthoplex, "adapters", "export", "quickstart@v4", "--format", form, "--output", export, cwd=folder)
    for task in tasks:
        asked = ("predict", "quickstart@v4", "--task", task, "--format", "json", *TEXTS)
        ours = [json.loads(line)["label"] for line in run(orthoplex, *asked, cwd=folder).splitlines()]
        for form, export in exports.items():
            base = ("--base", base_folder(bin_folder)) if form == "peft" else ()
            printed = run(python, export / "predict.py", "--task", task, *base, *TEXTS, cwd=export)
            assert [json.loads(line) for line in printed.splitlines()] == ours, (form, task, ours, printed)
            compared += len(ours)
    return compared


def base_folder(bin_folder: Path) -> str:
    """Where MiniLM is: an environment without Orthoplex does not know the name."""
    return run(
        bin_folder / "python", "-c", "from trainers.models.loading import resolve_name; print(resolve_name('minilm'))"
    ).strip()


def main() -> None:
    """Builds, installs and tries; prints how long each took."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="orthoplex-package-") as made:
        folder = Path(made)
        packages = built(folder / "dist")
        print(f"built {' and '.join(path.name for path in packages)}: {time.monotonic() - began:.0f} s", flush=True)
        kinds = ("wheel", "sdist")[: 1 if "--standalone" in sys.argv else 2]

        def tried(kind: str, package: Path) -> Path:
            bin_folder = environment(folder / f"env-{kind}", package)
            first_steps(bin_folder, folder / kind)
            print(f"{kind}: init, plan and run work: {time.monotonic() - began:.0f} s", flush=True)
            return bin_folder

        with ThreadPoolExecutor() as threads:
            bins = [*threads.map(tried, kinds, packages[: len(kinds)])]
        if "--standalone" in sys.argv:
            compared = standing_alone(bins[0], folder / "wheel", ("library", "section", "kind", "area"))
            print(f"predict.py: {compared} labels are those of orthoplex predict: {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
