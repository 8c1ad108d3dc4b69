"""HTML that cannot be broken out of: text is escaped where it becomes part of a tag."""

import html

VOID = ("img", "meta")  # elements without an end


class Markup(str):
    """HTML; any other string is text."""


def tag(_name: str, *inside: str, **attributes: str | float | bool) -> Markup:
    """An element, of parts that are escaped unless they are Markup.

    Args:
        inside: Its parts.
        attributes: Under their names, with `_` for `-`; `class_` is `class`. True stands alone, False is left out.
    """
    words = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{html.escape(str(value))}"')
        for key, value in attributes.items()
        if value is not False
    )
    text = "".join(part if isinstance(part, Markup) else html.escape(part) for part in inside)
    return Markup(f"<{_name}{words}>" if _name in VOID else f"<{_name}{words}>{text}</{_name}>")
