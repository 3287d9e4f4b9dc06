"""What a study found, for people: a page, a short text, and the index of all studies (docs/report.md)."""
