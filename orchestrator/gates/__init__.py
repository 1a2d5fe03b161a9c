"""Bounds that are set beforehand, and what is compared with them: guards of a run, promotion, gates of a pipeline."""
