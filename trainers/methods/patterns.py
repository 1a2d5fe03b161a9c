"""Regexes over the names of layers that may take for ever: tried for a limited time, in a process that can be ended."""

import json
import re
import subprocess
import sys
from collections.abc import Collection

from cluster.errors import ConfigError
from cluster.words import brief
from trainers.method_config import MethodConfig

MOST_S = 1  # of processor time, for all layers of a model; what people write takes milliseconds
WAIT_S = 60  # on a busy machine
REPEATS = re.compile(r"[*+{]")  # a regex without any of these visits a name a bounded number of times
TRY = f"""
import json, re, resource, sys
resource.setrlimit(resource.RLIMIT_CPU, ({MOST_S}, {MOST_S}))
patterns, names = json.load(sys.stdin)
for pattern in patterns:
    for name in names:
        re.fullmatch(pattern, name)
"""


def check_regexes_end(adapter: MethodConfig, names: Collection[str]) -> None:
    """Raises ConfigError, with key and regex, if one of a method takes longer than `MOST_S` on the layers `names`."""
    asked = [(f"adapter.{key}", each) for key, patterns in adapter.patterns.items() for each in patterns]
    if isinstance(adapter.target_modules, str):
        asked.append(("adapter.target_modules", adapter.target_modules))
    repeating = [each for each in asked if REPEATS.search(each[1])]
    if not repeating or ends([pattern for _, pattern in repeating], names):
        return
    key, pattern = next((each for each in repeating if not ends([each[1]], names)), repeating[0])
    raise ConfigError(
        f"{key}: {brief(repr(pattern), 300)} takes more than {MOST_S} s on the names of the layers; write it with "
        "fewer repeats inside of repeats, or name the layers"
    )


def ends(patterns: Collection[str], names: Collection[str]) -> bool:
    """Whether all regexes are through with all names within `MOST_S`, also with the end of a name after a dot and with
    anything after it. One that is no regex is: whoever uses it says so."""
    tried = [form for each in patterns for form in (each, rf"(.*\.)?({each})", rf"(.*\.)?({each}.*)")]
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", TRY], input=json.dumps([tried, [*names]]), check=False,
            capture_output=True, text=True, timeout=WAIT_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return False
    return done.returncode >= 0  # a signal ends what has used up its time
