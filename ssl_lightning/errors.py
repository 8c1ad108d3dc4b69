"""What a user is told when a command cannot be carried out: one or two lines, with the nearest right name."""

import argparse
import difflib
import importlib
import re
import traceback
from collections.abc import Iterable
from typing import Any, NoReturn

from jsonargparse import ArgumentParser
from lightning.pytorch import Callback
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from datamodules.data import Data
from datamodules.views import Views
from ssl_lightning.base import SSLModule

# The last part of a setting's name -> what may stand there.
BASES = {"model": SSLModule, "data": Data, "views": Views, "callbacks": Callback, "logger": Logger}
WRONG_INPUT = (ValueError, OSError, FloatingPointError, ModuleNotFoundError, MisconfigurationException)
OURS = ("ssl_lightning", "datamodules", "callbacks")


class UserError(ValueError):
    """A command that cannot be carried out as it was given."""


class Words(argparse.ArgumentParser):
    """Parses options without printing its usage or exiting."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


class ParseError(Exception):
    """What jsonargparse says of a command, in its own words."""


class Parser(LightningArgumentParser):
    """Raises ParseError where jsonargparse would print its usage and exit, and takes no abbreviations."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "allow_abbrev": False})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # a parser within a parser: the outer one reports
            super().error(message, ex)
        raise ParseError(message) from ex


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """`` Did you mean X?`` or nothing."""
    names = {name.lower(): name for name in known}
    tries = (wrong.lower(), wrong.lower().split(".")[0])  # modle.class_path: the first part
    near = [match for word in tries for match in difflib.get_close_matches(word, names, n=1)]
    return f" Did you mean {names[near[0]]}?" if near else ""


def subclasses(base: type) -> list[str]:
    """Names of our own and the user's classes that extend ``base``, neither abstract nor private."""
    found: set[str] = set()
    pending: list[type] = base.__subclasses__()
    while pending:
        cls = pending.pop()
        pending += cls.__subclasses__()
        hidden = cls.__name__.startswith("_") or getattr(cls, "__abstractmethods__", None)
        inner = cls.__module__.startswith("ssl_lightning.") and not cls.__module__.startswith("ssl_lightning.methods.")
        if not hidden and not inner:
            found.add(cls.__name__)
    return sorted(found)


def import_class(path: str) -> Any:
    """The class at a dotted path."""
    module, name = path.rsplit(".", 1)
    return getattr(importlib.import_module(module), name)


def arguments(class_path: str) -> list[str]:
    """Names of the arguments of a class, those that it hands on to its parents too."""
    parser = ArgumentParser(exit_on_error=False)
    return parser.add_class_arguments(import_class(class_path), fail_untyped=False)


def missing(message: str) -> list[str]:
    """Names of required arguments that jsonargparse finds missing."""
    found = re.search(r"the following arguments are required: ([\w., ]+)", message)
    names = found[1].split(", ") if found else re.findall(r'Key "([\w.]+)" is required', message)
    return [name.split(".")[-1] for name in names]


def explain(message: str, parser: ArgumentParser, verb: str) -> str:
    """One or two lines for a message of jsonargparse (those of 4.41 and 4.53 are known).

    Args:
        message: Its words.
        parser: That of the verb.
        verb: Such as fit.
    """
    place = ".".join(re.findall(r'Parser key "([\w.\[\]]+)"', message)).removeprefix(f"{verb}.")
    classes = re.findall(r"Problem with given class_path '([\w.]+)'", message)
    path = classes[-1] if classes else ""
    name = path.split(".")[-1]
    settings = [action.dest for action in parser._actions]

    if found := re.search(r"(?i)unrecognized arguments: (\S+)", message):
        option = found[1].split("=")[0]
        if not option.startswith("-"):
            return f"{option!r} belongs to no option: an option takes one value, lists are written [1,2]"
        return f"no option {option}.{did_you_mean(option, [f'--{s}' for s in settings])}"
    if found := re.search(r"Multiple subclasses with name [^\n]+", message):
        return found[0]
    if names := re.findall(r"Expected a dot import path string: (\S+)", message):
        base = BASES.get(re.sub(r"\[.*|\+", "", place).split(".")[-1])
        known = subclasses(base) if base else []
        listed = f" Known: {', '.join(known)}" if base in (SSLModule, Data, Views) else ""
        return f"unknown class {names[-1]!r}.{did_you_mean(names[-1], known)}{listed}"
    if names := re.findall(r"(?:Option|Key) '([\w.]+)' is not (?:accepted|expected)", message):
        if not path:
            return f"{verb} has no setting {names[-1]!r}.{did_you_mean(names[-1], settings)}"
        near = did_you_mean(names[-1], arguments(path))
        return f"{name} has no argument {names[-1]!r}.{near or f' See: ssl-lightning {verb} --{place}.help {name}'}"
    if pairs := re.findall(r"(?:Group|Subcommand) '(\w+)' does not accept \w+(?: \w+)? '([\w.]+)'", message):
        group, key = pairs[-1]
        known = [s.removeprefix(f"{group}.") for s in settings]
        return f"{group} has no argument {key!r}.{did_you_mean(key, known)}"
    if names := missing(message):
        return f"{name or verb} needs {names[0]}: give --{place or 'model'}.{names[0]}"
    if names := re.findall(r"Import path .*?does not correspond to a subclass of (\w+)", message):
        base_name, wrong = names[-1], re.findall(r"Given value: (\S+)|Import path (\S+) does", message)[-1]
        wrong = wrong[0] or wrong[1]
        foreign = any(c.__module__.startswith("pytorch_lightning.") for c in import_class(wrong).__mro__)
        why = ": it extends pytorch_lightning, where lightning.pytorch is needed" if foreign else ""
        return f"{wrong} does not extend {base_name}{why}"
    if names := re.findall(r"No module named '\S+'|cannot import name [^\n]+|has no attribute '\S+'", message):
        return f"cannot import {path or place}: {names[-1]}"
    if pairs := re.findall(r"Expected (?:a |an )?([^\n]*?)\.? Got value: ([^\n]*)", message):
        kind = re.sub(r"<class '(?:\w+\.)*(\w+)'>|typing\.", r"\1", pairs[0][0])
        kind = re.sub(r"Literal\[([^]]+)\]", r"one of \1", kind)
        return f"--{place} takes {kind}, got {pairs[0][1]!r}"
    noise = "Does not validate|Subtypes:|Errors:|Given value|Expected a <class 'NoneType'>|Expected a path"
    rest = re.sub(r'Parser key "[^"]+":|Problem with given class_path [^\n]+:', "", message)
    lines = [line.strip(" -") for line in rest.splitlines() if line.strip() and not re.search(noise, line)]
    return " ".join([f"--{place}:"] * bool(place) + lines[:2])


def is_users(error: Exception, began: bool) -> bool:
    """Whether an error is about what the user gave rather than a mistake in a program.

    Before the first batch, a wrong value or file is; after it, only what our own code raises on purpose.

    Args:
        error: One of WRONG_INPUT, which ended the command.
        began: Whether the first batch was reached.
    """
    if isinstance(error, UserError | MisconfigurationException):
        return True
    return not began or raised_in(error).split(".")[0] in OURS


def raised_in(error: BaseException) -> str:
    """Name of the module whose code raised the error, in a worker process of a loader too."""
    worker = re.findall(r'^ *File "(.+?)(?:\.py)?", line', str(error), re.MULTILINE)
    if worker and str(error).startswith("Caught "):
        parts = re.split(r"[/\\]", worker[-1])
        return next((".".join(parts[i:]) for i, part in enumerate(parts) if part in OURS), "")
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__", ""))


def words(error: Exception) -> str:
    """The message of an error, without the traceback that a worker process of a loader puts into it."""
    text = str(error)
    if text.startswith("Caught ") and (found := re.findall(r"^[\w.]+: (.+)", text, re.MULTILINE)):
        text = found[-1]
    return text.strip() or type(error).__name__
