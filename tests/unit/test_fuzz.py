"""Whatever a document holds: a councilor, no councilor, or a verdict that its owner can act on."""

from random import Random
from statistics import quantiles
from time import thread_time

from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain.councilor import (
    Councilor,
    InvalidCouncilor,
    NotCouncilor,
    SchedulePolicy,
    parse_councilor,
)
from tests.documents import anything, nearly_right

POLICY = SchedulePolicy()
MOST_SECONDS = 0.001


def assert_is_read(document: dict[str, object]) -> None:
    match parse_councilor(document, POLICY):
        case InvalidCouncilor(problem=problem):
            assert problem.field
            assert problem.message.isprintable()
            assert problem.hint.isprintable()
            assert 0 < len(problem.message) < 400
            assert len(problem.hint) < 400
        case Councilor(schedule=schedule):
            assert schedule.explanation
        case NotCouncilor():
            assert document.get("is_councilor") in (None, False)


@settings(max_examples=1_500, deadline=None)
@given(st.randoms(use_true_random=False))
def test_nearly_right_documents_are_read(random: Random) -> None:
    assert_is_read(nearly_right(random, wrong=0.9))


@settings(max_examples=500, deadline=None)
@given(st.randoms(use_true_random=False))
def test_any_document_is_read(random: Random) -> None:
    document = anything(random, depth=4)
    assert_is_read({"is_councilor": True, "councilor_config": document, "agent_id": "a"})
    if isinstance(document, dict):
        assert_is_read(document)


def test_reading_takes_less_than_a_millisecond() -> None:
    """Of the processor's time, in 99 of 100."""
    random, taken = Random("time"), list[float]()
    documents = [nearly_right(random, wrong=0.9) for _ in range(5_000)]
    for document in documents:
        began = thread_time()
        parse_councilor(document, POLICY)
        taken.append(thread_time() - began)
    assert quantiles(taken, n=100)[98] < MOST_SECONDS
