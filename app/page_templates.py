"""The templates of web pages: escaped, strict about names, and told what every page shows."""

from pathlib import Path

from fastapi import Request
from fastapi.templating import Jinja2Templates
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from app.middleware.request_id import request_id

TEMPLATES = Path(__file__).parent / "templates"


def load_templates() -> Jinja2Templates:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        # An environment of one's own escapes nothing unless it is told to.
        autoescape=select_autoescape(default=True, disabled_extensions=["txt"]),
        undefined=StrictUndefined,
    )
    return Jinja2Templates(env=environment, context_processors=[describe_answer])


def describe_answer(request: Request) -> dict[str, str]:
    """For the foot of every page: who reports a fault can name the lines of the log."""
    return {"request_id": request_id.get()}
