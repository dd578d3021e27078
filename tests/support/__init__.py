"""Shared by the tests: real peers as context managers."""
