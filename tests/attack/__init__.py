"""Attacks on the middleware: races, leaks, disconnects and hostile input, by direct calls and on real servers."""
