"""One place for every setting and limit

`app/settings.py` has one class. Each field has a type, a default that is safe, and a description, from
which the table in the README is made. Use it for all that differs between two installations, and for
every limit, so that they can be found, compared and tested.

Values come from the environment with the prefix `APP_`. They are read when `create_app` builds the
object, and not when `app.settings` is imported: a test passes its own,
`create_app(Settings(max_body_size=10))`, and gets an app with that limit. (`app/main.py` ends with
`app = create_app()`, for `uvicorn app.main:app` asks for a name; `uvicorn --factory
app.main:create_app` needs none.) The lifespan puts the object into the state, where endpoints find it
as `SettingsDep`. It is frozen: what has been checked at start stays so.

Settings of one subject are a group, a model of its own: `APP_TELEMETRY__LEVEL` is `level` of `telemetry`.
A secret can be a file instead, as Docker and Kubernetes mount them: `APP_SECRETS_DIR=/run/secrets` reads
the file `APP_SMTP_URL`, in large or small letters, without the space around its text. The folder is for this
service alone, as all in it is read. An argument wins over the environment, that over a file, and that over
the default. A `.env` file is not read: which one, the working directory would decide, and one that was left
behind would change a service in silence. For development, `uvicorn --env-file .env` reads the one you name.

A value that is wrong stops the start with the name of the setting, and without the value, which may be
a password. Secrets are `SecretStr`. `GET /application/settings` shows the values in force, but only
numbers, switches and choices: a text, a path or an address may hold a secret, so none is ever shown.

## The trap

`settings = Settings()` at the top of a module, or `os.environ["X"]` in a default, reads the environment
when the module is imported. A test that sets the variable later changes nothing, one bad value breaks
every import (the test run, the migration, the shell), and two apps of one process cannot differ. Behind
`@lru_cache def get_settings()` it is read once a process, and the first caller decides for all.

In tests, `app.dependency_overrides[get_settings]` reaches only what asks for `SettingsDep`: the body limit,
the middleware and all that the lifespan opened have the settings of `create_app(Settings(...))`.
`model_copy(update=...)` checks neither values nor names. Our own tests use it, for constants, where a wrong
one fails the test; use it for nothing that comes from outside. A group that is given as an argument replaces
the whole group, what the environment says of it too; given as a dict it is merged. And a variable whose name
is misspelt is ignored, by this class too: look at what is in force.

## What is proven

- Every setting has a description.
- Importing the settings reads no environment.
- A wrong value stops the start and names the setting.
- A wrong value is not repeated in the message.
- The app has the settings it was given.
- The settings cannot be changed after the start.
- No text and no path is shown.
- A variable with two underscores sets one setting of a group.
- A secret is read from a file of its name, without the line end.
- The files that Kubernetes and Docker mount are read.
- An argument wins over the environment, and that over a file.
- A folder of secrets that is missing stops the start.
- No env file is read.

## Read more

`pydantic_settings.BaseSettings`, `SettingsConfigDict(env_prefix=, env_nested_delimiter=, frozen=,
hide_input_in_errors=)`, `settings_customise_sources`, `NestedSecretsSettingsSource`, `SecretStr`.
[Settings and environment variables](https://fastapi.tiangolo.com/advanced/settings/) in the FastAPI
documentation.
"""

from typing import Literal, get_origin

from fastapi import APIRouter
from pydantic import BaseModel

from app.dependencies import SettingsDep
from app.settings import fields_of

router = APIRouter(prefix="/application/settings", tags=["application"])


class Setting(BaseModel):
    name: str
    value: bool | int | float | str
    description: str


@router.get("")
async def effective(settings: SettingsDep) -> list[Setting]:
    """The limits, switches and choices in force."""
    return [
        Setting(name=name, value=value, description=field.description or "")
        for name, field, value in fields_of(settings)
        if field.annotation in (bool, int, float) or get_origin(field.annotation) is Literal
    ]
