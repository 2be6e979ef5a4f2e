from base64 import b64decode

import pytest

from app.webhooks import sign, verify

# The example that the reference libraries of Standard Webhooks publish: not made with the code under test.
KEY = b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
TIMESTAMP = 1614265330
BODY = b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="

OTHER_KEY = b"k" * 32


def test_a_signature_is_the_published_one() -> None:
    assert sign(BODY, ID, TIMESTAMP, KEY) == SIGNATURE
    assert verify(BODY, ID, TIMESTAMP, SIGNATURE, [KEY])


def test_every_signed_part_counts() -> None:
    assert not verify(BODY + b" ", ID, TIMESTAMP, SIGNATURE, [KEY])
    assert not verify(BODY, ID + "x", TIMESTAMP, SIGNATURE, [KEY])
    assert not verify(BODY, ID, TIMESTAMP + 1, SIGNATURE, [KEY])
    assert not verify(BODY, ID, TIMESTAMP, SIGNATURE, [OTHER_KEY])
    assert not verify(BODY, ID, TIMESTAMP, SIGNATURE, [])


@pytest.mark.parametrize(
    "signatures", ["", " ", "v1,", "v1", SIGNATURE[3:], "v1a," + SIGNATURE[3:], SIGNATURE[:-1], "v1,é"]
)
def test_what_is_no_signature_is_refused(signatures: str) -> None:
    assert not verify(BODY, ID, TIMESTAMP, signatures, [KEY])


def test_one_signature_by_one_key_of_several_is_enough() -> None:
    old_and_new = f"{sign(BODY, ID, TIMESTAMP, OTHER_KEY)} {SIGNATURE}"
    assert verify(BODY, ID, TIMESTAMP, old_and_new, [KEY])
    assert verify(BODY, ID, TIMESTAMP, SIGNATURE, [OTHER_KEY, KEY])


def test_a_signature_holds_for_one_division_of_the_signed_text_only() -> None:
    signature = sign(b"2.body", "a", 1, KEY)
    assert verify(b"2.body", "a", 1, signature, [KEY])
    assert not verify(b"body", "a.1", 2, signature, [KEY])
    with pytest.raises(ValueError, match="no full stop"):
        sign(b"body", "a.1", 2, KEY)
