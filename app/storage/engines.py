"""Which storage the service uses."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.settings import Settings
from app.storage.bucket import open_bucket
from app.storage.disk import open_disk
from app.storage.s3 import open_s3
from app.storage.storage import Storage


@asynccontextmanager
async def open_storage(settings: Settings) -> AsyncIterator[Storage]:
    if url := settings.storage_url.get_secret_value():
        async with open_s3(open_bucket(url, settings.s3), settings.files.direct_seconds) as s3:
            yield s3
    else:
        async with open_disk(settings.uploads_dir) as disk:
            yield disk
