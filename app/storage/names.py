"""The names of files, which are shown and never become a path."""

import re
import unicodedata

MAX_NAME_BYTES = 255


def display_name(name: str) -> str:
    """The last part of `name`, without what has no shape of its own, in at most 255 bytes of UTF-8.

    Among these are controls, lone surrogates, and the marks that turn the direction of writing, which
    make `exe.pdf` of a name that ends in `fdp.exe`.
    """
    last = re.split(r"[/\\]", unicodedata.normalize("NFC", name))[-1]
    shown = "".join(c for c in " ".join(last.split()) if c.isprintable())
    # The end is kept, for it has the extension.
    return shown.encode()[-MAX_NAME_BYTES:].decode(errors="ignore")
