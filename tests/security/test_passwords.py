"""The hashing of passwords."""

import threading

import anyio
import anyio.lowlevel
import pytest
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher

from app.errors import ServiceUnavailable
from app.security.passwords import MAX_LENGTH, Passwords
from app.settings import SecuritySettings

LIMIT = 10.0
CHEAP = PasswordHash((Argon2Hasher(time_cost=1, memory_cost=8, parallelism=1),))


@pytest.mark.anyio
async def test_by_default_a_hash_takes_64_mib_and_three_rounds() -> None:
    passwords = Passwords(PasswordHash.recommended(), SecuritySettings())
    known = await passwords.hash("correct horse")
    assert known.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert await passwords.check("correct horse", known) == (True, None)


@pytest.mark.anyio
async def test_a_password_is_the_same_from_every_keyboard_and_may_be_any_text() -> None:
    passwords = Passwords(CHEAP, SecuritySettings())
    assert await passwords.check("cafe\u0301 au lait", await passwords.hash("caf\u00e9 au lait")) == (
        True,
        None,
    )
    for odd in ("\ud800" * 8, "\0" * 8):
        assert await passwords.check(odd, await passwords.hash(odd)) == (True, None)
        assert await passwords.check(odd[1:], await passwords.hash(odd)) == (False, None)
    too_long = "x" * (MAX_LENGTH + 1)
    assert await passwords.check(too_long, await passwords.hash(too_long)) == (False, None)


class SlowHasher(Argon2Hasher):
    """Waits for a sign, and counts how many wait with it."""

    def __init__(self) -> None:
        super().__init__(time_cost=1, memory_cost=8, parallelism=1)
        self.sign = threading.Event()
        self.running = 0
        self.most = 0

    def hash(self, password: str | bytes, *, salt: bytes | None = None) -> str:
        self.running += 1
        self.most = max(self.most, self.running)
        self.sign.wait(LIMIT)
        self.running -= 1
        return super().hash(password, salt=salt)


@pytest.mark.anyio
async def test_few_are_hashed_at_once_some_wait_and_more_are_refused() -> None:
    slow = SlowHasher()
    settings = SecuritySettings(password_hashes_at_once=2, password_hashes_waiting=3)
    passwords = Passwords(PasswordHash((slow,)), settings)
    outcomes: list[str] = []

    async def hash_one() -> None:
        try:
            await passwords.hash("correct horse")
            outcomes.append("hashed")
        except ServiceUnavailable:
            outcomes.append("refused")

    with anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(hash_one)
            while len(outcomes) < 3 or slow.running < 2:
                await anyio.lowlevel.checkpoint()
            slow.sign.set()
        await hash_one()
    assert outcomes == ["refused"] * 3 + ["hashed"] * 6
    assert slow.most == 2
