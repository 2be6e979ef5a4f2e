"""The rows of a new database, so that every example of the service answers."""

from sqlalchemy.ext.asyncio import AsyncSession

from app.database.models import Item, User

# Without ids: the database counts them from 1, and a sequence of Postgres goes on only from those it gave.
USERS = (
    ("Ada Lovelace", "ada@example.com", 36),
    ("Alan Turing", "alan@example.com", 41),
    ("Grace Hopper", "grace@example.com", 85),
)

# The last number is the place of the owner in USERS.
# Ids of all sorts, the last one hostile on purpose: it shows that the HTML page escapes them.
ITEMS = (
    ("1", "Analytical Engine", 1_200_000, 0),
    ("2", "Punched cards", 450, 0),
    ("3", "Bombe", 100_000, 1),
    ("42", "Compiler", 5_200, 2),
    ("foo", "Foo", 5_020, 0),
    ("bar", "Bar", 6_200, 1),
    ("baz", "Baz", 5_020, 2),
    ("<i>", "Tom & <Jerry>", 100, 2),
)


def seed(session: AsyncSession) -> None:
    users = [User(name=name, email=email, age=age) for name, email, age in USERS]
    session.add_all(users)
    session.add_all(
        Item(id=id, name=name, price_cents=price, owner=users[owner]) for id, name, price, owner in ITEMS
    )
