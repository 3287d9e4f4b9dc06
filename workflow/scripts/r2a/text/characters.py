"""Characters that files cannot hold."""


def whole_text(text: str) -> str:
    """The text with U+FFFD in place of NUL and of a half of a surrogate pair; two halves that fit are one."""
    if "\0" not in text and (text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)):
        return text
    return text.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
