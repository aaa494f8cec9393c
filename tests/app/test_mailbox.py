"""One slot for a stream's frames, in which the newest wins."""

import pytest
from test_batcher import asynchronous

from app.mailbox import Frame, Mailbox
from app.schemas import StreamOptions


@asynchronous
async def test_the_newest_frame_is_taken_and_those_before_it_are_counted() -> None:
    mailbox = Mailbox()
    assert mailbox.empty
    for number in range(3):
        mailbox.put(Frame(number, b"", 0.0, StreamOptions(max_people=number + 1)))
    frame = await mailbox.take()
    assert (frame.number, frame.options.max_people, mailbox.dropped, mailbox.empty) == (2, 3, 2, True)


@pytest.mark.parametrize("asked", [(), (0,), (1,), (2,), (0, 2)])
def test_a_look_of_the_detector_that_was_asked_for_is_not_dropped_with_its_frame(asked: tuple[int, ...]) -> None:
    @asynchronous
    async def looks() -> None:
        mailbox = Mailbox()
        for number in range(3):
            mailbox.put(Frame(number, b"", 0.0, StreamOptions(detect=number in asked)))
        assert (await mailbox.take()).options.detect == bool(asked)

    looks()
