"""Every setting and every limit of the service, in one place.

Values come from the environment with the prefix `APP_` (`APP_MAX_UPLOAD_SIZE=5000000`); lists are JSON
(`APP_CORS_ORIGINS='["https://app.example"]'`), and those of a group have its name before them
(`APP_SECURITY__SIGNING_KEYS`). A secret may be a file of that name in the folder `APP_SECRETS_DIR`. Nothing
here is read at import: `create_app` builds one `Settings`, and a wrong value stops the start with the name
of the setting.

Sizes are bytes, times are seconds.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    NestedSecretsSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from app.mail_address import MailAddress

ROOT = Path(__file__).parent.parent

ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:]+\])(:\d{1,5})?")
"""What a browser sends, letter by letter (RFC 6454, section 6.2)."""

BUCKET = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9_-][A-Za-z0-9._-]*)*/?")

MULTIPART_OVERHEAD = 64 * 1024
"""What the boundaries and part headers of an upload may add to the file itself."""

LATE_SECONDS = 600
"""What a request may take beyond the arrival of its body."""

ORPHAN_SECONDS = 30 * 24 * 3_600
"""How old an unfinished file on the disk is that no row can name any more. Not made from the settings, for
those of the last start may have been others."""


Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def _setting(description: str) -> Any:
    return Field(description=description)


class SecuritySettings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    signing_keys: Annotated[
        tuple[Annotated[SecretStr, Field(min_length=32)], ...],
        _setting(
            "keys that sign cookies and tokens, 32 characters or more; the first signs, all verify; "
            "empty: one is made and kept in `APP_DATA_DIR`"
        ),
    ] = ()
    issuer: Annotated[
        str,
        Field(min_length=1),
        _setting(
            "name of the service in its access tokens, which it takes from no other; services that share a "
            "key need names of their own"
        ),
    ] = "fastapi-reference"
    access_token_seconds: Annotated[PositiveInt, _setting("how long an access token is good")] = 600
    refresh_token_seconds: Annotated[
        PositiveInt, _setting("how long a login can be refreshed, counted from its beginning")
    ] = 30 * 24 * 3_600
    max_accounts: Annotated[PositiveInt, _setting("accounts; more are refused with 507")] = 10_000
    max_logins_per_account: Annotated[
        PositiveInt, _setting("logins of one account; one more ends the oldest")
    ] = 10
    attempts_per_account: Annotated[
        PositiveInt, _setting("wrong passwords for one account in a minute; more are refused with 429")
    ] = 10
    attempts_per_address: Annotated[
        PositiveInt,
        _setting("wrong passwords and new accounts from one address in a minute; more are refused with 429"),
    ] = 30
    password_hashes_at_once: Annotated[
        PositiveInt, _setting("passwords that are hashed at the same time, 64 MiB each")
    ] = 2
    password_hashes_waiting: Annotated[
        PositiveInt, _setting("passwords that may wait to be hashed; more are refused with 503")
    ] = 100
    session_seconds: Annotated[PositiveInt, _setting("how long a login in a browser lasts")] = 8 * 3_600
    api_keys: Annotated[
        dict[str, Sha256],
        _setting(
            "a name for each caller, with the SHA-256 of its key as 64 hexadecimal digits; "
            "empty: nobody gets in"
        ),
    ] = {}


TelemetryLevel = Literal["off", "metrics", "traces", "all"]


class TelemetrySettings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    level: Annotated[
        TelemetryLevel,
        _setting(
            "what is recorded: `metrics`; `traces` adds a span a request; `all` adds spans of its parts and "
            "which checks failed"
        ),
    ] = "off"
    sampled_share: Annotated[
        float,
        Field(ge=0, le=1),
        _setting("share of the traces that is recorded, where no `traceparent` of the caller decides"),
    ] = 1.0
    kept_traces: Annotated[PositiveInt, _setting("newest traces that are kept in memory")] = 100
    kept_spans: Annotated[PositiveInt, _setting("spans of one trace that are kept; more are counted")] = 50
    otlp: Annotated[
        bool, _setting("send all to the collector that the standard `OTEL_EXPORTER_OTLP_ENDPOINT` names")
    ] = False
    flush_timeout: Annotated[
        PositiveFloat, _setting("time at the stop for the collector to take what waits; the rest is lost")
    ] = 1.0


class WebhookSettings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    allowed_hosts: Annotated[
        tuple[str, ...],
        _setting("`host:port` of subscribers that may have a private address, or http instead of https"),
    ] = ()
    max_subscriptions: Annotated[
        PositiveInt, _setting("subscriptions, each with one request at a time; more are refused with 507")
    ] = 100
    subscriptions_per_host: Annotated[
        PositiveInt, _setting("subscriptions of one host in a minute; more are refused with 429")
    ] = 10
    queue_size: Annotated[
        PositiveInt, _setting("events that may wait for one subscriber; more are refused with 503")
    ] = 100
    resolvers: Annotated[
        PositiveInt, _setting("threads that look up names of new subscribers; as many for proven ones")
    ] = 8
    timeout: Annotated[PositiveFloat, _setting("time for one delivery attempt")] = 5.0
    attempts: Annotated[PositiveInt, _setting("delivery attempts; then the subscription ends")] = 5
    retry_delay: Annotated[
        PositiveFloat, _setting("wait before the second attempt, doubled for each one after it")
    ] = 1.0
    log_size: Annotated[PositiveInt, _setting("newest deliveries of a subscription that are shown")] = 20
    tolerance: Annotated[
        PositiveFloat, _setting("how far the time of a signed message may be from now; further is 403")
    ] = 300.0
    remembered_ids: Annotated[
        PositiveInt, _setting("received messages whose ids are remembered, so that none counts twice")
    ] = 10_000


class FeedSettings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    history: Annotated[
        PositiveInt, _setting("events of the live feed kept for slow readers and those who come back")
    ] = 1_000
    max_followers: Annotated[
        PositiveInt,
        _setting(
            "open streams of the live feed; more are refused with 503. With the sockets they must be fewer "
            "than the `--limit-concurrency` of the server"
        ),
    ] = 400
    max_followers_per_client: Annotated[
        PositiveInt, _setting("open streams of the live feed of one address; more are refused with 429")
    ] = 100


class FileSettings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    anonymous: Annotated[
        bool, _setting("take files of those who do not say who they are; whoever knows the id reads them")
    ] = True
    anonymous_seconds: Annotated[PositiveInt, _setting("how long a file without an owner is kept")] = (
        24 * 3_600
    )
    anonymous_quota: Annotated[
        PositiveInt, _setting("all files without an owner together; more are refused with 507")
    ] = 2 * 2**30
    anonymous_max_size: Annotated[
        PositiveInt, _setting("one file of those who do not say who they are, however it comes; more is 413")
    ] = 100 * 2**20
    quota: Annotated[PositiveInt, _setting("all files of one user together; more are refused with 507")] = (
        2 * 2**30
    )
    max_files: Annotated[PositiveInt, _setting("files in all; more are refused with 507")] = 100_000
    max_files_per_user: Annotated[
        PositiveInt,
        _setting("files of one user, or without an owner; more are refused with 507"),
    ] = 10_000
    sweep_seconds: Annotated[PositiveFloat, _setting("how often what has expired is swept")] = 60.0
    max_resumable_size: Annotated[PositiveInt, _setting("one resumable or direct upload; more is 413")] = (
        2**30
    )
    resumable_seconds: Annotated[
        PositiveInt,
        Field(le=7 * 24 * 3_600),
        _setting("how long an upload waits for its next bytes, a week at most; then it is swept"),
    ] = 24 * 3_600
    first_byte_seconds: Annotated[
        PositiveInt,
        Field(le=24 * 3_600),
        _setting("how long an upload waits for its first byte, a day at most; then its room is free again"),
    ] = 600
    silence_seconds: Annotated[
        PositiveFloat,
        _setting("time without a byte, in which a request of a resumable upload ends; its bytes are kept"),
    ] = 5.0
    checksums_at_once: Annotated[
        PositiveInt,
        _setting(
            "requests with `Upload-Checksum` at once, each with up to 16 MiB in the temporary folder of the "
            "system; more are refused with 503"
        ),
    ] = 8
    direct_seconds: Annotated[
        PositiveInt, _setting("how long a signed URL for an upload past the service is good")
    ] = 600

    def most_of(self, owner: str | None, most: int) -> int:
        """Bytes of one file of this account, or of nobody, where a file may have `most`."""
        return most if owner is not None else min(most, self.anonymous_max_size)


class S3Settings(BaseModel):
    """What is empty is taken from the standard variables of AWS, or its metadata service."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    endpoint: Annotated[
        str, Field(pattern=r"^(https?://[^/?#@]+/?)?$"), _setting("URL of an S3 that is not that of AWS")
    ] = ""
    region: Annotated[str, _setting("region of the bucket")] = ""
    access_key_id: Annotated[SecretStr, _setting("who the service is to S3")] = SecretStr("")
    secret_access_key: Annotated[SecretStr, _setting("and its secret")] = SecretStr("")
    timeout: Annotated[PositiveFloat, _setting("time for S3 to answer one request; then it is 503")] = 10.0

    @model_validator(mode="after")
    def _key_has_its_secret(self) -> Self:
        if bool(self.access_key_id) != bool(self.secret_access_key):
            raise ValueError("access_key_id and secret_access_key come together")
        return self


class RoomSettings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    history: Annotated[
        PositiveInt, _setting("messages of one room kept for those who come back; the oldest goes")
    ] = 1_000
    history_seconds: Annotated[
        PositiveInt, _setting("how long a room is remembered after its last message, in Redis")
    ] = 24 * 3_600
    max_rooms: Annotated[
        PositiveInt,
        _setting("rooms whose messages are kept; one more forgets those of the room used least lately"),
    ] = 1_000
    max_members: Annotated[PositiveInt, _setting("connections in one room; more are refused with 503")] = (
        1_000
    )
    max_connections_per_user: Annotated[
        PositiveInt, _setting("connections of one user in all rooms of a process; more are refused with 429")
    ] = 20
    visits_per_minute: Annotated[
        PositiveInt,
        _setting("how often one user may come, to any room of a process; more is refused with 429"),
    ] = 120
    messages_per_second: Annotated[
        PositiveFloat,
        _setting("messages of one room, averaged over ten seconds; those beyond are refused, not the client"),
    ] = 100.0
    stream_queue_size: Annotated[
        int, Field(ge=10), _setting("events that may wait for one slow stream of a room; more end it")
    ] = 1_000
    remembered_seconds: Annotated[
        PositiveInt, _setting("how long a message that is sent again is told from another one")
    ] = 600
    publish_timeout: Annotated[
        PositiveFloat, _setting("time for Redis to take a message; then it is refused, to be sent again")
    ] = 2.0
    idle_seconds: Annotated[
        PositiveFloat, _setting("time without a word of the client, not even `ping`; then it is closed")
    ] = 90.0
    heartbeat_seconds: Annotated[
        PositiveFloat,
        _setting(
            "how often a process tells Redis that it lives; silent for three times that, it counts as dead"
        ),
    ] = 5.0
    first_message_seconds: Annotated[
        PositiveFloat,
        _setting(
            "time in which a socket must say who it is, where its first message does; later closes 4408"
        ),
    ] = 5.0
    ticket_seconds: Annotated[PositiveInt, _setting("time in which a ticket for a socket must be used")] = 30
    max_tickets: Annotated[
        PositiveInt, _setting("tickets that are not used yet; more are refused with 507")
    ] = 10_000


class Settings(BaseSettings):
    # hide_input_in_errors: a wrong URL stops the start without its password in the message.
    model_config = SettingsConfigDict(
        env_prefix="APP_",
        env_nested_delimiter="__",
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
    )

    docs: Annotated[bool, _setting("serve the explorer, `/docs`, `/redoc` and `/openapi.json`")] = True
    log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR"], _setting("the least level that is logged")
    ] = "INFO"
    log_queue_size: Annotated[
        PositiveInt, _setting("log lines that may wait for a slow reader; more are dropped and counted")
    ] = 10_000

    secrets_dir: Annotated[
        Path | None,
        _setting("folder of secrets, each a file with the name of its setting, such as `APP_SMTP_URL`"),
    ] = None
    data_dir: Annotated[Path, _setting("folder of the database file and the outbox")] = ROOT / "data"
    uploads_dir: Annotated[Path, _setting("folder of received files")] = ROOT / "uploads"
    database_url: Annotated[
        SecretStr, _setting("SQLAlchemy URL with an async driver; empty: `app.sqlite3` in `APP_DATA_DIR`")
    ] = SecretStr("")

    allowed_hosts: Annotated[
        tuple[str, ...], _setting("values of `Host` that are answered; others get 400")
    ] = ("localhost", "127.0.0.1", "testserver", "*.localhost")
    cors_origins: Annotated[
        tuple[str, ...],
        _setting("origins that may read answers and open sockets, with credentials; never `*`"),
    ] = ("http://localhost:3000",)

    max_body_size: Annotated[PositiveInt, _setting("request body, all routes but uploads; more is 413")] = (
        100_000
    )
    body_timeout: Annotated[
        PositiveFloat, _setting("time for a request body of a few bytes to arrive; later is 408")
    ] = 60.0
    body_min_rate: Annotated[
        PositiveInt, _setting("bytes a second of a long body: each that arrived gives it that much more time")
    ] = 16 * 1024
    send_timeout: Annotated[
        PositiveFloat, _setting("time in which a client must take some of its answer; later it is aborted")
    ] = 30.0
    linger_size: Annotated[
        PositiveInt, _setting("rest of a body that nobody reads, taken in before the connection is closed")
    ] = 64 * 1024 * 1024
    linger_timeout: Annotated[PositiveFloat, _setting("time for the rest of a body that nobody reads")] = 5.0
    max_upload_size: Annotated[PositiveInt, _setting("one uploaded file; more is 413")] = 10 * 1024 * 1024
    max_image_pixels: Annotated[
        PositiveInt, _setting("pixels of an uploaded image once decoded; more is 415")
    ] = 50_000_000

    ws_max_message_size: Annotated[PositiveInt, _setting("one socket message; more closes 1009")] = 64 * 1024
    ws_max_connections: Annotated[
        PositiveInt,
        _setting("open sockets, and streams of rooms and about uploads, in all; more are refused with 503"),
    ] = 500
    ws_max_connections_per_client: Annotated[
        PositiveInt, _setting("the same of one address; more are refused with 429")
    ] = 100
    ws_messages_per_second: Annotated[
        PositiveInt,
        _setting(
            "messages of one socket, averaged over ten seconds; more closes 1008. As many of one user in "
            "rooms, by all sockets and by HTTP; more are refused"
        ),
    ] = 20
    ws_queue_size: Annotated[
        int, Field(ge=2), _setting("messages that may wait for one slow socket; more closes 1013")
    ] = 64
    ws_send_timeout: Annotated[
        PositiveFloat, _setting("time for one send to one socket; later the socket is aborted")
    ] = 5.0

    task_workers: Annotated[PositiveInt, _setting("tasks that run at the same time")] = 2
    task_queue_size: Annotated[PositiveInt, _setting("tasks that may wait; more are refused with 503")] = 100
    task_retention_count: Annotated[PositiveInt, _setting("finished tasks that are remembered")] = 1_000
    task_retention_seconds: Annotated[PositiveFloat, _setting("how long a finished task is remembered")] = (
        3_600.0
    )
    task_timeout: Annotated[PositiveFloat, _setting("how long one task may run; longer fails it")] = 300.0

    smtp_url: Annotated[
        SecretStr,
        _setting("`smtp://user:password@host:port` (or `smtps://`); empty: mail goes to `outbox.jsonl`"),
    ] = SecretStr("")
    mail_from: Annotated[MailAddress, _setting("sender of the mail, an address without a name")] = (
        "noreply@example.com"
    )
    mail_queue_size: Annotated[PositiveInt, _setting("mails that may wait; more are refused with 503")] = (
        1_000
    )
    mail_outbox_max_size: Annotated[
        PositiveInt, _setting("size of `outbox.jsonl`; mails without room in it are refused with 507")
    ] = 64 * 1024 * 1024
    mail_timeout: Annotated[PositiveFloat, _setting("time for one delivery attempt")] = 10.0
    mail_attempts: Annotated[
        PositiveInt, _setting("delivery attempts; then the mail goes to `outbox.jsonl`, marked failed")
    ] = 3
    mail_retry_delay: Annotated[
        PositiveFloat, _setting("wait before the second attempt, doubled for each one after it")
    ] = 1.0

    graphql_max_body_size: Annotated[PositiveInt, _setting("GraphQL request body; more is 413")] = 100_000
    graphql_max_depth: Annotated[PositiveInt, _setting("nesting of a GraphQL query")] = 6
    graphql_max_aliases: Annotated[PositiveInt, _setting("aliases and repetitions in a GraphQL query")] = 15
    graphql_max_tokens: Annotated[PositiveInt, _setting("lexical tokens in a GraphQL query")] = 500
    graphql_max_cost: Annotated[
        PositiveInt, _setting("fields a GraphQL query may answer, a list counted as its whole page")
    ] = 1_000
    graphql_max_page_size: Annotated[PositiveInt, _setting("rows of one GraphQL list"), Field(ge=10)] = 100
    max_users: Annotated[PositiveInt, _setting("users in the database; more are refused with 507")] = 10_000
    max_items: Annotated[PositiveInt, _setting("items in the database; more are refused")] = 10_000

    stream_max_events: Annotated[PositiveInt, _setting("events or rows of one stream, sent or received")] = (
        10_000
    )

    redis_url: Annotated[
        SecretStr,
        _setting(
            "`redis://host:port/0` (or `rediss://`), version 7 or newer; empty: rooms stay in the process"
        ),
    ] = SecretStr("")
    storage_url: Annotated[
        SecretStr,
        _setting("`s3://bucket`, or `s3://bucket/folder`, for received files; empty: `APP_UPLOADS_DIR`"),
    ] = SecretStr("")
    files: FileSettings = FileSettings()
    s3: S3Settings = S3Settings()
    rooms: RoomSettings = RoomSettings()
    feed: FeedSettings = FeedSettings()
    security: SecuritySettings = SecuritySettings()
    webhooks: WebhookSettings = WebhookSettings()
    telemetry: TelemetrySettings = TelemetrySettings()

    resource_wait: Annotated[
        PositiveFloat, _setting("time a request waits for its turn at a limited resource; later is 503")
    ] = 2.0
    ready_timeout: Annotated[
        PositiveFloat, _setting("time for each engine to answer `/ready`; later it is not ready")
    ] = 2.0
    shutdown_grace: Annotated[
        PositiveFloat,
        _setting("time for running tasks and mail to finish at shutdown; then they are cancelled"),
    ] = 1.0

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The first that has a value wins: arguments, the environment, the files of `APP_SECRETS_DIR`."""
        folder = {**env_settings(), **init_settings()}.get("secrets_dir")
        if not folder:
            return init_settings, env_settings
        files = NestedSecretsSettingsSource(
            file_secret_settings, secrets_dir=folder, secrets_dir_missing="error"
        )
        return init_settings, env_settings, files

    @field_validator("cors_origins")
    @classmethod
    def _origins_are_listed_one_by_one(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        if not all(ORIGIN.fullmatch(origin) for origin in origins):
            raise ValueError(
                "list each origin as scheme://host[:port] in small letters; '*' admits every site"
            )
        return origins

    @field_validator("smtp_url")
    @classmethod
    def _smtp_url_is_complete(cls, url: SecretStr) -> SecretStr:
        try:
            parts = urlsplit(url.get_secret_value())
            complete = parts.scheme in ("smtp", "smtps") and parts.hostname and parts.port != 0
        except ValueError:  # its text repeats a part of the URL
            complete = False
        if url and not complete:
            raise ValueError("write smtp://user:password@host:port, or smtps://")
        return url

    @field_validator("storage_url")
    @classmethod
    def _storage_url_names_a_bucket(cls, url: SecretStr) -> SecretStr:
        if url and not BUCKET.fullmatch(url.get_secret_value()):
            raise ValueError("write s3://bucket, or s3://bucket/folder; APP_S3__… says who the service is")
        return url

    @model_validator(mode="after")
    def _limits_fit_each_other(self) -> Self:
        if self.ws_max_connections_per_client > self.ws_max_connections:
            raise ValueError("ws_max_connections_per_client exceeds ws_max_connections")
        if self.rooms.stream_queue_size < self.ws_queue_size:
            raise ValueError("rooms.stream_queue_size is below ws_queue_size, by which history is read")
        longest = self.request_seconds(self.files.max_resumable_size)
        if self.files.resumable_seconds + longest >= ORPHAN_SECONDS:
            raise ValueError("files.max_resumable_size takes weeks at body_min_rate: raise that")
        return self

    @property
    def sqlalchemy_url(self) -> str:
        return self.database_url.get_secret_value() or f"sqlite+aiosqlite:///{self.data_dir / 'app.sqlite3'}"

    def request_seconds(self, size: int) -> float:
        """The longest that a request with so many bytes can take."""
        return self.body_timeout + size / self.body_min_rate + LATE_SECONDS

    @property
    def max_upload_body_size(self) -> int:
        return self.max_upload_size + MULTIPART_OVERHEAD


def fields_of(settings: BaseModel, prefix: str = "APP_") -> Iterator[tuple[str, FieldInfo, Any]]:
    """The name in the environment, the field and the value of each setting, those of groups included."""
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            yield from fields_of(value, f"{prefix}{name.upper()}__")
        else:
            yield f"{prefix}{name.upper()}", field, value
