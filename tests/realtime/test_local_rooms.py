from datetime import UTC, datetime

from app.realtime.backplane import key_of
from app.realtime.local_rooms import Event, LocalRooms, Room, Seat
from app.realtime.messages import Member, Message

ADA = Member(connection="ada-1", user="1", name="Ada")


def message(message_id: str) -> Message:
    return Message(id=message_id, sender=ADA, text=message_id, sent_at=datetime.now(UTC))


def test_after_a_loss_the_ids_may_begin_anew_at_smaller_ones() -> None:
    """As after a change to another, empty Redis whose clock is behind."""
    told: list[str] = []
    rooms = LocalRooms()
    room = rooms.rooms["kitchen"] = Room()

    def put(event: Event) -> bool:
        told.append(event.text.content)
        return True

    caught_up, catching_up = Seat(put), Seat(put)
    room.seats = {"ada-1": caught_up, "bob-1": catching_up}
    rooms.posted("kitchen", message("2000-0"))
    assert told == []
    caught_up.after = key_of("2000-0")
    rooms.lost("kitchen", "900-0")
    assert room.last_id == "900-0"
    assert ["gap" in text for text in told] == [True, True]
    rooms.posted("kitchen", message("1000-0"))
    assert room.last_id == "1000-0"
    assert ["1000-0" in text for text in told] == [False, False, True]
