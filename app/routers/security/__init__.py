"""Security

Who calls, what they may do, and how a browser is kept from doing it for somebody else.
"""
