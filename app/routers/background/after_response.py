"""Work after the response

`BackgroundTasks` runs small work after the answer has left: the client does not wait for it. Here it hands
a mail to the queue of `app/jobs/mail.py`, whose writer delivers it: to an SMTP server if `APP_SMTP_URL` is
set, and as one line of `outbox.jsonl` if not.

Use it for what takes milliseconds and may be lost when the process is killed. It has no status, no retry,
no limit, and no place to report an error to. Work that takes seconds, or that somebody asks about, belongs
to a task with a status, which is the next page.

Take a parameter `tasks: BackgroundTasks`, without `Depends`, and call `tasks.add_task(function, *args)`.
Dependencies may take it too, and add to the same list. An `async def` task runs on the event loop and must
not block; a `def` task runs in a thread.

A task cannot refuse any more, so whatever can be refused is checked before: the dependency `hold_place`
takes a place in the queue and in the outbox, or answers 503 or 507. It has request scope, so it is left after
the tasks have run, and a place that was not used is free again.

## The trap

Tutorials say that tasks run even if the request fails. They belong to the response that is sent: with a
raised error there is none of yours, and with `Response(background=...)` it is another list, which replaces
yours. The first task that fails drops those behind it, while the client has read "sent". A task that uses
the database session of its request writes to a session which is over. A `def` task occupies one of the
forty threads that all `def` endpoints share. The usual `write_notification` opens its log with mode `"w"`,
so each mail deletes the one before. And `EmailStr` takes encoded words, which a header decodes to other
recipients, so the address here is of a stricter type, `app/mail_address.py`.

## What is proven

- The answer leaves before its tasks run.
- Tasks run one after the other, those of dependencies first.
- No task runs after an HTTPException, a 422 or an unhandled error.
- A task runs when an error is returned and not raised.
- Function scope ends before the tasks, and request scope after them.
- A def task leaves the event loop free.
- The mail does not wait for a thread of the endpoints.
- However many mails are sent at once, each is one intact line of the outbox.
- What is not an address is a 422 and sends nothing.
- An address is the only recipient and stays as it is.
- A domain outside ASCII is sent as the name it has in the network.
- A full queue is a 503, and a refused request gives its place back.
- A full outbox is a 507 until it is moved away.
- With an SMTP server the mail is delivered, after a few attempts if need be.
- A mail that cannot be delivered is in the outbox and once in the log.

## Read more

`fastapi.BackgroundTasks`, `starlette.background.BackgroundTask`, `Depends(scope="request")`,
`email.message.EmailMessage`, `aiosmtplib.send`.
[Background tasks](https://fastapi.tiangolo.com/tutorial/background-tasks/) and
[dependencies with yield](https://fastapi.tiangolo.com/tutorial/dependencies/dependencies-with-yield/)
in the FastAPI documentation.
"""

from collections.abc import AsyncIterator
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import localtime, make_msgid
from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Depends
from pydantic import BaseModel

from app.dependencies import MailerDep, SettingsDep
from app.jobs.mail import Mail, Post
from app.mail_address import MailAddress

router = APIRouter(tags=["background"])


class Sent(BaseModel):
    message: str


async def hold_place(mailer: MailerDep) -> AsyncIterator[Post]:
    async with mailer.place() as post:
        yield post


PostDep = Annotated[Post, Depends(hold_place, scope="request")]


def notification(sender: str, recipient: str) -> Mail:
    """`Address` takes one address: with a line break, a comma or an encoded word in it, it raises."""
    message = EmailMessage()
    message["From"] = Address(addr_spec=sender)
    message["To"] = Address(addr_spec=recipient)
    message["Subject"] = "Notification"
    message["Date"] = localtime()
    # Without `domain` the name of this host would be looked up in the network, on the event loop.
    message["Message-ID"] = make_msgid(domain=sender.rpartition("@")[2])
    message.set_content("You have a notification.")
    return Mail.of(message)


@router.post("/send-notification/{email}")
async def send_notification(
    email: MailAddress, tasks: BackgroundTasks, post: PostDep, settings: SettingsDep
) -> Sent:
    """Answers at once; the mail to the address in the path is sent afterwards."""
    tasks.add_task(post, notification(settings.mail_from, email))
    return Sent(message="Notification sent in the background")


@router.post("/notify")
async def notify(email: MailAddress, tasks: BackgroundTasks, post: PostDep, settings: SettingsDep) -> Sent:
    """The same with the address in the query, which the access log leaves out."""
    tasks.add_task(post, notification(settings.mail_from, email))
    return Sent(message="Notification sent in background")
