"""GraphQL over HTTP: what a request must look like, and what the status of its answer says.

The rules are those of [GraphQL over HTTP](https://graphql.github.io/graphql-over-http/draft/).
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

from cross_web import AsyncHTTPRequestAdapter
from fastapi import Depends, Header
from fastapi.requests import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field, ValidationError
from strawberry.fastapi import BaseContext
from strawberry.fastapi import GraphQLRouter as StrawberryRouter
from strawberry.http import GraphQLHTTPResponse, GraphQLRequestData
from strawberry.types import ExecutionResult

from app.errors import BadRequest, UnsupportedMediaType
from app.graphql.errors import Schema

GRAPHQL_RESPONSE = "application/graphql-response+json"

Context = TypeVar("Context", bound=BaseContext)


class GraphQLRequest(BaseModel):
    """The body of `POST /graphql`."""

    query: Annotated[str, Field(min_length=1, examples=["{ user(id: 1) { id name email } }"])]
    variables: dict[str, Any] | None = None
    operation_name: Annotated[str | None, Field(alias="operationName")] = None
    extensions: dict[str, Any] | None = None


async def negotiate(
    response: Response,
    content_type: Annotated[str, Header(include_in_schema=False)] = "",
    accept: Annotated[str, Header(include_in_schema=False)] = "",
) -> None:
    """Refuses the content types that a foreign page may send without asking, and picks that of the answer."""
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise UnsupportedMediaType("Send the query as application/json.")
    response.media_type = GRAPHQL_RESPONSE if GRAPHQL_RESPONSE in accept else "application/json"


class GraphQLRouter(StrawberryRouter[Context, None]):
    """`POST` with JSON, and nothing else: no `GET`, no socket, no form, no web page from a CDN."""

    def __init__(
        self, schema: Schema, path: str, context_getter: Callable[..., Awaitable[Context]], tag: str
    ) -> None:
        super().__init__(
            schema,
            path,
            context_getter=context_getter,
            graphql_ide=None,
            tags=[tag],
            dependencies=[Depends(negotiate)],
        )
        self.routes = [
            route for route in self.routes if isinstance(route, APIRoute) and route.methods == {"POST"}
        ]
        for route in self.routes:
            assert isinstance(route, APIRoute)
            body = {"application/json": {"schema": GraphQLRequest.model_json_schema()}}
            route.operation_id = f"{tag}_run"
            route.summary = "Run a query or a mutation"
            route.description = "What the query asks for, in `data`; what went wrong with it, in `errors`."
            route.openapi_extra = {"requestBody": {"required": True, "content": body}}

    async def parse_http_body(self, request: AsyncHTTPRequestAdapter) -> GraphQLRequestData:
        """strawberry itself answers 500 to a body that is not UTF-8, is nested too deeply, or is a number."""
        try:
            body = GraphQLRequest.model_validate_json(await request.get_body())
        except ValidationError:
            raise BadRequest(
                'Send JSON like {"query": "…", "variables": {}, "operationName": "…"}.'
            ) from None
        return GraphQLRequestData(body.query, body.variables, body.operation_name, body.extensions)

    async def process_result(self, request: Request, result: ExecutionResult) -> GraphQLHTTPResponse:
        """Leaves `data` out when nothing was executed: its being there says that something was."""
        answer = await super().process_result(request, result)
        if result.data is None and all(error.path is None for error in result.errors or ()):
            del answer["data"]
        return answer

    def create_response(
        self, response_data: GraphQLHTTPResponse | list[GraphQLHTTPResponse], sub_response: Response
    ) -> Response:
        """A refused query is 400 for clients that know its media type; the older ones expect 200."""
        refused = "data" not in response_data and sub_response.media_type == GRAPHQL_RESPONSE
        return Response(
            self.encode_json(response_data),
            status_code=400 if refused else 200,
            headers=dict(sub_response.headers),
            media_type=sub_response.media_type,
        )
