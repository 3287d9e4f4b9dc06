"""What a hint is."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Hint:
    """A sentence that is put after the question, with {answer} where it names one; braces of its own are doubled.

    words: a reasoning that holds one of them, as whole words in either case, tells of the hint.
    """

    text: str
    words: tuple[str, ...]

    def after(self, problem: str, answer: str) -> str:
        """The question with the hint at this answer."""
        return f"{problem}\n\n{self.text.format(answer=answer)}"
