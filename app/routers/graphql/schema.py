"""A GraphQL schema

`POST /graphql` answers queries over the same tables as the rest of the service: `{ user(id: 1) { id name
email } }`, lists by pages, users with their items, items with their owner, and two mutations. Use GraphQL
where clients differ in what they need and ask for it in one request; where they do not, plain routes are
simpler to cache, to limit and to log.

The types are classes with `@strawberry.type`; the input of mutations is validated by pydantic models with
`@strawberry.pydantic.input`. `GraphQLRouter(schema, context_getter=)` takes the context from a FastAPI
dependency, so that it can have whatever an endpoint can have. Related rows come through a `DataLoader`, which
collects the keys of all rows and asks for them at once. Every loader belongs to one request, and opens a
session of its own: resolvers run at the same time, and a session serves one at a time.

Three small files hold what every GraphQL service needs: `app/graphql/limits.py` refuses a query that asks
for too much, `errors.py` hides what a resolver raised, `router.py` speaks HTTP. `APP_DOCS=false` also turns
introspection off, and the suggestions that spell the schema out without it.

There is no authorization here, and the data is public: whoever can reach the service reads every user, with
the e-mail address, and every item, may change the name and the age of any user, and may add items to any.

## The trap

`GraphQLRouter(strawberry.Schema(Query))` is all that tutorials show. It runs 30,000 aliases in one request,
holds the event loop for as long, sends the text of any exception to the client, logs each query with its
passwords, and loads an editor from a CDN. The cures at hand have traps of their own: `QueryDepthLimiter` and
`MaxAliasesLimiter` follow fragments for 2ⁿ steps, `MaskErrors` hides from developers which field they
mistyped, and a `DataLoader` in a module never forgets a row. A `def` resolver runs on the event loop, not
in a thread as a `def` endpoint does.

## What is proven

- A query gets the fields it names.
- Lists are bounded pages.
- Related rows cost one statement a level, not one a row.
- Loaders forget everything after the request.
- Two fields of one query never share a session.
- Invalid input is refused with the place and the reason.
- A name is held to the rule of `POST /users`.
- There is no authorization: whoever asks reads each address and changes any user.
- An age can be changed and is never told.
- A patch tells an absent field from a null.
- Items are refused once the table is full, however many are added at once.
- A query beyond a limit is refused before it is validated.
- A fragment is weighed once, however often it is spread.
- Every resolver is asynchronous.
- An unexpected error is hidden from the client and logged once.
- Syntax and validation errors are shown.
- The log never holds a query.
- Only JSON by POST is read.
- A body that is no GraphQL request is a problem.
- A request without an operation to run is refused as any other query.
- A limit counts what a variable says, or its default.
- A client of the standard media type gets the standard status.
- Introspection and suggestions are off where the docs are off.
- The OpenAPI document describes the request.

## Read more

`strawberry.fastapi.GraphQLRouter`, `strawberry.dataloader.DataLoader`, `strawberry.Maybe`,
`strawberry.pydantic.input`, `strawberry.extensions.SchemaExtension`, `strawberry.Schema.process_errors`.
[GraphQL](https://fastapi.tiangolo.com/how-to/graphql/) in the FastAPI documentation,
[strawberry](https://strawberry.rocks/docs) itself,
[GraphQL over HTTP](https://graphql.github.io/graphql-over-http/draft/).
"""

from collections import defaultdict
from typing import Annotated, Self
from uuid import uuid4

import strawberry
import strawberry.pydantic
from graphql import GraphQLError
from pydantic import BaseModel, Field
from sqlalchemy import func, select
from strawberry.dataloader import DataLoader
from strawberry.fastapi import BaseContext

from app.database import models
from app.database.room import ensure_room
from app.dependencies import StateDep
from app.errors import NotFound
from app.graphql.errors import Schema
from app.graphql.limits import Limits
from app.graphql.router import GraphQLRouter
from app.lifespan import State
from app.routers.validation.models import AGE_OF_CONSENT, MAX_AGE, Name, NameOfThing


class Context(BaseContext):
    """What the resolvers of one request share."""

    def __init__(self, state: State) -> None:
        super().__init__()
        self.settings = state["settings"]
        self.sessions = state["sessions"]
        self.users = DataLoader(self.load_users)
        self.items_of = DataLoader(self.load_items_of)

    async def load_users(self, ids: list[int]) -> list[models.User | None]:
        async with self.sessions() as session:
            users = await session.scalars(select(models.User).where(models.User.id.in_(ids)))
            found = {user.id: user for user in users}
        return [found.get(id) for id in ids]

    async def load_items_of(self, keys: list[tuple[int, int]]) -> list[list[models.Item]]:
        """The first items of each `(owner, limit)`, all in one statement."""
        position = func.row_number().over(partition_by=models.Item.owner_id, order_by=models.Item.id)
        pages = (
            select(models.Item.id, position.label("position"))
            .where(models.Item.owner_id.in_({owner for owner, _ in keys}))
            .subquery()
        )
        query = (
            select(models.Item)
            .join(pages, models.Item.id == pages.c.id)
            .where(pages.c.position <= max(limit for _, limit in keys))
            .order_by(models.Item.id)
        )
        items: defaultdict[int, list[models.Item]] = defaultdict(list)
        async with self.sessions() as session:
            for item in await session.scalars(query):
                items[item.owner_id].append(item)
        return [items[owner][:limit] for owner, limit in keys]


async def get_context(state: StateDep) -> Context:
    return Context(state)


Info = strawberry.Info[Context, None]


def check_page(info: Info, limit: int, skip: int = 0) -> None:
    most = info.context.settings.graphql_max_page_size
    if not 1 <= limit <= most or skip < 0:
        raise GraphQLError(f"`limit` is from 1 to {most}, and `skip` is not negative.")


@strawberry.type
class User:
    """Without the age: it may be changed by a patch, but is told to nobody."""

    id: int
    name: str
    email: str

    @classmethod
    def of(cls, row: models.User) -> Self:
        return cls(id=row.id, name=row.name, email=row.email)

    @strawberry.field
    async def items(self, info: Info, limit: int = 10) -> list["Item"]:
        check_page(info, limit)
        return [Item.of(row) for row in await info.context.items_of.load((self.id, limit))]


@strawberry.type
class Item:
    id: strawberry.ID
    name: str
    price_cents: int
    owner_id: strawberry.Private[int]

    @classmethod
    def of(cls, row: models.Item) -> Self:
        return cls(
            id=strawberry.ID(row.id), name=row.name, price_cents=row.price_cents, owner_id=row.owner_id
        )

    @strawberry.field
    async def owner(self, info: Info) -> User:
        row = await info.context.users.load(self.owner_id)
        assert row  # a foreign key
        return User.of(row)


@strawberry.type
class Query:
    @strawberry.field
    async def user(self, info: Info, id: int) -> User | None:
        row = await info.context.users.load(id)
        return User.of(row) if row else None

    @strawberry.field
    async def users(self, info: Info, limit: int = 10, skip: int = 0) -> list[User]:
        check_page(info, limit, skip)
        query = select(models.User).order_by(models.User.id).limit(limit).offset(skip)
        async with info.context.sessions() as session:
            return [User.of(row) for row in await session.scalars(query)]

    @strawberry.field
    async def item(self, info: Info, id: strawberry.ID) -> Item | None:
        async with info.context.sessions() as session:
            row = await session.get(models.Item, id)
        return Item.of(row) if row else None

    @strawberry.field
    async def items(self, info: Info, limit: int = 10, skip: int = 0) -> list[Item]:
        check_page(info, limit, skip)
        query = select(models.Item).order_by(models.Item.id).limit(limit).offset(skip)
        async with info.context.sessions() as session:
            return [Item.of(row) for row in await session.scalars(query)]


@strawberry.pydantic.input
class NewItem(BaseModel):
    name: Annotated[NameOfThing, Field(min_length=1)]
    price_cents: Annotated[int, Field(ge=0)]
    owner_id: int


@strawberry.pydantic.input
class UserPatch(BaseModel):
    """A field that is absent stays as it is; `age: null` forgets the age, and `name: null` is refused."""

    name: strawberry.Maybe[Name] = None
    age: strawberry.Maybe[Annotated[int, Field(ge=AGE_OF_CONSENT, le=MAX_AGE)] | None] = None


@strawberry.type
class Mutation:
    @strawberry.mutation
    async def create_item(self, info: Info, input: NewItem) -> Item:
        async with info.context.sessions.begin() as session:
            await ensure_room(session, models.Item, info.context.settings.max_items)
            if await session.get(models.User, input.owner_id) is None:
                raise NotFound("There is no user with this id.")
            item = models.Item(id=uuid4().hex, **input.model_dump())
            session.add(item)
        info.context.items_of.clear_all()
        return Item.of(item)

    @strawberry.mutation
    async def update_user(self, info: Info, id: int, patch: UserPatch) -> User:
        async with info.context.sessions.begin() as session:
            user = await session.get(models.User, id)
            if user is None:
                raise NotFound("There is no user with this id.")
            for field, value in patch.model_dump(exclude_unset=True).items():
                setattr(user, field, value)
        info.context.users.clear_all()
        return User.of(user)


schema = Schema(Query, Mutation, extensions=[Limits])
router = GraphQLRouter(schema, "/graphql", get_context, tag="graphql")
