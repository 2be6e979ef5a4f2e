from collections.abc import AsyncIterator

import pytest

from app.storage.pieces import PIECE_SIZE, pieces_of

pytestmark = pytest.mark.anyio


async def chunks_of(*chunks: bytes, error: Exception | None = None) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
    if error is not None:
        raise error


async def pieces(*chunks: bytes, size: int = 10) -> list[bytes]:
    return [piece async for piece in pieces_of(chunks_of(*chunks), size)]


async def test_the_first_bytes_come_alone_and_the_others_gathered() -> None:
    assert await pieces(b"abc", b"defg", b"hijk", b"lm", b"n") == [b"abc", b"defghijklm", b"n"]


async def test_chunks_without_bytes_are_no_pieces() -> None:
    assert await pieces() == await pieces(b"", b"") == []
    assert await pieces(b"", b"a", b"", b"b", b"") == [b"a", b"b"]
    assert await pieces(b"a", b"") == [b"a"]


async def test_a_piece_has_its_size_or_a_chunk_more() -> None:
    chunk = bytes(60_000)
    sizes = [len(piece) async for piece in pieces_of(chunks_of(*[chunk] * 40))]
    assert sum(sizes) == 40 * len(chunk)
    assert sizes[0] == len(chunk)
    assert all(PIECE_SIZE <= size < PIECE_SIZE + len(chunk) for size in sizes[1:-1])


async def test_what_came_before_an_error_comes_before_it() -> None:
    seen: list[bytes] = []
    with pytest.raises(ValueError, match="torn"):
        async for piece in pieces_of(chunks_of(b"a", b"b", b"c", error=ValueError("torn"))):
            seen.append(piece)
    assert seen == [b"a", b"bc"]


async def test_what_arrives_is_passed_on_before_the_next_is_asked_for() -> None:
    asked: list[int] = []

    async def chunks() -> AsyncIterator[bytes]:
        for number in range(5):
            asked.append(number)
            yield b"ab"

    gathered = pieces_of(chunks(), 4)
    assert [await anext(gathered) for _ in range(2)] == [b"ab", b"abab"]
    assert asked == [0, 1, 2]
    await gathered.aclose()
