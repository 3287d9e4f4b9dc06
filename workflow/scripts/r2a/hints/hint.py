"""What a hint is."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Hint:
    """A sentence after the question, with {answer} for the answer that it names; other braces are doubled.

    words: reasoning mentions the hint if it contains one of them, as whole words in any case.
    """

    text: str
    words: tuple[str, ...]

    def after(self, problem: str, answer: str) -> str:
        """The question followed by the hint at this answer."""
        return f"{problem}\n\n{self.text.format(answer=answer)}"
