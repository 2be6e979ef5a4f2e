"""The rows of a new database, so that every example of the service answers."""

from sqlalchemy.ext.asyncio import AsyncSession

from app.database.models import Item, User

USERS = (
    (1, "Ada Lovelace", "ada@example.com", 36),
    (2, "Alan Turing", "alan@example.com", 41),
    (3, "Grace Hopper", "grace@example.com", 85),
)

# Ids of all sorts, the last one hostile on purpose: it shows that the HTML page escapes them.
ITEMS = (
    ("1", "Analytical Engine", 1_200_000, 1),
    ("2", "Punched cards", 450, 1),
    ("3", "Bombe", 100_000, 2),
    ("42", "Compiler", 5_200, 3),
    ("foo", "Foo", 5_020, 1),
    ("bar", "Bar", 6_200, 2),
    ("baz", "Baz", 5_020, 3),
    ("<i>", "Tom & <Jerry>", 100, 3),
)


def seed(session: AsyncSession) -> None:
    session.add_all(User(id=id, name=name, email=email, age=age) for id, name, email, age in USERS)
    session.add_all(
        Item(id=id, name=name, price_cents=price, owner_id=owner) for id, name, price, owner in ITEMS
    )
