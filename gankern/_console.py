"""What commands print: results on standard output, everything else on standard error; and how they end."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import sys
from collections.abc import Callable
from typing import TextIO


class OutputError(Exception):
    """Standard output took no more: its reader left (a broken pipe), or its disk is full.

    Attributes:
        reason: the OSError behind it.
    """

    def __init__(self, reason: OSError) -> None:
        super().__init__(str(reason))
        self.reason = reason


def show(text: str) -> None:
    """Prints a part of the result.

    Raises:
        OutputError: it could not be written.
    """
    try:
        print(text, flush=True)
    except OSError as error:
        raise OutputError(error) from None


def say(text: str) -> None:
    """Prints a message for a person; where nobody reads any more, the work goes on without."""
    if sys.stderr is None:  # closed from the start
        return
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        silence(sys.stderr)


def silence(stream: TextIO) -> None:
    """Lets a stream that cannot be written take everything and drop it, also what Python flushes at its end."""
    with contextlib.suppress(OSError, ValueError):  # it may be no file
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def fail(command: str, message: str, code: int) -> int:
    """Says in one line what went wrong; returns the exit code."""
    say(f"{command}: error: {' '.join(message.split())}")
    return code


def add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    summary: str,
    description: str,
    epilog: str,
) -> argparse.ArgumentParser:
    """A command of `gankern`, whose help keeps its line breaks and whose options are written out."""
    return commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def positive(text: str) -> int:
    """An option's value that counts something."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, got {text}")
    return int(text)


def guard(command: str, body: Callable[[], int]) -> int:
    """Runs a command's body; returns its exit code: as the shell has it, 130 for Ctrl-C, 141 for a reader who left."""
    try:
        try:
            return body()
        finally:
            if sys.stdout is not None:
                show_rest()
    except OutputError as error:
        silence(sys.stdout)
        if error.reason.errno == errno.EPIPE:
            return 141
        return fail(command, f"standard output: {error.reason.strerror or error.reason}", 1)
    except KeyboardInterrupt:
        say(f"{command}: interrupted")
        return 130


def show_rest() -> None:
    """Flushes what others have printed.

    Raises:
        OutputError: it could not be written.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        raise OutputError(error) from None
