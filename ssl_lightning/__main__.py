"""The command ``ssl-lightning``: what needs no torch is answered before torch is imported, which takes seconds."""

import difflib
import sys

from ssl_lightning import __version__, help


def fail(message: str) -> None:
    """
    Raises:
        SystemExit: with 2, after the message.
    """
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def main(argv: list[str] | None = None) -> None:
    """Run one command.

    Args:
        argv: The words after the program's name; None: those of this process.

    Raises:
        SystemExit: 2 where the input is wrong, 1 after a crash, 143 and 138 when preempted.
    """
    args = sys.argv[1:] if argv is None else argv
    verb = args[0] if args else "--help"
    if verb in ("-h", "--help", "help"):
        print(help.top_level())
    elif verb == "--version":
        print(f"ssl-lightning {__version__}")
    elif verb == "backbones":
        if len(args) > 2 or (len(args) == 2 and args[1].startswith("-")):
            print("usage: ssl-lightning backbones [PATTERN]     such as: ssl-lightning backbones 'vit*'")
            if args[1] not in ("-h", "--help"):
                raise SystemExit(2)
            return
        try:
            print("\n".join(help.backbones(*args[1:])))
        except ValueError as error:
            fail(str(error))
    elif verb not in help.VERBS:
        near = difflib.get_close_matches(verb, help.VERBS, n=1)
        hint = f"Did you mean {near[0]}? " if near else ""
        fail(f"unknown verb {verb!r}. {hint}Known: {', '.join(help.VERBS)}")
    else:
        from ssl_lightning import cli  # noqa: PLC0415

        cli.run(args)


if __name__ == "__main__":
    main()
