"""The command ``ssl-lightning``: what needs no torch is answered before torch is imported, which takes seconds."""

import argparse
import difflib
import sys

from ssl_lightning import __version__, help

BACKBONES = "parameters: at 224 px, without a classifier. Every other name of torchvision and timm works too."


def fail(message: str) -> None:
    """
    Raises:
        SystemExit: with 2, after the message.
    """
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def list_backbones(words: list[str]) -> None:
    """
    Raises:
        SystemExit: 0 after its help, 2 where the words are wrong.
    """
    parser = argparse.ArgumentParser("ssl-lightning backbones", allow_abbrev=False, epilog=BACKBONES)
    parser.add_argument("pattern", nargs="?", default="", help="part of a name; * and ? match any: 'vit*'")
    parser.add_argument("--image_size", type=int, default=224, help="side of the images in pixels (%(default)s)")
    args = parser.parse_args(words)
    try:
        print("\n".join(help.backbones(args.pattern, args.image_size)))
    except ValueError as error:
        fail(str(error))


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
        list_backbones(args[1:])
    elif verb not in help.VERBS:
        near = difflib.get_close_matches(verb, help.VERBS, n=1)
        hint = f"Did you mean {near[0]}? " if near else ""
        fail(f"unknown verb {verb!r}. {hint}Known: {', '.join(help.VERBS)}")
    else:
        from ssl_lightning import cli  # noqa: PLC0415

        cli.run(args)


if __name__ == "__main__":
    main()
