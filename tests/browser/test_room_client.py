"""What `static/room-client.js` does on its own, in a real browser with a clock and a socket of the tests."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page

from tests.browser.lone_client import Room, serve_client


@pytest.fixture(scope="module")
def page(blank_page: Page) -> Page:
    blank_page.route("**/*", serve_client)
    blank_page.clock.install(time=0)
    blank_page.goto("http://room.test/")
    blank_page.clock.pause_at(1)
    return blank_page


@pytest.fixture
def room(page: Page) -> Iterator[Room]:
    room = Room(page)
    yield room
    room("room.close()")


def test_each_connection_has_its_own_ticket_and_asks_for_what_came_after_the_last_id(room: Room) -> None:
    assert room("last().url") == "ws://room.test/rooms/kitchen?ticket=one-use"
    assert room.states() == ["connecting"]
    room("welcome()")
    assert room.states() == ["connecting", "open"]
    room("end(1012)")
    room.wait(0.5)
    assert room("last().url.split('?')[1]") == "ticket=one-use&after=5-0"  # of the welcome
    room("welcome({last_id: '12-0'}), hear('message', {id: '10-0', text: 'missed'})")
    room("end(1012)")
    room.wait(1)
    assert room("last().url.split('?')[1]") == "ticket=one-use&after=10-0"
    assert room("asked") == 3
    assert room("heard.map(({text}) => text)") == ["missed"]


def test_what_comes_twice_is_heard_once_and_ids_are_pairs_of_numbers(room: Room) -> None:
    room("welcome({last_id: '9-9'})")
    room("for (const id of ['9-9', '9-10', '9-10', '10-0', '9-11', '10-1']) hear('message', {id})")
    assert room("heard.map(({id}) => id)") == ["9-10", "10-0", "10-1"]
    assert room("isAfter('999999999999999-0', '999999999999998-999999999999999')")


def test_pauses_are_drawn_from_a_span_that_doubles_to_a_cap_and_begins_anew_after_a_while(room: Room) -> None:
    def pauses(times: int) -> list[float]:
        room("states = []")
        for _ in range(times):
            room("end(1006)")
            pause = room("states.at(-1).pause")
            before = room("sockets.length")
            room.wait(pause / 1_000 + 0.001)
            room.until(f"sockets.length === {before} + 1")
        return [each["pause"] / 1_000 for each in room("states") if each["state"] == "waiting"]

    room("luck = 1")
    assert pauses(7) == [1, 2, 4, 8, 16, 30, 30]
    room("luck = 0.25")
    assert pauses(1) == [7.5]
    room("welcome()")
    room.wait(9)
    assert pauses(1) == [7.5]  # it was open, but not for long
    room("welcome()")
    room.wait(11)
    assert pauses(2) == [0.25, 0.5]


@pytest.mark.parametrize("code", [1008, 1013])
def test_who_was_too_much_for_the_service_waits_longer(room: Room, code: int) -> None:
    room(f"welcome(), luck = 1, end({code})")
    assert room("states.at(-1)") == {"state": "waiting", "pause": 8_000}


@pytest.mark.parametrize("status", [401, 403])
def test_without_a_ticket_there_is_no_loop(room: Room, status: int) -> None:
    room(f"welcome(), answer = () => new Response(null, {{status: {status}}}), end(4401)")
    room.wait(600)
    assert room.states() == ["connecting", "open", "waiting", "connecting", "refused"]
    assert room("asked") == 2
    room('answer = () => new Response(\'{"ticket": "new"}\'), room.connect()')
    room.until("last().url.includes('ticket=new')")
    room("end(1006)")
    assert room("states.at(-1).pause") == 500


@pytest.mark.parametrize(
    ("headers", "pause"), [("{'Retry-After': '7'}", 7_500), ("{}", 500), ("{'Retry-After': '1e9'}", 300_500)]
)
@pytest.mark.parametrize("status", [429, 503])
def test_a_service_that_asks_to_wait_is_left_alone(room: Room, status: int, headers: str, pause: int) -> None:
    room(f"answer = () => new Response(null, {{status: {status}, headers: {headers}}}), end(1006)")
    room.wait(0.5)
    room.until("states.length === 4")
    # A draw from two seconds, for it is the second attempt, comes on top: who was asked together comes apart.
    assert room("states.at(-1).pause") == pause + 500


def test_a_ticket_that_does_not_come_is_given_up(room: Room) -> None:
    room("welcome(), answer = (signal) => new Promise(() => { waited = signal; }), end(1006)")
    room.wait(0.5)
    assert room.states()[-1] == "connecting"
    room.wait(10)
    assert room.states()[-1] == "waiting" and room("waited.aborted")


def test_one_message_is_under_way_at_a_time_and_the_order_is_kept(room: Room) -> None:
    room("welcome(), ['one', 'two', 'three'].forEach(say)")
    assert room("says().map(({text}) => text)") == ["one"]
    room("hear('refused', {ref: says()[0].ref, reason: 'busy'})")
    room("say('four')")
    room.wait(0.6)
    assert room("says().map(({text}) => text)") == ["one", "one"]
    assert room("says()[0].ref === says()[1].ref")
    room("hear('accepted', {ref: says()[0].ref, id: '6-0'}), hear('refused', {ref: says()[2].ref})")
    room.wait(0.6)  # pauses grow with each refusal, and begin anew
    room("for (let n = 1; n < 4; n++) hear('accepted', {ref: says().at(-1).ref, id: `6-${n}`})")
    assert room("says().slice(2).map(({text}) => text)") == ["two", "two", "three", "four"]
    assert room("said") == ["6-0", "6-1", "6-2", "6-3"]
    assert room("new Set(says().map(({ref}) => ref)).size") == 4


def test_what_was_not_accepted_is_said_again_on_the_next_line_with_the_same_ref(room: Room) -> None:
    room("say('before the line')")
    assert room("says()") == []
    room("welcome(), ref = says()[0].ref, end(1012), say('between')")
    room.wait(0.5)
    room("welcome()")
    assert room("says()[0].ref === ref && says().length === 1")
    room("hear('accepted', {ref: 'of another', id: '6-0'})")
    room("hear('accepted', {ref, id: '6-1'})")
    assert room("says().map(({text}) => text)") == ["before the line", "between"]
    assert room("said") == ["6-1"]


def test_what_can_never_be_said_is_told_and_holds_nothing_up(room: Room) -> None:
    room("welcome(), say(''), say('\U0001f41d'.repeat(4001)), say('\U0001f41d'.repeat(4000)), say('next')")
    room("hear('invalid', {errors: []})")
    assert room("says().at(-1).text") == "next"
    room("end(1009)")
    assert room("said") == [
        "1 to 4000 characters, please.",
        "1 to 4000 characters, please.",
        "The service does not understand the message.",
        "The message is too large.",
    ]
    room.wait(0.5)
    room("welcome()")
    assert room("says()") == []


def test_so_many_messages_wait_and_leaving_gives_them_up(room: Room) -> None:
    room("for (let n = 0; n < 101; n++) say('text')")
    assert room("said") == ["Too many messages wait to be sent."]
    room("said = [], room.close(), say('late')")
    room.until("said.length === 101")
    assert room("said[99]") == "The room is closed."
    assert room("last().closed") == 1000
    room.wait(60)
    assert room("asked") == 1 and room.states()[-1] == "closed"


def test_a_quiet_client_pings_and_a_line_that_is_dead_is_given_up(room: Room) -> None:
    room("welcome()")
    for _ in range(2):
        room.wait(24)
        room("hear('gap')")  # the others talk: it has still said nothing
        room.wait(1)
        assert room("last().sent.at(-1)") == {"type": "ping"}
        room("hear('pong')")
    assert room("last().sent.length") == 2
    room.wait(34)
    assert room.states()[-1] == "open"
    room.wait(1)
    assert room.states()[-1] == "waiting" and room("last().closed") == 1000
    room.wait(1)
    room(
        "sockets[0].dispatchEvent(new CloseEvent('close', {code: 1006}))"
    )  # what it says later counts no more
    assert room.states()[-1] == "connecting"


def test_a_change_of_the_network_tries_the_line_at_once(room: Room) -> None:
    room("welcome(), dispatchEvent(new Event('offline'))")
    assert room("last().sent") == [{"type": "ping"}]
    room.wait(10)
    room("luck = 1")
    for _ in range(5):
        room.wait(31)
        room("end(1006)")
    assert room("states.at(-1).pause") == 30_000
    room("dispatchEvent(new Event('online'))")
    assert room("states.at(-1).pause") == 1_000
    before = room("sockets.length")
    room.wait(1.1)
    room.until(f"sockets.length === {before} + 1")
    room("document.dispatchEvent(new Event('visibilitychange', {bubbles: true}))")
    assert room("states.at(-1).state") == "connecting"  # which is left in peace


def test_the_people_here_are_users_and_their_connections(room: Room) -> None:
    names = "Array.from(room.here, ([user, members]) => [user, members.map(({connection}) => connection)])"
    room("welcome()")
    assert room(names) == [["g", ["g1"]], ["a", ["a1"]]]
    room("hear('joined', {member: ada}), hear('joined', {member: {...grace, connection: 'g2'}})")
    assert room(names) == [["a", ["a1"]], ["g", ["g1", "g2"]]] or room(names) == [
        ["g", ["g1", "g2"]],
        ["a", ["a1"]],
    ]
    room("hear('left', {member: grace})")
    room("hear('left', {member: {...grace, connection: 'g2'}})")
    assert room(names) == [["a", ["a1"]]]
    room("end(1012)")
    room.wait(0.5)
    room("welcome({here: []})")
    assert room(names) == [["a", ["a1"]]]


def test_who_leaves_while_it_is_told_of_a_state_stays_away(room: Room) -> None:
    room("room.addEventListener('state', ({detail}) => detail.state === 'waiting' && room.close())")
    room("welcome(), end(1006)")
    room.wait(60)
    assert room.states() == ["connecting", "open", "waiting", "closed"] and room("asked") == 1
