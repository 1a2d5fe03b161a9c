"""The written form of a configuration: a strict YAML file, and `--set` on the command line."""

from copy import copy
from pathlib import Path
from typing import Any

import yaml

from cluster.errors import ConfigError
from orchestrator.config.errors import Yaml, shown


def read_mapping(path: Path) -> dict[str, Yaml]:
    """The mapping in a YAML file.

    Raises:
        ConfigError: the file is absent, cannot be read, is not UTF-8, YAML or a mapping, or gives a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; `orthoplex init` writes one") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; give a YAML file") from None
    content = _read_yaml(text, str(path))
    if not isinstance(content, dict):
        found = "nothing" if content is None else shown(content)
        raise ConfigError(f"{path}: expected a mapping of keys at the top, found {found}")
    return content


class _StrictLoader(yaml.SafeLoader):
    """YAML that also refuses repeated keys (PyYAML silently keeps the last), keys that are not strings, and cycles."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.deep_construct = True  # an alias inside its own anchor is an error

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise _bad_yaml(f"the key {shown(key)} is not a string; quote it", key_node)
            if key in seen:
                raise _bad_yaml(f"the key {key!r} is given twice", key_node)
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ArithmeticError, AttributeError, LookupError, ValueError):  # as from 2024-99-99
            raise _bad_yaml(f"{shown(node.value)} cannot be read as a number or a date; quote it", node) from None


def _bad_yaml(problem: str, node: yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _read_yaml(text: str, origin: str) -> Yaml:
    try:
        content: Yaml = yaml.load(text, Loader=_StrictLoader)
        return content
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError(f"{origin}: not valid YAML: {at}{problem}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin}: not valid YAML: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise ConfigError(f"{origin}: not valid YAML: nested too deeply") from None


def override(content: dict[str, Yaml], assignment: str) -> None:
    """Sets one key of a configuration in place: `a.b=value`, the value as YAML, list items by number.

    Raises:
        ConfigError: the assignment is not of this form, or its key leads through a value.
    """
    path, equals, text = assignment.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set {assignment!r}: expected KEY=VALUE with a dotted key, as in train.epochs=1")
    try:
        value = _read_yaml(text, f"--set {assignment!r}")
    except ConfigError as error:
        raise ConfigError(f"{error}; put a string in quotes, as in '{path}=\"…\"'") from None
    target: Any = content
    for depth, key in enumerate(keys):
        place: Any = key
        where = ".".join(keys[:depth])
        if isinstance(target, list):
            if not key.isdecimal() or int(key) >= len(target):
                items = f"has items 0 to {len(target) - 1}" if target else "is an empty list and has no item"
                raise ConfigError(f"--set {assignment!r}: {where} {items}, not {key!r}")
            place = int(key)
        elif not isinstance(target, dict):
            raise ConfigError(f"--set {assignment!r}: {where} is a value and has no key {key!r}")
        if depth == len(keys) - 1:
            target[place] = value
            return
        old = target[place] if isinstance(target, list) else target.get(place)
        target[place] = {} if old is None else copy(old)  # a value shared by a YAML alias changes here alone
        target = target[place]
