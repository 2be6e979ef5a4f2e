import os
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import httpx2
from fastapi.testclient import TestClient
from sqlalchemy import Select, delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.database.models import Account, StoredFile
from app.main import create_app
from app.settings import Settings
from tests.owners import log_in, session_of

ANYBODY: dict[str, str] = {}
MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678_901, UTC)


def upload(client: TestClient, owner: dict[str, str], name: str = "a.txt") -> str:
    answer = client.post("/upload/", files={"file": (name, b"text")}, headers=owner)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def get(client: TestClient, owner: dict[str, str], path: str = "/files", **query: Any) -> Any:
    answer = client.get(path, headers=owner, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def ids(page: Any) -> list[str]:
    return [file["id"] for file in page["files"]]


def in_session(client: TestClient, call: Callable[[AsyncSession], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        async with client.app_state["sessions"].begin() as session:
            return await call(session)

    assert client.portal is not None
    return client.portal.call(run)


def rows(client: TestClient, query: Select[str]) -> list[str]:
    async def read(session: AsyncSession) -> list[str]:
        return list(await session.scalars(query))

    found: list[str] = in_session(client, read)
    return found


def set_all_to(client: TestClient, moment: datetime) -> None:
    statement = update(StoredFile).values(created_at=moment)
    in_session(client, lambda session: session.execute(statement))


def test_a_list_has_the_files_of_whoever_asks_and_of_nobody_else(client: TestClient) -> None:
    ada, bob = log_in(client, "ada"), log_in(client, "bob")
    first, _, _, last = (upload(client, owner) for owner in (ada, bob, ANYBODY, ada))
    answer = client.get("/files", headers=ada)
    assert answer.headers["cache-control"] == "no-store"
    page = answer.json()
    assert (ids(page), page["next"]) == ([last, first], None)
    file = page["files"][0]
    assert set(file) == {"id", "filename", "size", "content_type", "sha256", "created_at"}
    age = datetime.now(UTC) - datetime.fromisoformat(file["created_at"])
    assert 0 <= age.total_seconds() < 60


def test_pages_have_every_file_once_while_files_come_and_go(client: TestClient) -> None:
    ada = log_in(client, "ada")
    expected = [upload(client, ada) for _ in range(5)]
    first = get(client, ada, limit=2)
    upload(client, ada)
    client.delete(f"/files/{ids(first)[1]}", headers=ada)
    second = get(client, ada, limit=2, after=first["next"])
    third = get(client, ada, limit=2, after=second["next"])
    assert ids(first) + ids(second) + ids(third) == expected[::-1]
    assert third["next"] is None


def test_trap_an_offset_shows_a_file_twice_and_hides_another(client: TestClient) -> None:
    ada = log_in(client, "ada")
    oldest, *_ = [upload(client, ada) for _ in range(4)]

    def by_offset(offset: int) -> list[str]:
        return rows(
            client, select(StoredFile.id).order_by(StoredFile.created_at.desc()).offset(offset).limit(2)
        )

    first = by_offset(0)
    upload(client, ada)
    second = by_offset(2)
    assert first[1] == second[0]
    assert oldest not in first + second


def test_files_of_the_same_moment_are_not_lost_between_pages(client: TestClient) -> None:
    ada = log_in(client, "ada")
    expected = {upload(client, ada) for _ in range(5)}
    set_all_to(client, MOMENT)
    found, after = [], None
    for _ in range(5):
        page = get(client, ada, limit=1, **({"after": after} if after else {}))
        found += ids(page)
        after = page["next"]
    assert (set(found), len(found), after) == (expected, 5, None)


def test_trap_an_order_by_time_alone_loses_files_of_the_same_moment(client: TestClient) -> None:
    ada = log_in(client, "ada")
    expected = {upload(client, ada) for _ in range(3)}
    set_all_to(client, MOMENT)
    page = rows(client, select(StoredFile.id).order_by(StoredFile.created_at.desc()).limit(1))
    older = rows(client, select(StoredFile.id).where(StoredFile.created_at < MOMENT))
    assert len({*page, *older}) < len(expected)


def test_the_link_header_leads_from_page_to_page(client: TestClient) -> None:
    ada = log_in(client, "ada")
    expected = [upload(client, ada) for _ in range(3)]
    answer = client.get("/files?limit=1", headers=ada)
    found = ids(answer.json())
    while "next" in answer.links:
        answer = client.get(answer.links["next"]["url"], headers=ada)
        found += ids(answer.json())
    assert found == expected[::-1]


def test_a_page_has_a_limit_and_an_ill_formed_cursor_is_refused(client: TestClient) -> None:
    ada = log_in(client, "ada")
    for query in (
        {"limit": "101"},
        {"limit": "0"},
        {"after": "1"},
        {"after": "x-" + "a" * 32},
        {"after": "1" * 18 + "-" + "a" * 32},
        {"after": "\u0661-" + "a" * 32},
        {"after": "-1-" + "a" * 32},
        {"after": ""},
    ):
        assert client.get("/files", headers=ada, params=query).status_code == 422, query
    for moment in ("0", "9" * 17):
        assert client.get("/files", headers=ada, params={"after": f"{moment}-{'f' * 32}"}).status_code == 200


def test_a_deleted_file_is_gone_with_its_bytes_and_its_room(client: TestClient, settings: Settings) -> None:
    ada = log_in(client, "ada")
    file_id = upload(client, ada)
    assert file_id in os.listdir(settings.uploads_dir)
    answer = client.delete(f"/files/{file_id}", headers=ada)
    assert (answer.status_code, answer.content) == (204, b"")
    assert file_id not in os.listdir(settings.uploads_dir)
    assert rows(client, select(StoredFile.id)) == []
    assert client.get(f"/files/{file_id}", headers=ada).status_code == 404
    assert client.delete(f"/files/{file_id}", headers=ada).status_code == 404


def test_the_file_of_somebody_else_is_404_to_read_and_to_delete(client: TestClient) -> None:
    ada, bob = log_in(client, "ada"), log_in(client, "bob")
    file_id = upload(client, ada)
    for stranger in (bob, ANYBODY):
        theirs: list[httpx2.Response] = []
        for unknown in (file_id, "0" * 32, "a", "%00"):
            theirs.append(client.get(f"/files/{unknown}", headers=stranger))
            theirs.append(client.delete(f"/files/{unknown}", headers=stranger))
        assert {answer.status_code for answer in theirs} == {404}
        assert len({answer.json()["detail"] for answer in theirs}) == 1
    assert client.get(f"/files/{file_id}", headers=ada).content == b"text"


def test_trap_an_id_without_an_owner_in_the_query_is_a_permission_for_everybody(client: TestClient) -> None:
    file_id = upload(client, log_in(client, "ada"))
    assert rows(client, select(StoredFile.id).where(StoredFile.id == file_id)) == [file_id]


def test_a_file_without_an_owner_is_for_whoever_knows_its_id(client: TestClient) -> None:
    ada = log_in(client, "ada")
    file_id = upload(client, ANYBODY)
    for reader in (ANYBODY, ada):
        assert client.get(f"/files/{file_id}", headers=reader).content == b"text"
    assert client.delete(f"/files/{file_id}", headers=ada).status_code == 204
    assert ids(get(client, ada)) == []


def test_a_file_without_an_owner_may_be_shorter_than_that_of_an_account(settings: Settings) -> None:
    files = settings.files.model_copy(update={"anonymous_max_size": 4})
    with TestClient(create_app(settings.model_copy(update={"files": files}))) as client:
        owners = {"nobody": ANYBODY, "ada": log_in(client, "ada")}
        for path in ("/upload/", "/upload/spooled"):
            for owner, content, status in (
                ("nobody", b"text", 201),
                ("nobody", b"texts", 413),
                ("nobody", b"x" * 100_000, 413),
                ("ada", b"x" * 100_000, 201),
            ):
                answer = client.post(path, files={"file": ("a.txt", content)}, headers=owners[owner])
                assert answer.status_code == status, answer.text


def test_the_quota_without_an_owner_is_first_come_first_served_and_takes_nothing_from_accounts(
    settings: Settings,
) -> None:
    files = settings.files.model_copy(update={"anonymous_quota": 8})
    with TestClient(create_app(settings.model_copy(update={"files": files}))) as client:
        for _ in range(2):
            upload(client, ANYBODY)
        assert client.post("/upload/", files={"file": ("a.txt", b"text")}).status_code == 507
        upload(client, log_in(client, "ada"))


def test_a_bad_credential_is_refused_and_not_passed_over(client: TestClient) -> None:
    file_id = upload(client, ANYBODY)
    for bad in ({"Authorization": "Bearer x"}, {"Cookie": "__Host-session=x"}):
        assert client.get(f"/files/{file_id}", headers=bad).status_code == 401
        answer = client.post(
            "/upload/", files={"file": ("a.txt", b"text")}, headers={**bad, "Origin": "http://testserver"}
        )
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")


def test_nor_is_a_token_whose_account_is_gone(client: TestClient) -> None:
    ada = log_in(client, "ada")
    in_session(client, lambda session: session.execute(delete(Account)))
    answer = client.post("/upload/", files={"file": ("a.txt", b"text")}, headers=ada)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, 'Bearer error="invalid_token"')


def test_with_a_cookie_only_our_own_pages_may_delete(client: TestClient) -> None:
    cookie = session_of(client, "ada")
    file_id = upload(client, {**cookie, "Origin": "http://testserver"})
    for page in ({}, {"Origin": "http://evil.example"}, {"Origin": "null"}):
        assert client.delete(f"/files/{file_id}", headers={**cookie, **page}).status_code == 403
    assert client.get(f"/files/{file_id}", headers=cookie).content == b"text"
    own = {**cookie, "Origin": "http://testserver"}
    assert client.delete(f"/files/{file_id}", headers=own).status_code == 204


def test_without_a_credential_there_is_no_list(client: TestClient) -> None:
    answer = client.get("/files")
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")


def test_where_everybody_must_say_who_they_are_nothing_is_without_an_owner(settings: Settings) -> None:
    files = settings.files.model_copy(update={"anonymous": False})
    with TestClient(create_app(settings.model_copy(update={"files": files}))) as client:
        assert client.post("/upload/", files={"file": ("a.txt", b"text")}).status_code == 401
        assert client.get("/files/" + "0" * 32).status_code == 401
        upload(client, log_in(client, "ada"))
