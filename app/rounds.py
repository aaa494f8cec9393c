"""How many looks at a large picture its tiles make; arithmetic alone, as the settings need it and are read often."""


def levels(tiles: int) -> list[int]:
    """Tiles a side in each round after the look at the whole: 2, 4, 8 and so on below `tiles` (1 up), and those."""
    return [2**power for power in range(1, tiles) if 2**power < tiles] + [tiles] * (tiles > 1)


def most_looks(tiles: int) -> int:
    """How many looks a picture gets at the most."""
    return 1 + sum(count**2 for count in levels(tiles))
