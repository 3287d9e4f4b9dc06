"""Characters that files cannot hold."""


def whole_text(text: str) -> str:
    """The text with NUL and half surrogate pairs replaced by U+FFFD; two matching halves are joined."""
    if "\0" not in text and (text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)):
        return text
    return text.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
