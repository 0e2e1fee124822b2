"""Names of any bytes, as one line of printable text.

A file name may hold everything but NUL and "/": bytes that are not UTF-8, line breaks, codes that
move a terminal's cursor or turn the direction of writing.
"""

_SHORT = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def printable(name: str) -> str:
    r"""A name as one line from which it can be told again.

    A backslash is doubled; line breaks and tabs are \n, \r, \t; other characters below 128 that do
    not print, and bytes that are not UTF-8, are \x and two digits; others that do not print are \u
    and four digits or \U and eight. Everything else stays, so usual names are unchanged.

    Args:
      name: text, with `os.fsdecode`'s surrogates for bytes that are not UTF-8.
    """
    if name.isprintable() and "\\" not in name:
        return name
    return "".join(_SHORT.get(x) or (x if x.isprintable() else _escape(x)) for x in name)


def one_line(message: str) -> str:
    """A message, which may quote names in any way, without what does not print."""
    if message.isprintable():
        return message
    return "".join(x if x.isprintable() else _SHORT.get(x) or _escape(x) for x in message)


def for_terminal(text: str) -> str:
    """The same for a text whose line breaks and tabs are meant."""
    return "".join(x if x in "\n\t" or x.isprintable() else _escape(x) for x in text)


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # os.fsdecode's, for the byte
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
