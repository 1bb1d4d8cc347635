"""``ezthrottle hash-key``: the hash that a config lists for a key. A key is shown only when it was made here."""

from __future__ import annotations

import re
import secrets
import string
import sys
from typing import Final

import click

__all__ = ["command", "read_key"]

_RANDOM_LETTERS: Final = 32  # of 62 kinds: 190 bits
_ALPHABET: Final = string.ascii_letters + string.digits  # one word to a double click, and to every shell
_LONGEST_PREFIX: Final = 32
_UNUSABLE: Final = re.compile(rb"[\x00-\x1f\x7f]")


# An unknown option may be a key that begins with a dash: click would quote it in its message.
@click.command(
    "hash-key", short_help="The hash to list for an API key.", context_settings={"ignore_unknown_options": True}
)
@click.option("--generate", is_flag=True, help="Make a new random key, and print it with its hash.")
@click.option("--prefix", default="", metavar="TEXT", help="What a generated key begins with, such as sk_live_.")
@click.option("--force", is_flag=True, help="Hash a key that looks too weak.")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="")
def command(*, generate: bool, prefix: str, force: bool, words: tuple[str, ...]) -> None:
    """Print the hash of an API key, to list under a customer's key_hashes.

    The key is read from standard input, or asked for without being shown. It is the key alone, without "Bearer ".
    Whoever sees the hash can try keys against it, so a key with less than 128 random bits is refused.

    \b
    Examples:
      ezthrottle hash-key                                asks for the key
      ezthrottle hash-key < key.txt
      ezthrottle hash-key --generate --prefix sk_live_   makes one
    """
    if words:
        raise click.UsageError(
            "hash-key takes no key (and knows no such option) on the command line: other users of this machine see it "
            "in `ps`, and your shell keeps it in its history. If it was a real key, replace it. "
            "Type the key when you are asked for it, or use: ezthrottle hash-key < FILE"
        )
    from ezthrottle_provider.customers import public_hash

    if generate:
        key = _new_key(prefix)
        click.echo(f"key   {key}\nhash  {public_hash(key.encode())}")
        click.echo("The key is not kept anywhere: hand it to the customer, and list the hash.", err=True)
        return
    if prefix:
        raise click.UsageError("--prefix is for --generate.")
    raw = read_key()
    if not force:
        _refuse_weak(raw)
    click.echo(public_hash(raw))


def _new_key(prefix: str) -> str:
    # Neither message quotes the prefix: somebody may have passed a key.
    if len(prefix) > _LONGEST_PREFIX or not re.fullmatch(r"[A-Za-z0-9_-]*", prefix):
        message = f"must be at most {_LONGEST_PREFIX} letters, digits, dashes or underscores"
        raise click.BadParameter(message, param_hint="--prefix")
    return prefix + "".join(secrets.choice(_ALPHABET) for _ in range(_RANDOM_LETTERS))


def read_key() -> bytes:
    """The one key that was typed or piped in, as a header would carry it."""
    from ezthrottle_provider.customers import MAX_KEY_LENGTH

    if sys.stdin.isatty():
        typed: str = click.prompt("Key (not shown)", hide_input=True, err=True)
        raw = typed.encode("utf-8", "surrogateescape")
    else:
        raw = sys.stdin.buffer.read(MAX_KEY_LENGTH + 3)  # a line's end, and one byte too many
    raw = raw.strip(b" \t\r\n")
    if not raw:
        raise click.UsageError("there is no key on standard input.")
    if raw[:7].lower() == b"bearer ":
        raise click.UsageError('give the key alone, without "Bearer ".')
    if len(raw) > MAX_KEY_LENGTH:
        raise click.UsageError(f"the key is longer than {MAX_KEY_LENGTH} bytes: no request with it would be accepted.")
    if _UNUSABLE.search(raw):
        raise click.UsageError("the input is more than one line, or holds characters that no header can carry.")
    return raw


def _refuse_weak(raw: bytes) -> None:
    from ezthrottle_provider.customers import check_key_strength

    try:
        check_key_strength(raw)
    except ValueError as error:
        raise click.ClickException(f"{error}. --generate makes a strong key; --force hashes this one.") from None
