"""Signatures of webhooks, as [Standard Webhooks](https://www.standardwebhooks.com) has them.

The sender signs the id of the message, the time of this attempt and the bytes of the body, and sends the
three as `webhook-id`, `webhook-timestamp` and `webhook-signature`. The id stays the same when a message is
sent again, the time does not.
"""

import hmac
from base64 import b64encode
from collections.abc import Iterable


def sign(body: bytes, id: str, timestamp: int, key: bytes) -> str:
    """A value of `webhook-signature`: `v1,` and the HMAC-SHA256 in base64.

    While keys change, a sender joins the signatures of the new and the old one by a space.
    """
    if "." in id:
        # It would sign another message too: `a.1` at 2 reads like `a` at 1 with a body that begins with `2.`.
        raise ValueError("the id of a webhook has no full stop")
    content = b"%s.%d.%s" % (id.encode(), timestamp, body)
    return "v1," + b64encode(hmac.digest(key, content, "sha256")).decode()


def verify(body: bytes, id: str, timestamp: int, signatures: str, keys: Iterable[bytes]) -> bool:
    """Whether one of the signatures, which spaces separate, is made with one of the keys.

    It says nothing of the time: whoever verifies also refuses a timestamp that is too far from now.
    """
    if "." in id:
        return False
    # Bytes, for `compare_digest` raises when a text is not ASCII; and it, because `==` takes the longer
    # the more of a guess is right.
    given = [signature.encode() for signature in signatures.split()]
    expected = [sign(body, id, timestamp, key).encode() for key in keys]
    return any(hmac.compare_digest(one, other) for one in given for other in expected)
