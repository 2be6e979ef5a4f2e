import hashlib

import pytest

from app.errors import ContentTooLarge, InsufficientStorage, UnsupportedMediaType
from app.storage.content import ContentCheck
from app.storage.inspection import Inspection
from tests.samples import FILES

TOO_LONG = InsufficientStorage("There is no room left.")


def inspection_of(name: str, most: int) -> Inspection:
    return Inspection(ContentCheck(name, 100), most, TOO_LONG)


@pytest.mark.parametrize("name", FILES)
def test_length_digest_and_type_are_those_of_the_whole_file(name: str) -> None:
    content, media_type = FILES[name]
    inspection = inspection_of(name, len(content))
    for at in range(0, len(content), 7):
        inspection.feed(content[at : at + 7])
    inspection.finish()
    assert inspection.size == len(content)
    assert inspection.sha256 == hashlib.sha256(content).hexdigest()
    assert inspection.content_type == media_type


def test_one_byte_too_many_is_refused_in_the_way_that_the_caller_said() -> None:
    inspection = inspection_of("a.txt", 3)
    inspection.feed(b"abc")
    with pytest.raises(InsufficientStorage) as refused:
        inspection.feed(b"d")
    assert refused.value is TOO_LONG


def test_a_file_that_is_too_long_is_not_looked_at() -> None:
    inspection = Inspection(ContentCheck("a.txt", 100), 3, ContentTooLarge())
    with pytest.raises(ContentTooLarge):
        inspection.feed(b"\0" * 4)


def test_other_content_is_refused_while_it_comes_and_what_is_not_whole_at_the_end() -> None:
    with pytest.raises(UnsupportedMediaType):
        inspection_of("a.png", 100).feed(b"<html>")
    half = inspection_of("a.png", 100)
    half.feed(b"\x89PNG")
    with pytest.raises(UnsupportedMediaType):
        half.finish()
    assert half.content_type == ""
