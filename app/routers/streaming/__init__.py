"""Streaming

Answers that have no end yet: events and lines, sent as they come to be.
"""
