"""The reference shows all of FastAPI, or says what it leaves out. It is how it notices a new release."""

import pytest

from tests.surface import LEFT_OUT, surface, used, used_in

IMPORTS = "from fastapi import APIRouter, Depends, FastAPI, Query, Security\nrouter = APIRouter()\n"


@pytest.fixture(scope="module")
def shown() -> set[str]:
    return used() & surface()


def test_every_name_and_parameter_of_fastapi_is_used_or_left_out_with_a_reason(shown: set[str]) -> None:
    assert sorted(surface() - shown - LEFT_OUT.keys()) == []


def test_nothing_is_left_out_that_is_used_or_that_fastapi_does_not_have(shown: set[str]) -> None:
    assert sorted(LEFT_OUT.keys() & shown) == []
    assert sorted(LEFT_OUT.keys() - surface()) == []
    assert [name for name, reason in LEFT_OUT.items() if len(reason) < 20] == []


def test_at_least_95_percent_are_used(shown: set[str]) -> None:
    assert len(shown) / len(surface()) >= 0.95


@pytest.mark.parametrize(
    ("source", "counted"),
    [
        ("", set()),
        ("from fastapi import File", set()),
        ("from fastapi import File as Part\nPart()", {"fastapi.File"}),
        ("from fastapi.param_functions import File\nFile(gt=1)", {"fastapi.File", "parameter(gt=)"}),
        ("Depends(print, scope='request')", {"fastapi.Depends", "Depends(dependency=)", "Depends(scope=)"}),
        ("Query(1, title='a')", {"fastapi.Query", "parameter(default=)", "parameter(title=)"}),
        ("from app.openapi import DocumentedApp\nDocumentedApp(title='a')", {"FastAPI(title=)"}),
        ("@router.get('/', tags=['a'])\ndef f(): ...", {"app.get()", "route(path=)", "route(tags=)"}),
        ("router.get('/', tags=['a'])", {"app.get()"}),
        ("router.include_router(1, prefix='/a')", {"app.include_router()", "include_router(prefix=)"}),
        ("def File(gt): ...\nFile(gt=1)", set()),
    ],
)
def test_what_counts_as_a_use(source: str, counted: set[str]) -> None:
    found = used_in(f"{IMPORTS}{source}") - used_in(IMPORTS)
    assert found & {*counted, "fastapi.File"} == counted
