"""`orthoplex submit`, `orthoplex jobs …` and `orthoplex doctor`: the command line's side of a cluster."""

import dataclasses
import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.errors import ConfigError, Interrupted, OrthoplexError
from cluster.words import as_options, brief
from orchestrator.cli.common import AnyStore, AsJson, ConfigPath, Overrides, tell
from orchestrator.console.volume import volume

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

    from cluster.jobs import Job
    from orchestrator.config.errors import Yaml
    from orchestrator.config.run import RunConfig

jobs = typer.Typer(help="Submitted runs on a cluster.", no_args_is_help=True, rich_markup_mode=None)

JobServer = Annotated[
    str, typer.Option("--address", metavar="URL", envvar="RAY_API_SERVER_ADDRESS", help="the cluster's job server")
]
JobId = Annotated[str, typer.Argument(metavar="ID", help="as printed by `orthoplex submit`")]
Follow = Annotated[bool, typer.Option("--follow/--no-follow", help="show the log until the job ends")]
Environment = Annotated[
    list[str], typer.Option("--env", metavar="NAME[=VALUE]", help="pass a variable on; no secrets; repeatable")
]
Allowed = Annotated[
    list[str],
    typer.Option(
        "--allow", metavar="NAME", help="send this file or variable though it looks like a secret; repeatable"
    ),
]
Pins = Annotated[
    list[str],
    typer.Option("--pip", metavar="PIN", help="install NAME==VERSION, or a file of such lines, on the nodes"),
]
WorkingDir = Annotated[Path, typer.Option("--working-dir", metavar="DIR", help="the folder that is uploaded")]
JobName = Annotated[
    str | None, typer.Option("--name", metavar="ID", help="the job's id; default: the run's name and a suffix")
]
Grace = Annotated[int, typer.Option("--grace", min=1, metavar="SECONDS", help="time to keep its state after a stop")]

LEFT_OUT_CHARS = 1_500  # of names that a note lists


def register(app: typer.Typer) -> None:
    """Adds the verbs to the command."""
    app.command("submit")(submit)
    app.add_typer(jobs, name="jobs")
    app.command("doctor")(doctor)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a job is to do: `orthoplex VERB` with a configuration and `overrides`. `run` is the configuration of the
    run, or of a sweep's trials, and `content` the same as written, below the keys `section`; `base` is the file that a
    sweep takes it from."""

    verb: str
    name: str
    run: "RunConfig"
    content: "Mapping[str, Yaml]"
    overrides: list[str]
    section: str = ""
    base: Path | None = None

    def shipped_overrides(self, working_dir: Path, shipped: frozenset[str]) -> list[str]:
        """The overrides as they are given on the cluster, where paths begin at the uploaded folder. Raises ConfigError
        if the file of `base` does not travel."""
        from orchestrator.sweeps.config import is_base

        if self.base is None:
            return self.overrides
        there = f"base={place_of(self.base, working_dir, shipped)}"
        return [there if is_base(each) else each for each in self.overrides]


def work_of(config: Path, overrides: list[str]) -> Work:
    """The work that a configuration asks for, a run's or a sweep's. Raises ConfigError if it is wrong."""
    from orchestrator.config.file import override, read_mapping
    from orchestrator.config.run import parse_config
    from orchestrator.sweeps.config import is_sweep, parse_sweep, read_sweep

    content = read_mapping(config)
    if is_sweep(content):
        content, base = read_sweep(config, overrides)
        sweep = parse_sweep(content, str(config))
        written = content["run"]
        assert isinstance(written, dict)
        return Work(
            verb="sweep",
            name=sweep.name,
            run=sweep.run,
            content=written,
            overrides=overrides,
            section="run.",
            base=base,
        )
    for assignment in overrides:
        override(content, assignment)
    loaded = parse_config(content, str(config))
    return Work(verb="run", name=loaded.name, run=loaded, content=content, overrides=overrides)


def submit(
    config: ConfigPath,
    *,
    address: JobServer,
    overrides: Overrides = [],  # noqa: B006
    follow: Follow = True,
    name: JobName = None,
    working_dir: WorkingDir = Path(),
    environment: Environment = [],  # noqa: B006
    allow: Allowed = [],  # noqa: B006
    pip: Pins = [],  # noqa: B006
    grace: Grace = 60,
) -> None:
    """Run or sweep on a cluster, as a Ray job. Ends with the exit code of the run, or of the sweep."""
    from cluster.jobs import job_client
    from cluster.jobs import submit as start
    from cluster.names import refuse_taken
    from cluster.submit import Submission, job_environment, packaged, pinned, submission_id, withheld

    work = work_of(config, overrides)
    refuse_taken(working_dir, "a job's processes import from its working directory")
    variables, pins = job_environment(environment, os.environ, grace, bool(pip), allow), pinned(pip)
    with packaged(working_dir, allowed=allow) as package:
        tell_left_out([*withheld(os.environ, allow), *package.left_out])
        written = place_of(config, working_dir, package.files)
        options = as_options(work.shipped_overrides(working_dir, package.files))
        check_paths(work, working_dir, package.files, variables)
        submission = Submission(
            submission_id(work.name, name),
            ("python", "-m", "orchestrator", work.verb, written, *options),
            variables,
            pins,
            {"run": f"{work.run.team}/{work.name}"},
        )
        client = job_client(address)
        say(f"uploading {len(package.files)} files, {package.size_bytes / 1024:,.0f} KiB")
        job = start(client, submission.request(package))
    typer.echo(job if volume.quiet else f"submitted {job}, with {', '.join(sorted(variables))} set")
    for verb in ("status", "logs", "stop"):
        say(f"  orthoplex jobs {verb} {shlex.quote(job)} --address {address}")
    if follow:
        watch(client, job, address)


def say(line: str) -> None:
    """A line about what is done, unless only the result is asked for."""
    if not volume.quiet:
        typer.echo(line)


def tell_left_out(names: Sequence[str]) -> None:
    """A note on files and variables that stay here."""
    if names:
        tell(
            f"left out, for they look like secrets: {brief(', '.join(names), LEFT_OUT_CHARS)}; `--allow NAME` sends one"
        )


def place_of(config: Path, working_dir: Path, shipped: frozenset[str]) -> str:
    """The configuration's path within the uploaded folder.

    Raises:
        ConfigError: it lies elsewhere, or is left out of the upload.
    """
    from cluster.submit import inside

    written = inside(working_dir, config)
    if written is None:
        raise ConfigError(
            f"{config}: not inside the working directory {working_dir.resolve()}, and only that is uploaded; move it "
            "there, or give another --working-dir"
        )
    if written not in shipped:
        raise ConfigError(
            f"{config}: left out of the upload by .gitignore or .rayignore, or as a secret (--allow); mend that"
        )
    return written


def check_paths(work: Work, working_dir: Path, shipped: frozenset[str], env: dict[str, str]) -> None:
    """Warns of paths that mean another place on the cluster. Raises ConfigError, listing all, if any cannot work."""
    from orchestrator.run.cluster_paths import path_findings

    found = path_findings(work.run, work.content, working_dir, shipped, env, section=work.section)
    for finding in found:
        if finding.level == "warn":
            tell(finding.message, "warning")
    if refused := [finding.message for finding in found if finding.level == "refuse"]:
        raise ConfigError("\n  ".join(["paths that the job would not find", *refused]))


def watch(client: "JobSubmissionClient", job: str, address: str) -> None:
    """Shows a job's log until it ends, and ends with its exit code. Ctrl-C leaves the job running."""
    from cluster.jobs import follow

    try:
        ended = follow(client, job, lambda text: typer.echo(text, nl=False))
    except KeyboardInterrupt:
        raise Interrupted(
            f"stopped following; the job goes on. Stop it with: orthoplex jobs stop {job} --address {address}"
        ) from None
    conclude(ended)


def conclude(job: "Job") -> None:
    """Says how a job ended, and ends with its exit code."""
    if job.exit_code == 0:
        typer.echo(f"job {job.id}: succeeded")
        return
    error = OrthoplexError(f"job {job.id}: {job.status.lower()}; {job.message or 'Ray gives no reason'}")
    if job.exit_code is not None:
        error.exit_code = job.exit_code
    raise error


@jobs.command("list")
def list_jobs(address: JobServer, as_json: AsJson = False) -> None:
    """List the jobs of a cluster, the latest first."""
    from cluster.jobs import job_client
    from cluster.jobs import list_jobs as find

    found = find(job_client(address))
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(job) for job in found], indent=2))
        return
    for job in found:
        typer.echo(f"{job.id}  {job.status}  {job.run or '-'}  {job.started_at or 'not started'}")
    if not found:
        typer.echo(f"no jobs at {address}")


@jobs.command("status")
def status(job: JobId, address: JobServer, as_json: AsJson = False) -> None:
    """Show where a job stands."""
    from cluster.jobs import job_client, look

    seen = dataclasses.asdict(look(job_client(address), job))
    if as_json:
        typer.echo(json.dumps(seen, indent=2))
        return
    for key, value in seen.items():
        if value not in (None, ""):
            typer.echo(f"{key}: {value}")


@jobs.command("logs")
def logs(job: JobId, address: JobServer, follow: Follow = False) -> None:
    """Print a job's log. With --follow until the job ends, and with its exit code."""
    from cluster.jobs import explained, job_client

    client = job_client(address)
    if follow:
        watch(client, job, address)
        return
    with explained(f"job {job}"):
        typer.echo(client.get_job_logs(job), nl=False)


@jobs.command("stop")
def stop(job: JobId, address: JobServer) -> None:
    """Stop a job and wait until it has ended. What it committed stands; submit it again to go on."""
    from cluster.jobs import grace_of, job_client, look
    from cluster.jobs import stop as end
    from cluster.submit import STOP_WAIT

    client = job_client(address)
    if (before := look(client, job)).exit_code is not None:
        typer.echo(f"job {job}: {before.status.lower()} already")
        return
    ended = end(client, job, grace_of(client, job, STOP_WAIT))
    if ended.exit_code is None:
        raise OrthoplexError(f"job {job}: still {ended.status.lower()}; look again with `orthoplex jobs status {job}`")
    typer.echo(f"job {job}: {ended.status.lower()}")


def doctor(
    config: Annotated[Path | None, typer.Argument(metavar="[CONFIG]", help="takes store and cluster from it")] = None,
    address: Annotated[str | None, typer.Option("--address", help="a Ray address: host:6379, or auto")] = None,
    store: AnyStore = None,
    as_json: AsJson = False,
) -> None:
    """Look for what this machine, a cluster or a store lacks. Each finding names what mends it."""
    from cluster.doctor.checks import findings
    from cluster.doctor.gather import gather
    from orchestrator.config.run import load_config

    loaded = load_config(config) if config else None
    facts = gather(address, loaded.cluster if loaded else None, store or (loaded.store if loaded else None))
    found = findings(facts)
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(finding) for finding in found], indent=2, ensure_ascii=False))
    for finding in () if as_json else found:
        typer.echo(f"{finding.level:<5}{finding.what}")
        if finding.mend:
            typer.echo(f"     → {finding.mend}")
    if any(finding.level == "fail" for finding in found):
        raise typer.Exit(1)
