"""Composition

What the document tells those who generate code from it, and how apps are put together from apps.
"""
