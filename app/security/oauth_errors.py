"""Refusals in the words of OAuth 2, inside the problem details of the house."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from app.errors import AppError, Forbidden, Unauthorized

NO_STORE = {"Cache-Control": "no-store"}


class OAuthError(AppError):
    """What a token endpoint refuses (RFC 6749, section 5.2): `error` is for clients, `detail` for people."""

    status = 400

    def __init__(self, error: str, detail: str) -> None:
        super().__init__(detail, NO_STORE)
        self.members = {"error": error, "error_description": detail}


class InvalidToken(Unauthorized):
    """One answer for every kind of bad access token (RFC 6750, section 3.1)."""

    def __init__(self) -> None:
        super().__init__(
            "The access token is not valid, or no longer.",
            {"WWW-Authenticate": 'Bearer error="invalid_token"'},
        )


class InsufficientScope(Forbidden):
    """The token is good, but not for this; `scope` names all that is needed."""

    def __init__(self, scope: str) -> None:
        super().__init__(
            "The access token was not issued for this.",
            {"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{scope}"'},
        )


class TokenRoute(APIRoute):
    """A route on which a form that is not valid is a 400 with an `error`, as OAuth clients expect it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_form(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as exc:
                places = {error["loc"][-1]: error["type"] for error in exc.errors()}
                if places.get("grant_type", "missing") != "missing":
                    raise OAuthError("unsupported_grant_type", "This grant type is not known here.") from None
                detail = "A parameter of the form is missing, too long or not known."
                raise OAuthError("invalid_request", detail) from None
            except HTTPException as exc:  # a form that is broken or over its limits
                if exc.status_code != 400 or isinstance(exc.__cause__, OSError):
                    raise
                raise OAuthError("invalid_request", exc.detail) from None

        return handle_form
