"""The tables of the README, made from what they describe. `make fmt` writes them; a test compares them."""

from pathlib import Path
from typing import Any

from pydantic import SecretStr

from app.catalogue import GROUPS, read_page
from app.settings import ROOT, Settings, fields_of

README = ROOT / "README.md"


def pages() -> str:
    rows = ["| page | what it shows | claims | traps run |", "|---|---|---|---|"]
    for group in GROUPS.values():
        for page in group:
            text = read_page(page)
            source = f"[{page.path}](app/routers/{page.path}.py)"
            rows.append(f"| {source} | {text.title} | {len(text.claims)} | {len(text.traps)} |")
    return "\n".join(rows)


def settings() -> str:
    rows = ["| setting | default | what it is |", "|---|---|---|"]
    for name, field, default in fields_of(Settings.model_construct()):
        rows.append(f"| `{name}` | {_shown(default)} | {field.description} |")
    return "\n".join(rows)


def _shown(default: Any) -> str:
    match default:
        case None | "" | () | SecretStr():
            return "empty"
        case Path():
            return f"`{default.relative_to(ROOT)}/`"
        case tuple():
            return "<br>".join(f"`{item}`" for item in default)
        case int() if not isinstance(default, bool):
            return f"`{default:_}`"
        case _:
            return f"`{default}`"


TABLES = {"pages": pages, "settings": settings}


def with_tables(text: str) -> str:
    """`text` with each table between its two comments made anew."""
    for name, table in TABLES.items():
        before, start, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- /{name} -->")
        assert start and end, f"README has no place for the table of {name}"
        text = f"{before}{start}{table()}\n{end}{after}"
    return text


if __name__ == "__main__":
    README.write_text(with_tables(README.read_text()))
