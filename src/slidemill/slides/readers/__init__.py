"""Readers: one small interface, a module for each library behind it."""
