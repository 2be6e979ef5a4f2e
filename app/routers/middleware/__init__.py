"""Middleware

Code around every request and every socket: the order, and what each layer may do.
"""
