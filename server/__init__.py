"""The coordinator: never sees behaviour, only sealed sums."""
