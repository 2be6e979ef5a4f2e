"""The keys that sign what clients carry: session cookies, tokens, webhooks.

Several keys allow a change without a break: the first signs, all of them verify. Put the next key in front,
wait until what the last one signed has expired, then take that one away.
"""

import hmac
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from app.settings import Settings

KEY_BYTES = 32


@dataclass(frozen=True)
class SigningKeys:
    keys: tuple[bytes, ...] = field(repr=False)

    def for_purpose(self, purpose: str) -> list[bytes]:
        """A key of 32 bytes made from each of the keys, newest first.

        Each purpose has its own, so that what was signed for one is worth nothing for another
        (RFC 5869 calls this expansion, with `purpose` as its `info`).
        """
        return [hmac.digest(key, purpose.encode() + b"\x01", "sha256") for key in self.keys]


def open_keys(settings: Settings) -> SigningKeys:
    """Those of the settings, or else one that is made at the first start and kept in `signing.key`."""
    given = settings.security.signing_keys
    if given:
        return SigningKeys(tuple(key.get_secret_value().encode() for key in given))
    return SigningKeys((_kept_key(settings.data_dir / "signing.key"),))


def _kept_key(path: Path) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(secrets.token_bytes(KEY_BYTES))
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, path)  # whole or not at all, and of several processes the first one's stays
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise ValueError(f"{path.name} is not a key of {KEY_BYTES} bytes; delete it to make another")
    return key
