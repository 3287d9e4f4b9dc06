"""The summary of a study's results: a page, a short text, and the index of all studies (docs/report.md)."""
