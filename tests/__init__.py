"""The tests; a package, so that no `tests` of another library comes first."""
