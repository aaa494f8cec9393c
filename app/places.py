"""How much is held decoded at a time: a picture may be a thousand times its bytes, and a rush would fill the memory."""

from contextlib import AbstractAsyncContextManager

from app.room import Room

SMALL_PIXELS = 1 << 21  # a Full HD frame, and a little more
LABEL = "place"  # beside the networks' names, in the metrics of what waits


class Places:
    """Places for `small` pictures of up to SMALL_PIXELS, and for `large` ones, of at most so many `pixels` together.

    Neither waits for the other: the frames of a stream go on while photographs of 50 megapixels wait for one another.
    """

    def __init__(self, *, small: int, large: int, pixels: int, max_waiting: int) -> None:
        self._least_pixels = pixels // large
        self._small = Room(small, max_waiting=max_waiting, label=LABEL)
        self._large = Room(pixels, max_waiting=max_waiting, label=LABEL)

    def take(self, pixels: int, deadline: float | None = None) -> AbstractAsyncContextManager[None]:
        """A place for a picture of `pixels` while the block runs. Raises Overloaded (`Room.take`)."""
        if pixels <= SMALL_PIXELS:
            return self._small.take(1, deadline)
        return self._large.take(max(pixels, self._least_pixels), deadline)
