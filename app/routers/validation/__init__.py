"""Validation

What enters the service: which input is refused, and how the refusal reads.
"""
