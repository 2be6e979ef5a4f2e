"""One address, as it may stand in a header and in front of a mail server."""

from typing import Annotated

from email_validator import EmailNotValidError, validate_email
from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError


def to_ascii(text: str) -> str:
    """The address with its domain as the network knows it: `a@xn--bcher-kva.example` for `a@bücher.example`.

    Before the `@` only ASCII: whether a server takes more is not known before it is asked. And no encoded
    word (RFC 2047): whoever reads the header would decode `=?utf-8?q?a=2Cb?=@example.com` to two recipients.
    """
    try:
        address = validate_email(text, allow_smtputf8=False, check_deliverability=False).ascii_email
    except EmailNotValidError:
        address = None  # its text repeats parts of the input
    if address is None or "=?" in address:
        raise PydanticCustomError("mail_address", "Give one e-mail address, in ASCII before the @")
    return address


MailAddress = Annotated[
    str, Field(max_length=254, json_schema_extra={"format": "email"}), AfterValidator(to_ascii)
]
