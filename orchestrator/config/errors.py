"""The errors of a configuration in the user's words: one line per error of pydantic.

`root` is the model of the whole configuration.
"""

import datetime
import json
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, TypeAlias

from pydantic import BaseModel, Discriminator, ValidationError
from pydantic_core import ErrorDetails

from cluster.errors import MOST_CHARACTERS, ConfigError
from cluster.words import brief, did_you_mean, printable, without_user

if TYPE_CHECKING:
    from typing_extensions import TypeForm

Root = type[BaseModel]
Annotation: TypeAlias = "TypeForm[object] | None"
LiteralValue = bool | int | str | None
Yaml = None | bool | int | float | str | bytes | datetime.date | Set[str] | Sequence["Yaml"] | Mapping[str, "Yaml"]

SHOWN_CHARS, LINE_CHARS, LISTED = 60, 500, 50
MOST_BITS = 63  # of a whole number
USERINFO = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#\s]*@")  # the beginning of a URL that names a user
THEIR_OWN = ("store", "mlflow")  # keys whose models refuse a user in a URL, and say what to set instead
WHOLE = "configuration"  # the path of an error that is about no key alone
TAGS = ("source", "method")  # the keys that say which member of a union a mapping is
WORDS = {  # by pydantic's name of the error, if its own words are not the user's
    **dict.fromkeys(("bool_type", "bool_parsing"), "should be true or false"),
    **dict.fromkeys(("float_type", "float_parsing"), "should be a number"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float", "int_parsing_size"), "should be a whole number"),
    "dict_type": "should be a mapping of keys",
    **dict.fromkeys(("tuple_type", "list_type"), "should be a list"),
    "path_type": "should be a path",
    "string_pattern_mismatch": "use a-z, 0-9 and . _ -, with a letter or digit first",
    "string_type": "should be a string",
}
KINDS = {
    bool: "true or false", int: "a number", float: "a number", str: "a string", types.NoneType: "null",
}  # fmt: skip


class _Place(NamedTuple):
    """A place in the configuration: `path` without pydantic's union tags, the models that could hold its last key, the
    plain types that its value could have, and whether it has members of different types, as `list[str] | str`."""

    path: list[int | str]
    owners: list[Root]
    kinds: list[Annotation]
    mixed: bool


class Faults(NamedTuple):
    """The faults of a configuration: one line per place, of at most `LISTED`, and how many more there are."""

    lines: list[str]
    left_out: int = 0

    def error(self, origin: str) -> ConfigError:
        """The error that lists them, as many as a message holds; `origin` heads it."""
        count = len(self.lines) + self.left_out
        said = [f"{brief(origin, LINE_CHARS)}: {count:,} error{'s' if count > 1 else ''} in the configuration"]
        room = MOST_CHARACTERS - len(said[0]) - SHOWN_CHARS
        for line in (brief(printable(each), LINE_CHARS) for each in self.lines):
            room -= len(line) + len("\n  ")
            if room < 0:
                break
            said.append(line)
        if left := count + 1 - len(said):
            said.append(f"and {left:,} more; correct these first")
        return ConfigError("\n  ".join(said))


def described(root: Root, errors: Sequence[ErrorDetails], content: Mapping[str, Yaml]) -> Faults:
    """The faults of `content`, one line per place: pydantic's `errors`, and those that pydantic lets pass."""
    truths = list(_misplaced_truths(root, content))
    said = {tuple(_walk(root, error["loc"]).path) for error in truths}
    placed = [(tuple(_walk(root, error["loc"]).path), error) for error in reversed(errors)]
    others = {path: error for path, error in placed if path not in said}
    outer = {path[:end] for path in others for end in range(1, len(path))}  # their errors follow from those inside
    first = [*(error for path, error in reversed(others.items()) if path not in outer), *truths]
    lines = dict.fromkeys(_describe(root, error, content) for error in first[:LISTED])
    return Faults([*lines], len(first) - len(first[:LISTED]))


def refuse_unusable(content: Yaml, origin: str) -> None:
    """Raises ConfigError if a value would harm whoever reads or stores it: a whole number of more than `MOST_BITS`
    bits, or a URL with a user in it. Models do not see such values."""
    lines = [*islice(_unusable(content), LISTED + 1)]
    if lines:
        raise Faults(lines[:LISTED], len(lines[LISTED:])).error(origin)


def _unusable(value: Yaml, where: str = "") -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _unusable(inner, f"{where}.{brief(key, SHOWN_CHARS)}".lstrip("."))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _unusable(inner, f"{where}.{index}")
    elif isinstance(value, int) and value.bit_length() > MOST_BITS:
        yield f"{where}: a whole number of {value.bit_length():,} bits; use one of at most {MOST_BITS}"
    elif isinstance(value, str) and where.rpartition(".")[2] not in THEIR_OWN and USERINFO.match(value):
        yield f"{where}: a URL with a user or a password in it, and configurations are stored; take them out"


def _describe(root: Root, error: ErrorDetails, content: Mapping[str, Yaml]) -> str:
    """One line per error: path, value, message, and the nearest name if one is near."""
    place, kind, value = _walk(root, error["loc"]), error["type"], error["input"]
    where = ".".join(map(_key, place.path)) or WHOLE
    options = [str(option) for annotation in place.kinds for option in _literals(annotation)]
    if kind.startswith("union_tag_"):
        key = next(name for model in _models(place.kinds) for name in TAGS if name in model.model_fields)
        where, value = f"{where}.{key}", value.get(key)
        options = [*dict.fromkeys(str(tag) for model in _models(place.kinds) for tag in _tags(model))]
    if kind == "extra_forbidden":
        return f"{where}: unknown key{_other_member(root, place.path) or _known_keys(root, place.path, place.owners)}"
    if kind in ("missing", "union_tag_not_found"):
        return f"{where}: required, but not given{'; ' if options else ''}{_one_of(options)}"
    if kind in ("literal_error", "union_tag_invalid"):
        near = _near(value, options) if isinstance(value, str) and value not in options else ""
        return f"{where}: {shown(value)}: {_one_of(options)}{near}"
    if place.mixed:
        members = _members(place)
        return f"{where}: {shown(_value_at(content, place.path))}: should be {members}"
    if kind == "value_error":
        sections = _models(place.kinds) if place.path else [root]
        return _own_words(sections, where, value, error["msg"].removeprefix("Value error, "))
    listed = isinstance(value, str) and (str in place.kinds or value in options)
    return f"{where}: {shown(value)}: {_expected(place, error, listed)}"


def _expected(place: _Place, error: ErrorDetails, listed: bool) -> str:
    """What a value should be, and how to write it; `listed` tells if it is fit for a list."""
    kind, value = error["type"], error["input"]
    if kind in ("model_type", "model_attributes_type"):
        return _as_mapping(_models(place.kinds), value)
    message = WORDS.get(kind) or re.sub(r"^(Input|String|Tuple|List|Dictionary) ", "", error["msg"])
    if kind == "string_type" and isinstance(value, int | float | datetime.date):
        return f"{message}; quote it"
    return f"{message}: [{shown(value)}]" if listed and kind in ("list_type", "tuple_type") else message


def _key(key: int | str) -> str:
    """A key as messages name it."""
    text = str(key)
    return text if text.isprintable() and len(text) <= SHOWN_CHARS else shown(text)


def _members(place: _Place) -> str:
    """The values that a place with members of different types may hold, in words."""
    known = isinstance(place.path[-1], str) and place.path[-1] in place.owners[0].model_fields
    kinds = [place.owners[0].model_fields[str(place.path[-1])].annotation] if known else place.kinds
    return " or ".join(dict.fromkeys(word for kind in kinds for word in _in_words(kind)))


def _in_words(annotation: Annotation) -> Iterator[str]:
    """The kinds of values that an annotation allows."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        yield from _in_words(inner[0])
    elif origin in (typing.Union, types.UnionType):
        for each in inner:
            yield from _in_words(each)
    elif origin is Literal:
        yield from map(str, inner)
    elif origin in (list, tuple):
        yield "a list of strings" if inner[0] is str else "a list"
    elif origin is dict or _models([annotation]):
        yield "a mapping"
    else:
        yield from (word for kind, word in KINDS.items() if kind is annotation)


def _as_mapping(models: Sequence[Root], value: Yaml) -> str:
    """What to write in place of a value that is no mapping of keys: of a section with one key that must be given, that
    key with the value, if it takes it."""
    required = [[key for key, field in model.model_fields.items() if field.is_required()] for model in models]
    if len(required) != 1 or len(required[0]) != 1:
        return "should be a mapping of keys"
    (key,) = required[0]
    with suppress(ValidationError):
        if not isinstance(value, bool):
            models[0].model_validate({key: value})
            return f"should be a mapping of keys; write {{{key}: {shown(value)}}}"
    return f"should be a mapping of keys, with the key {key}"


def _own_words(sections: Sequence[Root], where: str, value: Yaml, message: str) -> str:
    """The message of one of our validators, with path and value if it lacks them. It never repeats a secret. One over
    several keys of a section begins with the path of a key below it."""
    about = re.match(r"(\w+)[.:]", message)
    if message.startswith(where):
        return message
    if about and any(about[1] in section.model_fields for section in sections):
        return message if where == WHOLE else f"{where}.{message}"
    told = not isinstance(value, str) or repr(value) in message
    return f"{where}: {message}" if told else f"{where}: {shown(value)}: {message}"


def key_paths(root: Root, prefix: str = "") -> Iterator[str]:
    """The dotted path of every key of a model and of the models in it. Items of lists, and values that may take several
    forms, are not included."""
    for name, field in root.model_fields.items():
        yield prefix + name
        opaque = any(not isinstance(each, Discriminator) for each in field.metadata)
        sections = [] if opaque else _sections(field.annotation)
        yield from dict.fromkeys(path for each in sections for path in key_paths(each, f"{prefix}{name}."))


def _sections(annotation: Annotation) -> list[Root]:
    """The models that a value may be; none if it may be something else than null."""
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    kinds = [kind for kind in _plain(annotation) if kind is not types.NoneType] if union else [annotation]
    models = _models(kinds)
    return models if len(models) == len(kinds) else []


def shown(value: Yaml) -> str:
    """A value in YAML, on one line, at most SHOWN_CHARS characters, without the user of a URL."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    if isinstance(value, datetime.date):
        text = str(value)
    return brief(without_user(text), SHOWN_CHARS)


def _one_of(options: Sequence[str]) -> str:
    return f"use {'one of ' if len(options) > 1 else ''}{', '.join(options)}" if options else ""


def _near(given: str, known: Sequence[str]) -> str:
    said = did_you_mean(given, known, cutoff=0.6)
    return f"; {said}" if said else ""


def _other_member(root: Root, path: Sequence[int | str]) -> str:
    """The `source` or `method` under which a key would be known; empty if there is none."""
    kinds = _walk(root, path[:-1]).kinds
    having = [model for model in _models(kinds) if path[-1] in model.model_fields and _tags(model)]
    if not having:
        return ""
    key = next(name for name in TAGS if name in having[0].model_fields)
    named = dict.fromkeys(str(tag) for model in having for tag in _tags(model))
    return f"; it belongs to {key} {' or '.join(named)}"


def _known_keys(root: Root, path: Sequence[int | str], owners: Sequence[Root]) -> str:
    """A replacement for an unknown key: the same key of a section inside or of another section, the nearest one of its
    own, or all of them."""
    name, here = str(path[-1]), "".join(f"{key}." for key in path[:-1])
    known = sorted({key for model in owners for key in model.model_fields} | _keys_that_turn(root, path, owners))
    inside = dict.fromkeys(key for model in owners for key in key_paths(model, here) if key.endswith(f".{name}"))
    elsewhere = [*inside] or [key for key in key_paths(root) if key.endswith(f".{name}")]
    if elsewhere:
        return f"; did you mean {' or '.join(map(repr, elsewhere))}?"
    return _near(name, known) or f"; known here: {', '.join(known)}"


def _keys_that_turn(root: Root, path: Sequence[int | str], owners: Sequence[Root]) -> set[str]:
    """The keys that would make a task another kind of the same source: `format` of files and hub."""
    tags = {tag for model in owners for tag in _tags(model)}
    kin = [model for model in _models(_walk(root, path[:-1]).kinds) if tags & {*_tags(model)}]
    return {key for model in kin for key, field in model.model_fields.items() if field.is_required()}


def _misplaced_truths(root: Root, value: Yaml, loc: tuple[int | str, ...] = ()) -> Iterator[ErrorDetails]:
    """Errors, as pydantic's, for true and false in the place of a number: pydantic takes them for 1 and 0."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _misplaced_truths(root, inner, (*loc, key))
    elif isinstance(value, bool):
        kinds = _walk(root, loc).kinds
        names = {int: "int_type", float: "float_type"}
        found = [name for kind, name in names.items() if kind in kinds]
        found += ["literal_error" for kind in kinds for option in _literals(kind) if isinstance(option, int)]
        if found and bool not in kinds:
            yield {"type": found[0], "loc": loc, "input": value, "msg": ""}


def _value_at(content: Mapping[str, Yaml], path: Sequence[int | str]) -> Yaml:
    found: Yaml = content
    for key in path:
        if isinstance(found, Mapping):
            found = found[str(key)]
        elif isinstance(found, Sequence) and isinstance(key, int):
            found = found[key]
    return found


def _walk(root: Root, loc: Sequence[int | str]) -> _Place:
    """Follows pydantic's `loc`, which holds a task's kind and a union's member beside the keys."""
    kinds: list[Annotation] = [root]
    owners: list[Root] = [root]
    path: list[int | str] = []
    for key in loc:
        models = _models(kinds)
        tagged = [model for model in models if key in (_member_tag(model) or _tags(model))]
        if tagged and len(models) > 1:
            kinds = [*tagged]
        elif isinstance(key, int):
            path.append(key)
        elif models:
            fields = [model.model_fields[key] for model in models if key in model.model_fields]
            owners, kinds = models, [kind for field in fields for kind in _plain(field.annotation)]
            path.append(key)
        elif named := [inner for kind in kinds for inner in _values(kind)]:
            kinds = named
            path.append(key)
        else:
            return _Place(path, owners, kinds, mixed=bool(kinds))
    return _Place(path, owners, kinds, mixed=False)


def _models(kinds: Iterable[Annotation]) -> list[Root]:
    return [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]


def _member_tag(model: Root) -> tuple[str, ...]:
    """What pydantic calls this kind of task, if that is more than its `source`."""
    tag = getattr(model, "tag", None)
    return (tag,) if isinstance(tag, str) else ()


def _tags(model: Root) -> tuple[LiteralValue, ...]:
    """The values of `source` or `method` in this kind of task or adapter; none if there is no such key."""
    fields = [model.model_fields[name] for name in TAGS if name in model.model_fields]
    return tuple(tag for field in fields for tag in _literals(field.annotation))


def _literals(annotation: Annotation) -> tuple[LiteralValue, ...]:
    return typing.get_args(annotation) if typing.get_origin(annotation) is Literal else ()


def _values(annotation: Annotation) -> tuple[Annotation, ...]:
    """The plain types of the values of a mapping of models; none for any other annotation."""
    kinds = tuple(_plain(typing.get_args(annotation)[1])) if typing.get_origin(annotation) is dict else ()
    return kinds if _models(kinds) else ()


def _plain(annotation: "Annotation | types.EllipsisType") -> Iterator[Annotation]:
    """The plain types inside Annotated, unions, and containers."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        yield from _plain(typing.get_args(annotation)[0])
    elif origin in (typing.Union, types.UnionType, tuple, list):
        for argument in typing.get_args(annotation):
            yield from _plain(argument)
    elif annotation is not Ellipsis:
        yield annotation
