"""What a GraphQL client learns of an error, and what the log does."""

import logging
from typing import Any

import strawberry
from graphql import GraphQLError
from strawberry.schema.exceptions import CannotGetOperationTypeError
from strawberry.types import ExecutionContext, ExecutionResult

from app.errors import AppError
from app.middleware.request_id import request_id

UNEXPECTED = "Something went wrong. The log has the details, under the request id."

logger = logging.getLogger("app.graphql")


class Schema(strawberry.Schema):
    """Hides what a resolver raised, unless it was meant for the client; syntax and validation errors stay."""

    async def execute(self, *args: Any, **kwargs: Any) -> ExecutionResult:
        """strawberry would make an HTTP error of a name that no operation has, with that name in it."""
        try:
            return await super().execute(*args, **kwargs)
        except CannotGetOperationTypeError:
            return ExecutionResult(None, [GraphQLError("The query has no operation, or none of this name.")])

    def process_errors(
        self, errors: list[GraphQLError], execution_context: ExecutionContext | None = None
    ) -> None:
        """Called once for each operation, on every transport, before its errors are sent.

        It does not call `super`, which logs each error with the whole query in it, passwords included.
        The client's mistakes are not logged: the access log has a line for the request.
        """
        unexpected = [error for error in errors if is_unexpected(error)]
        for error in unexpected:
            error.message = UNEXPECTED
            error.extensions = {"request_id": request_id.get()}
        if unexpected:
            # One traceback for the operation, however many rows met the same exception.
            logger.error(
                "GraphQL operation failed",
                exc_info=unexpected[0].original_error,
                extra={"fields": {"unexpected_errors": len(unexpected)}},
            )
        if execution_context and not execution_context.context.settings.docs:
            for error in errors:
                error.message, _, _ = error.message.partition(" Did you mean ")


def is_unexpected(error: GraphQLError) -> bool:
    original = error.original_error
    return original is not None and not isinstance(original, GraphQLError | AppError)
