"""The table of contents: what the service is made of, in the order in which a request meets it."""

from fastapi import FastAPI
from fastapi.middleware import Middleware

from app import api_docs, catalogue, explorer
from app.errors import PROBLEM_RESPONSES, add_exception_handlers
from app.lifespan import open_state
from app.middleware.access_log import AccessLogMiddleware
from app.middleware.body_deadline import BodyDeadlineMiddleware
from app.middleware.compression import CompressionMiddleware
from app.middleware.cross_origin import cross_origin
from app.middleware.form_charset import FormCharsetMiddleware
from app.middleware.head import HeadMiddleware
from app.middleware.known_host import KnownHostMiddleware
from app.middleware.lingering_close import LingeringCloseMiddleware
from app.middleware.problems import ProblemMiddleware
from app.middleware.request_id import RequestIdMiddleware
from app.middleware.security_headers import SecurityHeadersMiddleware
from app.middleware.stalled_sockets import StalledSocketMiddleware
from app.middleware.timing import TimingMiddleware
from app.middleware.unhandled import UnhandledErrorMiddleware
from app.middleware.when_header import WhenHeaderMiddleware
from app.openapi import DocumentedApp, operation_id
from app.routers.composition.mounting import tenant_hosts
from app.routers.composition.webhooks import webhooks
from app.settings import Settings
from app.telemetry import Telemetry


def create_app(settings: Settings | None = None) -> FastAPI:
    """The service with these settings, or with those of the environment."""
    settings = settings or Settings()
    telemetry = Telemetry(settings.telemetry)
    app = DocumentedApp(
        title="FastAPI reference",
        summary="Every advanced feature of FastAPI, running, readable in one file, and proven by a test.",
        routes=[tenant_hosts],  # before all paths, that of the document too: no path of ours is theirs
        lifespan=open_state(settings, telemetry),
        telemetry=telemetry.config,
        middleware=middleware(settings),
        responses=PROBLEM_RESPONSES,
        generate_unique_id_function=operation_id,
        webhooks=webhooks,
        openapi_external_docs={"url": "https://fastapi.tiangolo.com/", "description": "FastAPI's own"},
        openapi_url="/openapi.json" if settings.docs else None,
        docs_url=None,  # the explorer serves both, from an installed package instead of a CDN
        redoc_url=None,
        swagger_ui_parameters=api_docs.SWAGGER_UI,
        swagger_ui_init_oauth=api_docs.SWAGGER_UI_LOGIN,
        redirect_slashes=False,  # the redirect would be made from the caller's Host header
    )
    app.openapi_version = "3.2.0"  # the first that can describe a stream
    add_exception_handlers(app)
    # Limits go on the routers and not on the app: the app's own limit stands outside all
    # middleware, so its 413 would have no request id, no CORS headers, and another shape.
    body_limits = {
        "files/uploads": settings.max_upload_body_size,
        "files/resumable": settings.files.max_resumable_size,
        "graphql/schema": settings.graphql_max_body_size,
    }
    for page in catalogue.PAGES:
        app.include_router(page.router, max_body_size=body_limits.get(page.path, settings.max_body_size))
    explorer.install(app, settings)
    return app


def middleware(settings: Settings) -> list[Middleware]:
    """Outermost first. A request passes downwards, its answer upwards."""
    return [
        # Outermost, for it finds the transport by the server's own `receive`.
        Middleware(StalledSocketMiddleware, settings.ws_send_timeout, settings.send_timeout),
        # Whoever answers below without a look at the body, the client can read it.
        Middleware(LingeringCloseMiddleware, size=settings.linger_size, seconds=settings.linger_timeout),
        Middleware(RequestIdMiddleware),  # before the rest, so that all log and answer with the id
        Middleware(AccessLogMiddleware),  # sees every outcome, also the refusals made below
        Middleware(TimingMiddleware),  # so do the response headers
        Middleware(SecurityHeadersMiddleware),
        Middleware(ProblemMiddleware),  # above those that refuse in plain text: CORS, hosts, body limit
        # Above all that can fail, so that a page of an allowed origin can read the error.
        Middleware(WhenHeaderMiddleware, header=b"origin", inner=cross_origin(settings.cors_origins)),
        Middleware(KnownHostMiddleware, allowed_hosts=settings.allowed_hosts),
        # Below CORS, so that a page can read the 500; above gzip, which keeps back the head of a stream
        # until its first chunk, so that a stream that fails before it is a 500 and not a torn 200.
        Middleware(UnhandledErrorMiddleware),
        Middleware(HeadMiddleware),  # above gzip, so that HEAD has the very headers of GET
        Middleware(WhenHeaderMiddleware, header=b"accept-encoding", inner=Middleware(CompressionMiddleware)),
        # Next to the readers too, whichever of them asks for a form: a route, a mounted app, a tenant's.
        Middleware(FormCharsetMiddleware),
        Middleware(BodyDeadlineMiddleware, seconds=settings.body_timeout, rate=settings.body_min_rate),
    ]


app = create_app()
