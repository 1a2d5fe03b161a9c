"""Sections that grew after runs were stored with them: what is read, what is written, and what a run goes on with."""

import json
from typing import Any, ClassVar

import pytest
from pydantic import ValidationError

from cluster.schema import NEW, WHOLE, Frozen, Grown


class Inner(Frozen):
    weight: float = 30.0
    size: int = 8


class Item(Grown):
    added: ClassVar[tuple[str, ...]] = ("colour",)
    before: ClassVar[dict[str, Any]] = {"colour": "grey"}

    name: str
    colour: str = "red"


class Section(Grown):
    added: ClassVar[tuple[str, ...]] = ("kind", "inner", "plain")
    before: ClassVar[dict[str, Any]] = {"kind": "old", "inner": Inner(weight=0.0)}

    rank: int = 4
    kind: str = "new"
    plain: int | None = None
    inner: Inner = Inner()


class Whole(Grown):
    added: ClassVar[tuple[str, ...]] = ("late",)

    section: Section = Section()
    late: Section = Section()
    items: tuple[Item, ...] = ()


BEFORE = {"rank": 4, "kind": "old", "plain": None, "inner": {"weight": 0.0, "size": 8}}
TODAY = {"rank": 4, "kind": "new", "plain": None, "inner": {"weight": 30.0, "size": 8}}


def whole(section: Frozen) -> Any:
    return section.model_dump(mode="json", context=WHOLE)


def test_a_key_that_a_stored_section_lacks_is_as_before_and_a_new_one_has_its_default() -> None:
    stored = {"section": {"rank": 4}, "items": [{"name": "a"}]}
    assert whole(Whole.stored(stored)) == {
        "section": BEFORE, "late": BEFORE, "items": [{"name": "a", "colour": "grey"}],
    }  # fmt: skip
    assert whole(Whole.model_validate(stored)) == {
        "section": TODAY, "late": TODAY, "items": [{"name": "a", "colour": "red"}],
    }  # fmt: skip


@pytest.mark.parametrize("stored", [
    {"section": {"rank": 4}, "items": [{"name": "a"}]},
    {"section": {"rank": 4, "kind": "new", "inner": {"weight": 30.0, "size": 8}}, "items": []},
    {"section": {"rank": 1, "inner": {"weight": 0.0, "size": 9}, "plain": 3}, "late": {"rank": 5}, "items": []},
])  # fmt: skip
def test_what_was_stored_is_written_as_it_was(stored: dict[str, Any]) -> None:
    """Byte by byte, so that old runs and new ones compare equal."""
    assert json.dumps(Whole.stored(stored).model_dump(mode="json"), sort_keys=True) == json.dumps(
        stored, sort_keys=True
    )


def test_what_is_written_is_read_as_it_was() -> None:
    for section in (Whole(), Whole(section=Section(kind="old")), Whole(items=(Item(name="b", colour="grey"),))):
        assert Whole.stored(section.model_dump(mode="json")) == section
        assert Whole.model_validate(section.model_dump(mode="json", context=NEW)) == section
        assert Whole.model_validate(whole(section)) == section
    assert Section().model_dump(context=NEW) == {"rank": 4}
    assert Section().model_dump() == {"rank": 4, "kind": "new", "inner": {"weight": 30.0, "size": 8}}


def test_a_run_goes_on_with_what_neither_gives_as_it_was_begun() -> None:
    stored = {"section": {"rank": 4, "kind": "other"}, "items": [{"name": "a"}]}
    given = {"section": {"rank": 5}, "items": [{"name": "a"}, {"name": "b"}]}
    found = whole(Whole.model_validate(given).going_on(stored))
    assert found == {
        "section": {**BEFORE, "rank": 5, "kind": "new"},  # the log has `kind`, so its change is seen
        "late": BEFORE,
        "items": [{"name": "a", "colour": "grey"}, {"name": "b", "colour": "red"}],
    }
    explicit = Whole.model_validate({"section": {"kind": "new", "inner": {"size": 9}}, "late": {"kind": "new"}})
    found = whole(explicit.going_on({"section": {"rank": 4}}))
    assert found["section"] == {**BEFORE, "kind": "new", "inner": {"weight": 30.0, "size": 9}}
    assert found["late"] == {**BEFORE, "kind": "new"}


def test_unknown_keys_are_refused_in_what_is_stored_too() -> None:
    with pytest.raises(ValidationError, match="colour"):
        Section.stored({"colour": 1})
