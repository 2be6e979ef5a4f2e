"""OAuth2: passwords, tokens and scopes

A client sends a name and a password to `/token`, once, and gets two tokens. The access token is a signed
text that says who and for what; it is good for ten minutes and read without the database. The refresh
token is random, is good for one call of `/refresh`, and brings the next two; its second use ends the login.
Two tabs that refresh at once, or a retry after an answer was lost, are a second use too: let a client
refresh one at a time, and log in again when it is refused.

In `app/security`, `bearer.py` compares scopes, `access_tokens.py` signs and reads access tokens, `logins.py`
rotates refresh tokens and logs the account of one that came twice, `accounts.py` finds who has a name and a
password, `passwords.py` hashes a few at a time, `throttle.py` counts what failed, and `oauth_errors.py` words
the refusals. Services that share a key need an `APP_SECURITY__ISSUER` each.

FastAPI collects the scopes of all dependencies, the outermost first, but does not compare them. Your own
go into `SCOPES` of `bearer.py`, into `OPEN_SCOPES` too if everybody may have them, and where they are needed:

    Writer = Annotated[AuthenticatedUser, Security(current_user, scopes=["notes:write"])]
    async def add_note(writer: Writer, note: Note) -> None: ...

`CurrentUser` in `app/dependencies.py` takes any access token, of a request or of a socket. Before you store
a row under the id of a user, use `current_account` with the same scopes: the account may be gone, and the
foreign key would make a 500 of it. A body is read before all this: JSON that is broken is a 422 without a
token as well.

RFC 9700, section 2.4, bans this flow, for the client sees the password. If you begin anew, let an identity
provider log people in, by the authorization code with PKCE, and let your service read its tokens only.
What is left for this flow is a service that keeps its own accounts, and your own clients of it. None is
registered: `client_id` is not looked at.

Everybody may register, and gets the scope `me`. No request gives more; who runs the service does, in its
database, `$APP_DATA_DIR/app.sqlite3` by default:

    UPDATE accounts SET scopes = 'me accounts' WHERE username = 'ada'

It holds from the next login on, and what is taken away is gone with the next refresh. Until then, and
after a logout too, an access token is good: that is the price of not asking the database. `/me` asks it.

A refusal is problem details as all others are, with the members `error` and `error_description` for OAuth
clients. One that insists on the media type `application/json` (RFC 6749, section 5.2) sees the status only.

Ten wrong passwords a minute are all for an account, and thirty for an address, in each process. A stranger
who fails on purpose keeps an owner out as long as he goes on and no minute longer, and only at addresses
where no login of the owner lives; who is logged in stays so. A count that somebody has to reset would lock
owners out for good, and no count of the account would let many addresses guess together.

## The trap

The tutorial grants whatever scopes the form asks for, and answers a name that is not there without a hash:
so much sooner that names can be listed. `jwt.decode` takes a token without `exp` for ever, unless `exp` is
required. Two requests that read a refresh token and then mark it as used both win. And an error raised in the
transaction that ends a stolen login takes the end back.

## What is proven

- A name and a password bring an access token and a refresh token that no cache may store.
- A refusal is problem details that also have the error of OAuth.
- A token has only scopes that were asked for and that the account has.
- Nobody gets a scope by asking but by the documented statement.
- Of what can be read no token is a 401 and no scope a 403 that names the scopes the outermost first.
- Where the account is asked for one that is gone is a 401 though its token is good.
- A token that another key, algorithm, issuer or audience made or that lacks a claim is refused.
- Of two services that share a key neither takes the tokens of the other.
- A new key signs while tokens of the old one are still read.
- Where a login is optional no token is nobody and a bad one is a 401.
- A socket is opened by the same token and refused before it is accepted.
- A wrong password and an unknown name cost the same work.
- A hash of old parameters is replaced at the next login.
- A refresh token works once and its second use ends the login.
- A refresh may ask for fewer scopes and what it is refused does not use its token up.
- Of many refreshes at once with one token at most one wins and the losers end the login.
- A logout ends the login and a token that is not known is no error.
- An account has so many logins and the oldest ends.
- Too many attempts are refused with the time to wait.
- Strangers who fail do not keep out who has logged in from there before.

## Read more

`OAuth2PasswordBearer(tokenUrl=, refreshUrl=, scopes=)`, `Security(f, scopes=[...])`,
`SecurityScopes.scope_str`, `OAuth2PasswordRequestFormStrict`.
[OAuth2 with password and JWT](https://fastapi.tiangolo.com/tutorial/security/oauth2-jwt/) and
[OAuth2 scopes](https://fastapi.tiangolo.com/advanced/security/oauth2-scopes/) in the FastAPI documentation.
"""

from typing import Annotated, Final, Literal

from fastapi import APIRouter, Depends, Form, Query, Request, Response, Security
from fastapi.security import OAuth2PasswordRequestFormStrict
from pydantic import BaseModel, ConfigDict, Field, SecretStr
from sqlalchemy import select

from app.database.models import Account
from app.dependencies import AccessTokensDep, AccountsDep, CurrentUser, LoginsDep, SessionDep
from app.security.access_tokens import AuthenticatedUser
from app.security.accounts import USERNAME
from app.security.bearer import OPEN_SCOPES, PATH, bearer
from app.security.logins import granted
from app.security.oauth_errors import NO_STORE, InvalidToken, OAuthError, TokenRoute
from app.security.passwords import MAX_LENGTH, MIN_LENGTH
from app.security.throttle import network_of

MAX_TOKEN_LENGTH = 4_000
PRINTABLE = r"^[A-Za-z0-9._~+/=-]+$"
BEARER: Final = "bearer"
PAGE_SIZE = 100


async def forbid_caching(response: Response) -> None:
    response.headers.update(NO_STORE)


router = APIRouter(prefix=f"/{PATH}", tags=["security"])
tokens = APIRouter(route_class=TokenRoute, dependencies=[Depends(forbid_caching)])
Token = Annotated[str, Field(pattern=PRINTABLE, max_length=MAX_TOKEN_LENGTH)]


class Greeting(BaseModel):
    message: str


class NewAccount(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"username": "ada", "password": "correct horse battery staple"}]},
    )

    username: Annotated[str, Field(pattern=USERNAME)]
    password: Annotated[SecretStr, Field(min_length=MIN_LENGTH, max_length=MAX_LENGTH)]


class PublicAccount(BaseModel):
    id: str
    username: str
    scopes: list[str]

    @classmethod
    def of(cls, account: Account) -> "PublicAccount":
        return cls(id=account.id, username=account.username, scopes=account.scopes.split())


@router.post("/accounts", status_code=201)
async def register(new: NewAccount, accounts: AccountsDep, request: Request) -> PublicAccount:
    """Makes an account with the scopes that everybody may have."""
    account = await accounts.register(
        new.username, new.password.get_secret_value(), " ".join(OPEN_SCOPES), network_of(request)
    )
    return PublicAccount.of(account)


class TokenAnswer(BaseModel):
    """As RFC 6749 has it, section 5.1."""

    access_token: str
    token_type: Literal["bearer"] = BEARER
    expires_in: int
    refresh_token: str
    scope: str


@tokens.post("/token")
async def log_in(
    form: Annotated[OAuth2PasswordRequestFormStrict, Depends()],
    accounts: AccountsDep,
    access_tokens: AccessTokensDep,
    logins: LoginsDep,
    request: Request,
) -> TokenAnswer:
    """Two tokens for a name and a password. Without `scope` they are good for what everybody may do."""
    network = network_of(request)
    account = await accounts.authenticate(form.username, form.password, network)
    given = account.scopes.split()
    scope = granted(form.scopes or [scope for scope in OPEN_SCOPES if scope in given], given)
    return TokenAnswer(
        access_token=access_tokens.issue(account, scope),
        expires_in=access_tokens.seconds,
        refresh_token=await logins.begin(account, scope, network),
        scope=scope,
    )


class RefreshForm(BaseModel):
    grant_type: Literal["refresh_token"]
    refresh_token: Token
    scope: str = ""


@tokens.post("/refresh")
async def refresh(
    form: Annotated[RefreshForm, Form()], access_tokens: AccessTokensDep, logins: LoginsDep
) -> TokenAnswer:
    """The next two tokens. `scope` narrows the access token; without it, it has all of the login."""
    account, scope, refresh_token = await logins.refresh(form.refresh_token, form.scope.split())
    return TokenAnswer(
        access_token=access_tokens.issue(account, scope),
        expires_in=access_tokens.seconds,
        refresh_token=refresh_token,
        scope=scope,
    )


class RevocationForm(BaseModel):
    token: Token


@tokens.post("/revoke")
async def log_out(form: Annotated[RevocationForm, Form()], logins: LoginsDep) -> None:
    """Ends the login of a refresh token (RFC 7009). An unknown one is no error: nothing is left of it."""
    if form.token.count(".") == 2:
        raise OAuthError("unsupported_token_type", "An access token ends by itself, and not sooner.")
    await logins.end(form.token)


# A token may be sent with three bytes for each of its MAX_TOKEN_LENGTH signs.
router.include_router(tokens, form_limits={"max_files": 0, "max_fields": 20, "max_part_size": 16_000})


async def current_account(user: CurrentUser, session: SessionDep) -> Account:
    """The row of who calls, as it is now. Its token is of no use when the account is gone."""
    account = await session.get(Account, user.id)
    if account is None:
        raise InvalidToken
    return account


@router.get("/me")
async def read_me(account: Annotated[Account, Security(current_account, scopes=["me"])]) -> PublicAccount:
    """The account of the caller. Needs the scope `me`."""
    return PublicAccount.of(account)


@router.get("/accounts", dependencies=[Security(current_account, scopes=["accounts"])])
async def list_accounts(
    session: SessionDep, after: Annotated[str, Query(pattern=r"^[a-z0-9._-]{0,32}$")] = ""
) -> list[PublicAccount]:
    """Accounts by name, a page after the name `after`. Needs the scope `accounts`."""
    query = select(Account).where(Account.username > after).order_by(Account.username).limit(PAGE_SIZE)
    return [PublicAccount.of(account) for account in await session.scalars(query)]


async def optional_user(
    token: Annotated[str | None, Depends(bearer(auto_error=False))], access_tokens: AccessTokensDep
) -> AuthenticatedUser | None:
    """Nobody without a token. A bad token is an error here too: its owner believes to be logged in."""
    return None if token is None else access_tokens.read(token)


# The empty requirement says to the readers of the document that the token may be left out.
@router.get("/greeting", openapi_extra={"security": [{}]})
async def greet(user: Annotated[AuthenticatedUser | None, Depends(optional_user)]) -> Greeting:
    """Greets by name, or a stranger."""
    return Greeting(message=f"Hello {user.username if user else 'stranger'}")
