"""Texts of others, without what would steer a terminal, a log or a reader's eye."""


def printable(text: str) -> str:
    """The same text, with a sign in place of what nobody sees: escapes, marks of direction."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def one_line(value: object, longest: int) -> str:
    """Any value as one line of printable text, cut at so many characters."""
    line = printable(" ".join(str(value).split()))
    return line if len(line) <= longest else f"{line[: longest - 1]}…"
