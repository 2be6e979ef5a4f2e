"""What the rooms keep in Redis: its names, the scripts that change it in one step, and the way to it.

A script (Lua) runs whole or not at all, and nothing else runs in between.
"""

import asyncio
from random import SystemRandom
from typing import Any

from pydantic import SecretStr
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import RedisError

ENGINE_ERRORS = (RedisError, OSError, TimeoutError)
FIRST_DELAY, MAX_DELAY = 0.05, 1.0
BATCH = 100
"""Rooms or connections that are asked for, or told of, at once."""

PREFIX = "rooms-1:"
"""The number goes up with the shape of what is kept: two versions of the service do not read each other."""
PROCESSES = f"{PREFIX}processes"
"""When each process was last heard of, in milliseconds of Redis."""
PRESENCE = f"{PREFIX}presence"
"""The stream of who comes and goes, in all rooms."""
ROOMS = f"{PREFIX}rooms"
"""The streams of messages, by the time of the last one, in microseconds of Redis."""
FORGOTTEN = f"{PREFIX}forgotten"
"""The newest last id of the rooms that were forgotten: of any room, all that went with it is not after it."""
MAX_PRESENCE_EVENTS = 10_000


def messages_of(room: str) -> str:
    """The stream of its messages."""
    return f"{PREFIX}messages:{room}"


def members_of(room: str, process: str) -> str:
    """The hash of its members in one process, by connection."""
    return f"{PREFIX}here:{room}:{process}"


def told_of(process: str) -> str:
    """The number of the last batch of changes that it has told."""
    return f"{PREFIX}told:{process}"


APPEND = """
-- Appends an event to the stream KEYS[1]. ARGV: about how many entries are kept; five names and values.
-- Each entry says which was before it, so that a reader knows when some are missing.
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local before = last and last[1] or '0-0'
return redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', 'before', before, unpack(ARGV, 2, 11))
"""

TELL = (
    """
-- Changes who is here, and appends the event of it. KEYS: as of APPEND; the members; the number of the last
-- batch. ARGV: as of APPEND; the number of this batch; milliseconds for which it is kept. What was given up
-- and told again can still arrive, from a connection that is closed by now: it is out of date.
if tonumber(redis.call('GET', KEYS[3]) or 0) > tonumber(ARGV[12]) then return false end
redis.call('SET', KEYS[3], ARGV[12], 'PX', ARGV[13])
local connection, member = ARGV[9], ARGV[11]
if member == '' then
  redis.call('HDEL', KEYS[2], connection)
else
  redis.call('HSET', KEYS[2], connection, member)
  redis.call('PEXPIRE', KEYS[2], ARGV[13])
end
"""
    + APPEND
)

POST = """
-- KEYS: the messages of a room; how many came of late; the id of this one, if it was posted before; the
-- rooms by their last messages; the newest id that went with a room. ARGV: the seconds that are of late, and
-- how many may come in them; seconds for which an id is known; messages kept, and seconds; rooms kept;
-- sender, text. No answer: too many came.
local function parts(id)
  local milliseconds, number = string.match(id, '(%d+)-(%d+)')
  return tonumber(milliseconds), tonumber(number)
end
local known = redis.call('GET', KEYS[3])
if known then return known end
local count = redis.call('INCR', KEYS[2])
if count == 1 then redis.call('EXPIRE', KEYS[2], ARGV[1]) end
if count > tonumber(ARGV[2]) then return false end
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local forgotten = redis.call('GET', KEYS[5]) or '0-0'
local before = last and last[1] or forgotten
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local id = '*'
if not last then
  -- The stream is new, but the ids of the room are not: they go on, though the clock stands or was put back.
  local milliseconds, number = parts(forgotten)
  if now < (milliseconds + 1) * 1000 then id = string.format('%.0f-%.0f', milliseconds, number + 1) end
end
id = redis.call('XADD', KEYS[1], 'MAXLEN', ARGV[4], id, 'before', before, 'sender', ARGV[7], 'text', ARGV[8])
redis.call('EXPIRE', KEYS[1], ARGV[5])
redis.call('SET', KEYS[3], id, 'EX', ARGV[3])

-- Before this room is among them, for whatever the clock says, it is not the one that goes.
redis.call('ZREM', KEYS[4], KEYS[1])
redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', now - ARGV[5] * 1000000)
-- A few at a time: after the limit was lowered there may be very many, and nobody else has a turn meanwhile.
local excess = math.min(redis.call('ZCARD', KEYS[4]) + 1 - ARGV[6], 10)
if excess > 0 then
  local oldest = redis.call('ZPOPMIN', KEYS[4], excess)
  for at = 1, #oldest, 2 do
    local newest = redis.call('XREVRANGE', oldest[at], '+', '-', 'COUNT', 1)[1]
    if newest then
      local milliseconds, number = parts(newest[1])
      if milliseconds * 1000 > now + ARGV[5] * 1000000 or number > 1e14 then
        -- Not of ours, and the ids of all rooms would go on from there.
        milliseconds, number = math.floor(now / 1000), 0
      end
      local known, of_it = parts(forgotten)
      if milliseconds > known or milliseconds == known and number > of_it then
        forgotten = string.format('%.0f-%.0f', milliseconds, number)
      end
      redis.call('DEL', oldest[at])
    end
  end
  redis.call('SET', KEYS[5], forgotten)
end
redis.call('ZADD', KEYS[4], now, KEYS[1])
redis.call('EXPIRE', KEYS[4], ARGV[5])
redis.call('EXPIRE', KEYS[5], ARGV[5])
return id
"""

BEAT = """
-- KEYS: the processes, by when each was last heard of; the stream of presence, which ends with the last of
-- them. ARGV: this one; the milliseconds of silence after which one counts as dead. Answers whether this one
-- was alive, and all who are.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local heard = redis.call('ZSCORE', KEYS[1], ARGV[1])
local was_alive = heard and tonumber(heard) > now - ARGV[2] and 1 or 0
-- Before anything is removed: a script that has begun to write is not stopped when the memory is full.
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return {was_alive, redis.call('ZRANGE', KEYS[1], 0, -1)}
"""


def connect(url: SecretStr, max_connections: int, seconds: float) -> Redis:
    """Raises `ValueError` for what is no URL of Redis."""
    try:
        pool = ConnectionPool.from_url(
            url.get_secret_value(),
            max_connections=max_connections,
            decode_responses=True,
            # With version 3 a connection that the server has closed is found out only when it is used.
            protocol=2,
            # What others have written may be no text; it must not end the read of all rooms.
            encoding_errors="replace",
            # Who asks has a limit for the whole; a read that blocks has another.
            socket_timeout=None,
            socket_connect_timeout=seconds,
        )
    except ValueError:  # its message may hold a part of the password
        raise ValueError("APP_REDIS_URL is not a URL of Redis") from None
    return Redis.from_pool(pool)


async def replies(pipe: Pipeline, seconds: float) -> list[Any]:
    async with asyncio.timeout(seconds):
        return await pipe.execute()


async def pause(failures: int) -> None:
    """Before the next attempt: longer after each failure, and not for all processes alike."""
    delay = min(MAX_DELAY, FIRST_DELAY * 2 ** min(failures, 10))
    await asyncio.sleep(SystemRandom().uniform(delay / 2, delay))
