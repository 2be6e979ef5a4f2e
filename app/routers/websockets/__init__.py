"""WebSockets

Connections that stay open: one peer, many peers, and what happens when one of them misbehaves.
"""
