"""The tree of errors: what its drawing says of each is what a client is told."""

import inspect
import re

import pytest

import app.errors
from app.errors import BadImage, DeadlinePassed, Draining, Overloaded, PoseError, RateLimited, told_apart

DRAWN = re.findall(r"── (\w+) +(\d{3}) ", inspect.getdoc(app.errors) or "")


def leaves(kind: type[PoseError] = PoseError) -> list[type[PoseError]]:
    """Every kind of error that is raised: those in this module that no other is made of."""
    kinds = [below for below in kind.__subclasses__() if below.__module__ == app.errors.__name__]
    return [leaf for below in kinds for leaf in leaves(below)] or [kind]


def test_the_drawing_shows_every_error_with_its_status() -> None:
    assert {kind.__name__: str(kind.status) for kind in leaves()} == dict(DRAWN)


def test_every_error_has_a_title_and_a_reason_of_its_own() -> None:
    assert len({kind.title for kind in leaves()}) == len({kind.reason for kind in leaves()}) == len(DRAWN)


@pytest.mark.parametrize(("error", "retry_after"), [
    (Overloaded(), "1"), (Draining(), "5"), (DeadlinePassed(), "1"), (Overloaded(retry_after_s=60), "60"),
    (RateLimited("three a minute", retry_after_s=20), "20"),
])  # fmt: skip
def test_who_may_come_back_is_told_when(error: PoseError, retry_after: str) -> None:
    assert error.headers() == {"Retry-After": retry_after}


def test_a_problem_is_told_as_rfc_9457_has_it() -> None:
    assert BadImage("cut short").headers() == {}
    assert BadImage("cut short").problem() == {
        "type": "about:blank",
        "title": "Not a readable picture",
        "status": 400,
        "detail": "cut short",
        "reason": "bad_image",
    }


@pytest.mark.parametrize(("number", "count", "told"), [
    (1, 1, "cut short"), (1, 2, "picture 1 of 2: cut short"), (3, 3, "picture 3 of 3: cut short"),
])  # fmt: skip
def test_a_picture_is_told_apart_where_there_are_several(number: int, count: int, told: str) -> None:
    with pytest.raises(BadImage) as raised, told_apart(number, count):
        raise BadImage("cut short")
    assert raised.value.problem()["detail"] == told
