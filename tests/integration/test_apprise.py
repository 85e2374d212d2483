"""Messages through Apprise to real servers; what its URLs may be, and what stays secret."""

import asyncio
import logging
import threading
from email.message import EmailMessage

import pytest
from apprise.utils.parse import parse_urls

from service.adapters.apprise import AppriseMessenger, WrongUrls, messenger_from, split
from service.app import Stop, serve
from service.domain.councilor import Notifications
from service.domain.digest import Message, message_of
from service.domain.notification import Audience, Target, of_run
from service.domain.severity import Severity
from service.ports import Refused, Unavailable
from service.settings import WrongSettings, settings_from_environment
from tests.contract.test_ledger import outcome, run_of
from tests.contract.test_notifications import failure
from tests.flow.conftest import free_port
from tests.outside import mail_server, silent_server, webhook

MESSAGE = message_of([failure(message="no answer within 1800 s")])


async def send(messenger: AppriseMessenger, message: Message = MESSAGE) -> Target:
    """Send this to the only target."""
    (target,) = messenger.targets
    await messenger.send(target, message)
    return target


SLACK = "T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"
TELEGRAM = "123456789:abcdefghijklmnopqrstuvwxyzabcdefghi"


async def test_a_mail_arrives_with_its_subject_and_its_text() -> None:
    async with mail_server() as server:
        await send(messenger_from(server.url))
    (mail,) = server.mails
    assert isinstance(mail, EmailMessage)
    assert (mail["Subject"], mail["To"]) == ("Scout: failed (timeout)", "ops@example.com")
    assert server.recipients == [["ops@example.com"]]
    assert mail.get_content_type() == "text/plain"
    assert str(mail.get_content()).split() == MESSAGE.body.split()


@pytest.mark.parametrize("form", ["text", "html"])
async def test_nothing_in_a_text_becomes_a_header_or_markup(form: str) -> None:
    name = "Sc\r\nBcc: all@example.com\r\n\r\n<script>é\x1b[31m"
    end = outcome(severity=Severity.ERROR, output=f"<b>bold</b>\r\n.\r\n{name}")
    told = of_run(run_of(), end, Audience(name, name, Notifications(channels=("email",))))
    assert told is not None
    async with mail_server() as server:
        await send(messenger_from(f"{server.url}&format={form}"), message_of([told]))
    (mail,) = server.mails
    assert isinstance(mail, EmailMessage)
    assert mail["Bcc"] is None
    assert server.recipients == [["ops@example.com"]]
    if form == "text":
        assert mail.get_content_type() == "text/plain"
    else:
        html = mail.get_body(("html",))
        assert html is not None
        assert "<b>" not in html.get_content()
        assert "&lt;b&gt;bold&lt;/b&gt;" in html.get_content()


@pytest.mark.parametrize("scheme", ["json", "http"])
async def test_a_webhook_gets_json(scheme: str) -> None:
    async with webhook() as hook:
        await send(messenger_from(f"{scheme}://{hook.base}/councilors/in"))
    (said,) = hook.said
    assert (said["title"], said["type"]) == ("Scout: failed (timeout)", "failure")
    assert said["message"] == MESSAGE.body
    assert hook.addresses == ["/councilors/in"]


async def test_a_plain_address_keeps_its_query() -> None:
    async with webhook() as hook:
        await send(messenger_from(f"http://{hook.base}/in?token=a%26b&verify=no"))
    assert hook.addresses == ["/in?token=a%26b&verify=no"]


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_webhook_that_will_never_take_it_says_so(status: int) -> None:
    async with webhook() as hook:
        messenger = messenger_from(f"json://{hook.base}")
        hook.status = status
        with pytest.raises(Refused, match=str(status)):
            await send(messenger)
        hook.status = 500
        with pytest.raises(Unavailable):
            await send(messenger)


@pytest.mark.parametrize("status", [302, 401, 404, 429, 500])
async def test_a_webhook_that_refuses_has_not_taken_it(status: int) -> None:
    async with webhook() as hook:
        hook.status = status
        with pytest.raises(Unavailable):
            await send(messenger_from(f"json://{hook.base}"))


async def test_nobody_there_is_told_without_the_address() -> None:
    messenger = messenger_from(f"json://hunter2:hunter2@127.0.0.1:{free_port()}/hunter2")
    with pytest.raises(Unavailable) as trouble:
        await send(messenger)
    assert "hunter2" not in str(trouble.value)


async def test_a_mail_server_that_refuses_has_not_taken_it() -> None:
    async with mail_server() as server:
        server.refuses = True
        with pytest.raises(Unavailable):
            await send(messenger_from(server.url))
        server.refuses = False
        await send(messenger_from(server.url))
    assert len(server.mails) == 1


async def test_a_server_that_hangs_is_given_up_and_has_one_thread_at_most() -> None:
    async with silent_server() as port:
        url = f"mailto://127.0.0.1:{port}?from=a@example.com&to=b@example.com"
        messenger = messenger_from(url, longest_seconds=0.05)
        with pytest.raises(Unavailable, match="within"):
            await send(messenger)
        with pytest.raises(Unavailable, match="earlier"):
            await send(messenger)
    left = [thread for thread in threading.enumerate() if thread.name == "notify"]
    assert [thread.daemon for thread in left] == [True]
    for thread in left:
        await asyncio.to_thread(thread.join)


async def test_where_no_thread_can_be_started_the_next_try_is_as_good(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async with mail_server() as server:
        messenger = messenger_from(server.url)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            with pytest.raises(Unavailable, match="no thread"):
                await send(messenger)
        await send(messenger)
    assert len(server.mails) == 1


async def test_three_in_a_row_do_not_wait_for_each_other() -> None:
    """Apprise itself leaves 5.5 s between two mails."""
    async with mail_server() as server, asyncio.timeout(5):
        messenger = messenger_from(server.url)
        for _ in range(3):
            await send(messenger)
    assert len(server.mails) == 3


@pytest.mark.parametrize(
    ("url", "scheme", "host", "channel"),
    [
        ("mailto://u:hunter2@example.com", "mailto", "example.com", "email"),
        ("json://u:hunter2@h:9/x", "json", "h", "webhook"),
        ("https://h/hunter2", "https", "h", "webhook"),
        (f"https://hooks.slack.com/services/{SLACK}", "https", "hooks.slack.com", "slack"),
        (f"slack://{SLACK}/#ops", "slack", "", "slack"),
        (f"tgram://{TELEGRAM}/12315544", "tgram", "", "telegram"),
    ],
)
def test_a_target_shows_no_secret_and_knows_its_channel(
    url: str, scheme: str, host: str, channel: str
) -> None:
    (target,) = messenger_from(url).targets
    assert target.text == f"{scheme}://{host}"
    assert target.is_mail if channel == "email" else channel in target.names


@pytest.mark.parametrize(
    "text",
    [
        "json://h",
        "json://h,json://i  json://j\n",
        "mailto://localhost:25?to=a@b.org,d@e.org&from=x@y.org,json://h/?-a=1,2",
        " , json://h ,, jsons://i/ ",
    ],
)
def test_urls_are_told_apart_as_apprise_does_it(text: str) -> None:
    assert split(text) == [url.rstrip(", ") for url in parse_urls(text)]  # type: ignore[no-untyped-call]


WRONG = {
    "nonsense": "at place 1 is none",
    "nonsense json://h": "at place 1 is none",
    "json://h json://hunter2 hunter2": "at place 2 is none",
    "json://h bogus://hunter2": "at place 2 is none that Apprise understands",
    "slack://hunter2": "write json://",
    "mailto://127.0.0.1:25": "add ?from=…&to=…",
    "mailto://localhost:25?to=nobody": "add ?from=…&to=…",
}


@pytest.mark.parametrize("urls", WRONG)
def test_a_url_that_cannot_be_used_is_named_by_its_place(
    urls: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(WrongUrls) as wrong:
        messenger_from(urls)
    (problem,) = wrong.value.problems
    assert WRONG[urls] in problem
    out, err = capfd.readouterr()
    assert "hunter2" not in problem + caplog.text + out + err


@pytest.mark.parametrize(
    "url",
    [
        "mailto://me:hunter2/x@example.com?to=a@example.com",
        "mailto://me:hunter2?x@example.com",
        "mailto://me:hunter2#x@example.com",
        "mailto://me:hunter2#x@example.com?to=a@example.com",
        "mailto://me:h@hunter2/x@example.com",
        "json://hunter2/x@example.com/in",
        "https://me:hunter2?x@example.com/in",
        "https://me:hunter2?x=1@example.com/in",
    ],
)
def test_what_may_be_a_password_is_taken_for_no_host(url: str) -> None:
    """A host is shown in logs."""
    with pytest.raises(WrongUrls) as wrong:
        messenger_from(f"json://h {url}")
    (problem,) = wrong.value.problems
    assert problem.startswith("the URL at place 2 has an @")
    assert "hunter2" not in problem


@pytest.mark.parametrize(
    "url",
    [
        "mailto://me:hunter2@example.com:587?to=ops@example.com&from=a@example.com",
        "mailto://me%40corp:hunter2%2Fx@example.com?to=ops@example.com",
        "json://me:hunter2@example.com:80/in?a=b",
        "json://[::1]:80/in",
        f"slack://{SLACK}/@ops",
    ],
)
def test_what_is_escaped_as_it_should_be_is_taken(url: str) -> None:
    (target,) = messenger_from(url).targets
    assert "hunter2" not in target.text


def test_every_wrong_url_is_told_at_once() -> None:
    with pytest.raises(WrongUrls) as wrong:
        messenger_from("bogus://a json://h bogus://b")
    assert [problem.split(" is ")[0] for problem in wrong.value.problems] == [
        "the URL at place 1",
        "the URL at place 3",
    ]


async def test_wrong_urls_end_the_start_and_name_the_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MONGODB_URL", "mongodb://127.0.0.1:1")
    monkeypatch.setenv("SCHEDULER_NOTIFY_URLS", "json://h bogus://hunter2")
    with pytest.raises(WrongSettings) as wrong:
        await serve(settings_from_environment(), Stop())
    (line,) = wrong.value.problems
    assert line.startswith("SCHEDULER_NOTIFY_URLS: the URL at place 2 ")
    assert "hunter2" not in line


async def test_not_even_the_debug_log_shows_a_url(caplog: pytest.LogCaptureFixture) -> None:
    async with webhook() as hook, mail_server() as server:
        with caplog.at_level(logging.DEBUG):
            messenger = messenger_from(f"json://{hook.base}/hunter2 {server.url}")
            for target in messenger.targets:
                await messenger.send(target, MESSAGE)
    # What the servers of this test tell is their business.
    told = [record for record in caplog.records if record.name != "mail.log"]
    said = "".join(record.getMessage() for record in told if record.name != "aiohttp.access")
    assert "hunter2" not in said
    assert MESSAGE.title not in said
    assert not [record for record in told if record.name.startswith(("apprise", "urllib3"))]
