"""Reasoning formats: what opens and closes a model's reasoning, and how its template is asked to think (METHOD 1)."""

from r2a.formats.registry import DEFAULT, FORMATS, Asked, FormatError, ReasoningFormat, choose_format, read_format

__all__ = ["DEFAULT", "FORMATS", "Asked", "FormatError", "ReasoningFormat", "choose_format", "read_format"]
