"""The names of files, which are shown and never become a path."""

import re
import unicodedata

MAX_NAME_BYTES = 255


def display_name(name: str) -> str:
    """The last part of `name`, in NFC, without what has no shape of its own, in at most 255 bytes of UTF-8.

    Among these are controls, lone surrogates, and the marks that turn the direction of writing, which
    make `exe.pdf` of a name that ends in `fdp.exe`.
    """
    # The ends are kept, for they have the extension. To sort marks takes the square of their number.
    last = re.split(r"[/\\]", name[-4 * MAX_NAME_BYTES :])[-1]
    shaped = "".join(c for c in last if c.isprintable() or c.isspace())
    # Only now, for what was between a letter and its accent is gone.
    normal = unicodedata.normalize("NFC", " ".join(shaped.split()))
    return normal.encode()[-MAX_NAME_BYTES:].decode(errors="ignore").lstrip()
