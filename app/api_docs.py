"""`/docs` and `/redoc` without a foreign host, under a policy that forbids inline scripts.

FastAPI's own pages load their scripts from a CDN and start them by an inline script: they stay blank
without the internet, and under a strict `Content-Security-Policy`.
"""

from importlib.resources import files

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates

from app.middleware.security_headers import CONTENT_SECURITY_POLICY
from app.security.bearer import OPEN_SCOPES

# ReDoc writes style elements and searches in a worker that it makes from a blob. Swagger UI needs neither.
REDOC_POLICY = f"{CONTENT_SECURITY_POLICY}; style-src 'self' 'unsafe-inline'; worker-src blob:"

# What the app is given for FastAPI's own page, ours reads from the app.
SWAGGER_UI = {"deepLinking": True, "showExtensions": True, "showCommonExtensions": True}
SWAGGER_UI_LOGIN = {"scopes": list(OPEN_SCOPES)}
"""The scopes that the dialog has ticked. A client secret has no place here, for everybody reads it."""


def install(app: FastAPI, templates: Jinja2Templates) -> None:
    # The package carries the scripts; its app class is not used.
    app.mount("/_docs", StaticFiles(directory=str(files("fastapi_offline") / "static")), name="docs")
    router = APIRouter(include_in_schema=False)

    @router.get("/docs", response_class=HTMLResponse)
    def swagger_ui(request: Request) -> HTMLResponse:
        return templates.TemplateResponse(request, "swagger.html")

    @router.get("/redoc", response_class=HTMLResponse)
    def redoc(request: Request) -> HTMLResponse:
        headers = {"Content-Security-Policy": REDOC_POLICY}
        return templates.TemplateResponse(request, "redoc.html", headers=headers)

    app.include_router(router)
