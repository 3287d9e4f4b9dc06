"""Text as people read it: its sentences and cue words, and the tokens that contain them. Pure Python."""
