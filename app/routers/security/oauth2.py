"""OAuth2: passwords, tokens and scopes

A client sends a name and a password to `/token`, once, and gets two tokens. The access token is a signed
text that says who and for what; it is good for ten minutes and read without the database. The refresh
token is random, is good for one call of `/refresh`, and brings the next two. `Security(current_user,
scopes=[...])` asks for scopes, and `app/security/bearer.py` compares them: FastAPI collects the scopes of all
dependencies, the outermost first, but does not look at them. `CurrentUser` in `app/dependencies.py`
takes any access token, of a request or of a socket.

RFC 9700, section 2.4, bans this flow, for the client sees the password: where there is an identity provider,
or a client of somebody else, use the authorization code with PKCE. What is left for it is a service that
keeps its own accounts, and your own clients of it. None is registered: `client_id` is not looked at.

Everybody may register, and gets the scope `me`. No request gives more; who runs the service does:

    UPDATE accounts SET scopes = 'me accounts' WHERE username = 'ada'

It holds from the next login on, and what is taken away is gone with the next refresh. Until then, and
after a logout too, an access token is good: that is the price of not asking the database. `/me` asks it.

A refusal is problem details like all others here, and has the members `error` and `error_description` for
OAuth clients. A client that insists on the media type `application/json` (RFC 6749, section 5.2) sees the
status only.

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
- Without a token it is a 401 and without a scope a 403 that names the scopes the outermost first.
- A token that another key, algorithm, issuer or audience made or that lacks a claim is refused.
- A new key signs while tokens of the old one are still read.
- Where a login is optional no token is nobody and a bad one is a 401.
- A socket is opened by the same token and refused before it is accepted.
- A wrong password and an unknown name cost the same work.
- A hash of old parameters is replaced at the next login.
- A refresh token works once and its second use ends the login.
- Of many refreshes at once with one token at most one wins.
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

from collections.abc import Iterable
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Depends, Form, Query, Request, Response, Security
from fastapi.security import OAuth2PasswordRequestFormStrict
from pydantic import BaseModel, ConfigDict, Field, SecretStr
from sqlalchemy import select

from app.database.models import Account
from app.dependencies import AccessTokensDep, AccountsDep, LoginsDep, SessionDep
from app.security.access_tokens import AuthenticatedUser
from app.security.accounts import USERNAME
from app.security.bearer import OPEN_SCOPES, bearer, current_user
from app.security.oauth_errors import NO_STORE, InvalidToken, OAuthError, TokenRoute
from app.security.passwords import MAX_LENGTH, MIN_LENGTH
from app.security.throttle import network_of

MAX_TOKEN_LENGTH = 4_000
PRINTABLE = r"^[A-Za-z0-9._~+/=-]+$"
BEARER: Final = "bearer"
PAGE_SIZE = 100


async def forbid_caching(response: Response) -> None:
    response.headers.update(NO_STORE)


router = APIRouter(prefix="/security/oauth2", tags=["security"])
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


def granted(requested: Iterable[str], allowed: Iterable[str]) -> str:
    """The scopes of a new token. Refused is refused: to leave one out in silence surprises a client later."""
    scopes = dict.fromkeys(requested)
    if not scopes.keys() <= set(allowed):
        raise OAuthError("invalid_scope", "A scope is not known, or not given to this account.")
    return " ".join(scopes)


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
    scope = granted(form.scopes or OPEN_SCOPES, account.scopes.split())
    return TokenAnswer(
        access_token=access_tokens.issue(account, scope),
        expires_in=access_tokens.seconds,
        refresh_token=await logins.begin(account, scope, network),
        scope=scope,
    )


class RefreshForm(BaseModel):
    grant_type: Literal["refresh_token"]
    refresh_token: Token


@tokens.post("/refresh")
async def refresh(
    form: Annotated[RefreshForm, Form()], access_tokens: AccessTokensDep, logins: LoginsDep
) -> TokenAnswer:
    """The next two tokens, with the scopes of the login that the account still has."""
    account, login_scope, refresh_token = await logins.refresh(form.refresh_token)
    still_given = account.scopes.split()
    scope = " ".join(each for each in login_scope.split() if each in still_given)
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


router.include_router(tokens)


async def current_account(
    user: Annotated[AuthenticatedUser, Security(current_user, scopes=["me"])], session: SessionDep
) -> Account:
    """The row of who calls, as it is now. Its token is of no use when the account is gone."""
    account = await session.get(Account, user.id)
    if account is None:
        raise InvalidToken
    return account


@router.get("/me")
async def read_me(account: Annotated[Account, Security(current_account)]) -> PublicAccount:
    """The account of the caller. Needs the scope `me`."""
    return PublicAccount.of(account)


@router.get("/accounts", dependencies=[Security(current_account, scopes=["accounts"])])
async def list_accounts(
    session: SessionDep, after: Annotated[str, Query(pattern=r"^[a-z0-9._-]{0,32}$")] = ""
) -> list[PublicAccount]:
    """Accounts by name, a page after the name `after`. Needs the scopes `accounts` and `me`."""
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
