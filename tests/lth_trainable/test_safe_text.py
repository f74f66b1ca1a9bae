"""Texts of others are shown without anything that acts on a terminal, hides, or is secret."""

from __future__ import annotations

import pytest

from lth_trainable.errors import UserError, command_line, refuse_secrets
from lth_trainable.safe_text import one_line, printable, without_secrets

TEXTS = {
    "plain, with ümlauts and 日本": "plain, with ümlauts and 日本",
    "\x1b[31mred\x1b[0m": "red",
    "\x1b[2J\x1b[1;1Hover": "over",
    "\x1b]8;;http://evil\x1b\\click\x1b]8;;\x1b\\": "click",
    "\x1b]52;c;cm0gLXJm\x07copied": "copied",
    "\x1b]0;title\x9crest": "rest",
    "\x9b31mred": "red",
    "\x9d52;c;x\x07y": "y",
    "\x1bPdevice\x1b\\x": "x",
    "\x1bcreset": "\\x1bcreset",
    "\x1b]52;never ended": "\\x1b]52;never ended",
    "all is well\roverwritten": "all is well\\x0doverwritten",
    "back\x08\x08space\x07": "back\\x08\\x08space\\x07",
    "\u202egnp.exe": "\\u202egnp.exe",
    "zero\u200bwidth\ufeff": "zero\\u200bwidth\\ufeff",
    "tag\U000e0041": "tag\\U000e0041",
    "half \udc80": "half \\udc80",
    "line\u2028separator": "line\\u2028separator",
    "\x00": "\\x00",
}


@pytest.mark.parametrize(("text", "shown"), TEXTS.items())
def test_what_is_shown_of_a_text(text: str, shown: str) -> None:
    assert printable(text) == shown == one_line(text)
    assert printable(shown) == shown


def test_lines_stay_lines_or_become_one() -> None:
    assert printable("a\r\n\tb\n") == "a\n\tb\n"
    assert one_line("a\r\n\tb\n") == "a b"


def test_the_error_of_a_command_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> int:
        raise UserError("plan: found \x1b]52;c;eA==\x07'a\nb'; expected s3://key:secret@bucket")

    assert command_line(command) == 2
    assert capsys.readouterr().err == "error: plan: found 'a b'; expected s3://***@bucket\n"


SECRETS = [
    "s3://KEY:hunter2@bucket/runs", "s3://KEY@bucket", "s3://KEY:hun/ter2@bucket/runs", "s3://KEY:hunter2",
    "s3:/KEY:hunter2@bucket", "--storage=s3://KEY:hunter2@bucket", "s3://KEY%3Ahunter2%40bucket",
    "s3://bucket/runs?access_key=hunter2&region=x", "s3://bucket?Secret_Key=hunter2", "s3://bucket?session_token=hunter2",
    "s3://bucket?secret%5Fkey=hunter2", "s3://bucket?endpoint_override=u:hunter2@host:9000", "gs://u:hunter2@bucket",
    "http://u:hunter2@proxy:3128", "https://host/x?X-Amz-Signature=hunter2", "postgresql+psycopg2://u:hunter2@host/db",
]  # fmt: skip


@pytest.mark.parametrize("text", SECRETS)
def test_credentials_are_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(UserError, match=r"found credentials in a URI; expected .*put them into ") as caught:
        refuse_secrets("storage", text)
    for shown in (str(caught.value), without_secrets(f"failed: {text}"), printable(f"failed: {text}")):
        assert not any(secret in shown for secret in ("hunter2", "ter2", "KEY:", "//KEY"))


@pytest.mark.parametrize(
    "text",
    [
        "runs/digits", "s3://bucket/a@b/c", "s3://bucket/runs?endpoint_override=127.0.0.1:9000&scheme=http&region=x",
        "gs://bucket/100%/x", "http://head:8265", "ray://head:10001", "ssh://git@host/x",
        "file:///home/a@b/c",
        "C:/a@b",
        "abfs://container@account.dfs.core.windows.net/x", "hdfs://user@host:8020/x", "sqlite:///x.db", "my_module:f",
    ],
)  # fmt: skip
def test_what_is_no_secret_stays(text: str) -> None:
    refuse_secrets("storage", text)
    assert printable(text) == text
