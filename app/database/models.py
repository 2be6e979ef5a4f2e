"""The tables. Related rows are never loaded behind one's back: `lazy="raise"` makes that an error.

SQLite keeps no zone: a `DateTime(timezone=True)` is read back as a naive time, in UTC. Ours are compared
inside the database; what stands in an answer needs `.replace(tzinfo=UTC)` first.
"""

from datetime import UTC, datetime

from sqlalchemy import BigInteger, DateTime, ForeignKey, Index, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    email: Mapped[str] = mapped_column(String(254), unique=True)
    age: Mapped[int | None]
    items: Mapped[list["Item"]] = relationship(back_populates="owner", lazy="raise")


class Item(Base):
    __tablename__ = "items"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    price_cents: Mapped[int]
    owner_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    owner: Mapped[User] = relationship(back_populates="items", lazy="raise")


class StoredFile(Base):
    """What is known of a file. Its bytes lie in the storage under `id`; `filename` is for display only.

    The row comes before the first byte, and goes after the last one: so whatever stops the service, the
    table names all there is in the storage, and `expires_at` says when it may be swept.
    """

    __tablename__ = "files"
    # All files of an owner, and any page of them in its order.
    __table_args__ = (Index("ix_files_owner_id_created_at_id", "owner_id", "created_at", "id"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    # RESTRICT: an account goes after its files. With their rows nobody would know of their bytes.
    owner_id: Mapped[str | None] = mapped_column(ForeignKey("accounts.id", ondelete="RESTRICT"))
    state: Mapped[str] = mapped_column(String(16))
    """Only a `ready` file is to be read. See `app.storage.files`."""
    filename: Mapped[str] = mapped_column(String(255))
    content_type: Mapped[str] = mapped_column(String(100), default="")
    size: Mapped[int] = mapped_column(BigInteger)
    """Of a file that is not ready: the room that is kept for it."""
    sha256: Mapped[str] = mapped_column(String(64), default="")
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=lambda: datetime.now(UTC))
    expires_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True), index=True)


class Account(Base):
    """Who may log in. The id is never given to anybody else, so that no old token becomes another's."""

    __tablename__ = "accounts"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    username: Mapped[str] = mapped_column(String(32), unique=True)
    password_hash: Mapped[str] = mapped_column(String(255))
    scopes: Mapped[str] = mapped_column(String(200))


class Login(Base):
    """A family of refresh tokens. `token_hash` is that of the newest; those before it were used."""

    __tablename__ = "logins"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id", ondelete="CASCADE"), index=True)
    token_hash: Mapped[str] = mapped_column(String(64))
    scope: Mapped[str] = mapped_column(String(200))
    network: Mapped[str] = mapped_column(String(64))
    expires_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), index=True)


class WebSession(Base):
    """A login of a browser. The id itself stands in the cookie only."""

    __tablename__ = "web_sessions"

    id_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id", ondelete="CASCADE"), index=True)
    expires_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), index=True)


class Ticket(Base):
    """A ticket for one socket, not used yet. The ticket itself stands in its URL only."""

    __tablename__ = "tickets"

    id_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id", ondelete="CASCADE"), index=True)
    user_expires_at: Mapped[float]
    issued_at: Mapped[float]
    expires_at: Mapped[float] = mapped_column(index=True)


class ReceivedWebhook(Base):
    """A message that was received. The numbers are the order in which messages came."""

    __tablename__ = "received_webhooks"

    number: Mapped[int] = mapped_column(primary_key=True)
    message_id: Mapped[str] = mapped_column(String(64), unique=True)
